"""A relay for all tests of a module, and a stage for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.server import Relay
from tests.unit.engines.direct.stage import MakePlay, Play
from tests.unit.relay.stage import (
    Answer,
    Provider,
)


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def play(relay: Relay) -> Iterator[MakePlay]:
    with ExitStack() as stack:

        def make(*answers: Answer, relay: Relay = relay) -> Play:
            provider = stack.enter_context(Provider(*answers))
            target = Target(find_provider("chutes"), provider.base_url)
            return Play(provider, DirectEngine(lambda: target, lambda: relay))

        yield make
