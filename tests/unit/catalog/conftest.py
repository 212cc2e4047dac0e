"""Servers on this machine that answer as odd as a test wants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chutes_opencode.catalog import lookup
from chutes_opencode.loopback import serve
from tests.patience import WAIT_SECONDS
from tests.unit.catalog.odd_server import Answer, OddServer
from tests.unit.catalog.stage import Stage


@pytest.fixture(scope="session")
def _running() -> Iterator[Callable[[int], OddServer]]:
    """Servers that are used again by the next test: stopping one takes a while."""
    with ExitStack() as stack:
        servers: list[OddServer] = []

        def running(number: int) -> OddServer:
            if number == len(servers):
                servers.append(OddServer([]))
                servers[number].url = stack.enter_context(serve(servers[number])).url
            return servers[number]

        yield running


@pytest.fixture
def odd_server(_running: Callable[[int], OddServer]) -> Callable[..., OddServer]:
    """Get servers that give these answers."""
    numbers = itertools.count()

    def start(*answers: Answer) -> OddServer:
        server = _running(next(numbers))
        server.answers, server.asked = list(answers), []
        return server

    return start


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A home that nobody, not even root, can make a folder in."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "home"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A provider and a home; look-ups wait for it as long as it takes."""
    monkeypatch.setattr(lookup, "HOLD_SECONDS", WAIT_SECONDS)
    monkeypatch.setattr(lookup, "HOLD_EMPTY_SECONDS", WAIT_SECONDS)
    return Stage(tmp_path)
