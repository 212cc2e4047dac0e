"""Who may send when: the queue in front of a provider account.

A running prompt's next step and whatever is sent again (priority) go before new prompts; first
come, first served among each (`waiters.py`). How many may go at once, how many in a minute, and
when the account is paused, `flow.py` learns from the answers. Waiters are woken by answers and by
one timer; nothing polls. A limiter belongs to one event loop and is called there only (`stats`
from anywhere).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chutes_opencode.relay.flow import Flow, Outcome, Pace, Sent
from chutes_opencode.relay.waiters import Waiters

__all__ = [
    "AdaptiveLimiter",
    "Limiter",
    "LimiterFactory",
    "LimiterStats",
    "Outcome",
    "Pace",
    "Permit",
]


@dataclass(frozen=True, slots=True)
class LimiterStats:
    """What a limiter knows now.

    Attributes:
        limit: Requests that may be in flight.
        in_flight: Requests that are.
        waiting: Requests that wait for a permit.
        paused_until: Monotonic time at which a probe may go; a time that has passed: it is on its
            way. None: not paused.
        ceiling: Requests in a minute, configured or learnt; None: no bound.
        permits: Permits given so far.
        rate_limited: Refusals for the rate so far.
        capacity: Refusals for want of capacity so far.
        refused_in_a_row: Refusals that were not collateral since the server last took a request.
    """

    limit: int
    in_flight: int
    waiting: int
    paused_until: float | None
    ceiling: int | None
    permits: int
    rate_limited: int
    capacity: int
    refused_in_a_row: int


class Permit(Protocol):
    """The right to send one request; to be released once (a second time does nothing)."""

    def accepted(self) -> None:
        """Tell, as soon as its status has come, that the server took the request.

        So what waits behind a probe need not wait for the end of its stream; `release` with
        `Outcome.OK` tells it too.
        """

    def release(self, outcome: Outcome, *, pause_until: float | None = None) -> None:
        """Tell how the request ended.

        Args:
            outcome: How.
            pause_until: Monotonic time until which the server asked to wait (with RATE_LIMITED
                or CAPACITY); None, or a time that has passed: it did not tell.
        """

    async def is_collateral(self) -> bool:
        """Tell, after the release, whether a refusal was collateral.

        Then the request is to be queued again (priority), without counting an attempt of its
        prompt. False for anything but a refusal. Who shares an account with other machines may
        have to wait for the answer.
        """


class Limiter(Protocol):
    """Decides when a request of one provider account may be sent."""

    async def acquire(
        self,
        *,
        priority: bool = False,
        deadline: float | None = None,
        patience: float = math.inf,
    ) -> Permit:
        """Wait for a permit; cancelling the wait loses none.

        Args:
            priority: A running prompt's next step, or a request that is sent again.
            deadline: Monotonic time at which waiting ends; None: it does not.
            patience: Seconds of waiting, without any request of the account getting through, after
                which a further refusal ends the wait.

        Raises:
            TimeoutError: The deadline came, or comes before the end of the present pause; or
                nothing got through for too long.
        """

    def stats(self) -> LimiterStats:
        """Tell what it knows; from any thread."""


LimiterFactory = Callable[[str], Limiter]
"""Makes the limiter of an account; takes an opaque name of the account that holds no key."""


class AdaptiveLimiter:
    """The limiter of one account in one process."""

    def __init__(
        self,
        pace: Pace | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random01: Callable[[], float] = random.random,
    ) -> None:
        """Start with nothing learnt.

        Args:
            pace: What to start from; None: the defaults.
            clock: Seconds, as `deadline` and `pause_until` count them.
            random01: Random numbers from 0 to 1, for the jitter of pauses.
        """
        self._flow = Flow(pace or Pace(), random01)
        self._clock = clock
        self._waiters: Waiters[_AdaptivePermit] = Waiters(clock)
        self._timer: asyncio.TimerHandle | None = None
        self._last_taken = -math.inf

    async def acquire(
        self,
        *,
        priority: bool = False,
        deadline: float | None = None,
        patience: float = math.inf,
    ) -> Permit:
        """Wait for a permit; see `Limiter.acquire`."""
        return await self._waiters.wait(
            self._admit,
            priority=priority,
            deadline=deadline,
            patience=patience,
            paused_until=self._flow.paused_until,
        )

    def stats(self) -> LimiterStats:
        """Tell what it knows; from any thread."""
        flow = self._flow
        return LimiterStats(
            limit=int(flow.flights.value),
            in_flight=flow.in_flight,
            waiting=len(self._waiters),
            paused_until=flow.paused_until,
            ceiling=None if math.isinf(flow.minute.value) else int(flow.minute.value),
            permits=flow.count,
            rate_limited=flow.refusals[Outcome.RATE_LIMITED],
            capacity=flow.refusals[Outcome.CAPACITY],
            refused_in_a_row=flow.refused_in_a_row,
        )

    def _admit(self) -> None:
        """Give permits as far as it goes now; wake up when time alone allows the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            now = self._clock()
            opens_at = self._flow.opens_at(now)
            if opens_at > now:
                if not math.isinf(opens_at):
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(opens_at - now, self._admit)
                return
            self._waiters.give(self._let_in)

    def _let_in(self) -> _AdaptivePermit:
        return _AdaptivePermit(self, self._flow.let_in(self._clock()))

    def _taken(self, sent: Sent) -> None:
        if not sent.taken:
            self._last_taken = self._clock()
            self._flow.taken(sent, self._last_taken)
            self._admit()

    def _ended(self, sent: Sent, outcome: Outcome, pause_until: float | None) -> bool:
        now = self._clock()
        hint = pause_until if pause_until is not None and pause_until > now else None
        is_wanted = bool(self._waiters)
        collateral = self._flow.ended(sent, outcome, now, hint=hint, is_wanted=is_wanted)
        if outcome in (Outcome.RATE_LIMITED, Outcome.CAPACITY):
            self._waiters.end_patience(self._last_taken)
        self._admit()
        return collateral


class _AdaptivePermit:
    """A permit of an AdaptiveLimiter."""

    __slots__ = ("_collateral", "_is_released", "_limiter", "_sent")

    def __init__(self, limiter: AdaptiveLimiter, sent: Sent) -> None:
        self._limiter = limiter
        self._sent = sent
        self._is_released = False
        self._collateral = False

    def accepted(self) -> None:
        if not self._is_released:
            self._limiter._taken(self._sent)

    def release(self, outcome: Outcome, *, pause_until: float | None = None) -> None:
        if self._is_released:
            return
        if outcome is Outcome.OK:
            self.accepted()
        self._is_released = True
        self._collateral = self._limiter._ended(self._sent, outcome, pause_until)

    async def is_collateral(self) -> bool:
        return self._collateral
