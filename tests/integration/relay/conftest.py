"""The relay before the simulator; no opencode is needed here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from chutes_opencode import Simulator

DESCRIPTORS = "/dev/fd"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread or an open file or socket."""
    threads, files = set(threading.enumerate()), _open_files()
    yield
    ours = [thread for thread in threading.enumerate() if "loopback" in thread.name]
    assert set(ours) <= threads
    assert _open_files() <= files


def _open_files() -> int:
    return len(os.listdir(DESCRIPTORS))  # noqa: PTH208 - names are enough


@pytest.fixture
def start_simulator() -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with a scenario."""
    with ExitStack() as stack:

        def start(scenario: Any = None) -> Simulator:
            return stack.enter_context(Simulator(scenario))

        yield start
