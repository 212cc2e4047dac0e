"""Carry events from the relay's thread to the event loop of those who wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from chutes_opencode.engines.base import Observe
from chutes_opencode.events import Event

_log = logging.getLogger(__name__)


class Post:
    """Carries what the relay's loop tells to the event loop of those who wait for it.

    Waking a loop up costs more than an event does, so it is done once for all that the relay's has
    told in one turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry to `loop`."""
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._due = False

    def send(self, observe: Observe, event: Event) -> None:
        """Have `observe` told of an event soon; from within any event loop."""
        self.call(lambda: tell_safely(observe, event))

    def call(self, told: Callable[[], object]) -> None:
        """Have `told` called soon, in its turn; from within any event loop."""
        self._calls.append(told)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._wake)

    def deliver(self) -> None:
        """Tell all that has come; on the loop's own thread."""
        while self._calls:
            self._calls.popleft()()

    def _wake(self) -> None:
        self._due = False  # first: what comes from here on asks for the next delivery
        self.loop.call_soon_threadsafe(self.deliver)


def tell_safely(observe: Observe, event: Event) -> None:
    """Tell an observer; its faults are its own, not those of whoever is told next."""
    try:
        observe(event)
    except Exception:  # noqa: BLE001 - the caller's own function
        _log.exception("an observer failed on %s", type(event).__name__)
