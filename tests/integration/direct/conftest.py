"""A stage for each test, and a look at what it leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from chutes_opencode import (
    Simulator,
)
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.server import Relay
from tests.integration.direct.stage import DESCRIPTORS, MakeStage, Stage


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread or an open file or socket; no opencode is needed here."""
    threads, files = set(threading.enumerate()), _open_files()
    yield
    ours = [thread for thread in threading.enumerate() if "loopback" in thread.name]
    assert set(ours) <= threads
    assert _open_files() <= files


def _open_files() -> int:
    return len(os.listdir(DESCRIPTORS))  # noqa: PTH208 - names are enough


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Makes a stage whose simulator plays a scenario."""
    with ExitStack() as stack:

        def make(scenario: Any = None) -> Stage:
            simulator = stack.enter_context(Simulator(scenario))
            relay = stack.enter_context(Relay())
            model = Model("sim/echo", max_output_length=1000)
            target = Target(find_provider("chutes"), simulator.base_url, (model,))
            return Stage(simulator, relay, DirectEngine(lambda: target, lambda: relay))

        yield make


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()
