"""Fixtures of the relay's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from chutes_opencode.relay.server import Relay
from tests.unit.relay.stage import Answer, Stage, set_up


@pytest.fixture(scope="session")
def relay() -> Iterator[Relay]:
    """A relay that the tests share: their providers, and so their accounts, differ."""
    with Relay() as relay:
        yield relay


@pytest.fixture
def stage(relay: Relay) -> Iterator[Callable[..., Stage]]:
    """Makes a stage whose provider gives these answers in turn."""
    with ExitStack() as stack:

        def make(*answers: Answer) -> Stage:
            return set_up(stack, relay, *answers)

        yield make
