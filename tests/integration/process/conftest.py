"""A folder and a mark for a test's processes; no opencode is needed here."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chutes_opencode import supervisor
from tests.integration.process.stage import running


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves us a child; the check it replaces, one folder up, needs opencode."""
    before = supervisor.children_of(os.getpid())
    yield
    assert set(supervisor.children_of(os.getpid())) <= set(before)


@pytest.fixture
def tag() -> Iterator[str]:
    """An argument that marks a test's processes; it also is a long time to sleep."""
    value = f"600.{random.randrange(10**12):012d}"
    yield value
    left = running(value)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path
