"""The attempt's clock: it begins with the first permit, for a queue is nobody's fault."""

from __future__ import annotations

import asyncio


class AttemptClock:
    """A timeout that moves while the relay holds the attempt back."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        """Take over a timeout that was just entered.

        Args:
            timeout: It.
            seconds: What the attempt may take.
        """
        self._timeout = timeout
        self._seconds = seconds
        self._begun = asyncio.get_running_loop().time()
        self._queued_s: float | None = 0.0

    def wait_with(self, queued_s: float | None) -> None:
        """Move the end by the wait so far; None: it goes on.

        Args:
            queued_s: As `Wire.queued_s` tells it.
        """
        settled = queued_s is not None and queued_s == self._queued_s
        if settled or self._timeout.expired():
            return
        self._queued_s = queued_s
        waits = queued_s is None
        begin = asyncio.get_running_loop().time() if waits else self._begun + (queued_s or 0.0)
        self._timeout.reschedule(begin + self._seconds)
