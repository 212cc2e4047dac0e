"""What tests of the scheduler share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running import scheduler
from tests.unit.batch.room import Actor, Build, Room


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a room; to be called where a loop runs."""
    monkeypatch.setattr(scheduler, "TICK_S", 0.005)

    def make(act: Any, given: list[Task], places: int = 4, **fields: Any) -> Room:
        return Room(Actor(act, places), given, tmp_path, **fields)

    return make
