"""No test sees the settings, the files or the opencode of whoever runs it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

OURS = ("CHUTES_", "OPENCODE_", "XDG_")


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests' homes would be, if they made them."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def a_home_of_its_own(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a HOME that nobody else has; it is not made before it is used."""
    for name in tuple(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(homes / uuid.uuid4().hex))
