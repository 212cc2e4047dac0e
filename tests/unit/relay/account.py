"""An account with limits, as the simulator plays it, and prompts that use it through a limiter."""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from chutes_opencode.relay.limiter import Limiter, Outcome
from tests.unit.relay.virtual_time import clock

MINUTE = 60.0
RETRIES = 3


@dataclass
class Account:
    """A provider account; its fields may be changed while it is used.

    `per_minute` counts what came in any 60 s, refusals for want of a place included, as the
    simulator does; `hints` tells with a 429 when there is room again.
    """

    at_once: float = 4
    per_minute: float = 60
    service_s: Callable[[], float] = lambda: 1.0
    way_s: Callable[[], float] = lambda: 0.005
    hints: bool = False
    refuse_all: bool = False
    requests: int = 0
    refused: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    most_at_once: int = 0
    _in_flight: int = 0
    _times: deque[float] = field(default_factory=deque)

    async def ask(self, accepted: Callable[[], None]) -> tuple[Outcome, float | None]:
        """Send one request; return how it ended and the time of a hint."""
        self.requests += 1
        await asyncio.sleep(self.way_s())
        outcome, hint = self._admit()
        await asyncio.sleep(self.way_s())
        self.refused[outcome] += 1
        if outcome is not Outcome.OK:
            return outcome, hint
        accepted()
        await asyncio.sleep(self.service_s())
        self._in_flight -= 1
        return outcome, None

    def _admit(self) -> tuple[Outcome, float | None]:
        now = clock()
        while self._times and self._times[0] <= now - MINUTE:
            self._times.popleft()
        if self.refuse_all or len(self._times) >= self.per_minute:
            hint = self._times[0] + MINUTE if self.hints and self._times else None
            return Outcome.RATE_LIMITED, hint
        self._times.append(now)
        if self._in_flight >= self.at_once:
            return Outcome.CAPACITY, None
        self._in_flight += 1
        self.most_at_once = max(self.most_at_once, self._in_flight)
        return Outcome.OK, None


class RefusedError(Exception):
    """A prompt's attempts are used up."""


async def prompt(limiter: Limiter, account: Account) -> float:
    """Ask once, as the relay does; return the seconds that it took."""
    began, attempts = clock(), 0
    while attempts < RETRIES:
        permit = await limiter.acquire(priority=attempts > 0)
        outcome, hint = await account.ask(permit.accepted)
        permit.release(outcome, pause_until=hint)
        if outcome is Outcome.OK:
            return clock() - began
        attempts += not await permit.is_collateral()
    raise RefusedError(outcome.value)


@dataclass(frozen=True)
class Storm:
    """What came of many prompts at once."""

    waits: list[float]
    failed: int
    requests: int

    @property
    def longest(self) -> float:
        return max(self.waits)

    @property
    def median(self) -> float:
        return statistics.median(self.waits)


async def storm(limiter: Limiter, account: Account, prompts: int) -> Storm:
    """Ask `prompts` times at once."""
    work = [prompt(limiter, account) for _ in range(prompts)]
    results = await asyncio.gather(*work, return_exceptions=True)
    waits = [result for result in results if isinstance(result, float)]
    assert all(isinstance(result, float | RefusedError) for result in results)
    return Storm(waits, len(results) - len(waits), account.requests)


def time_allowed(prompts: int, account: Account) -> float:
    """Seconds that the limits allow: each prompt as early as a place and the minute let it."""
    service_s = account.service_s() + 2 * account.way_s()
    starts: list[float] = []
    for number in range(prompts):
        place = (
            starts[number - int(account.at_once)] + service_s if number >= account.at_once else 0
        )
        minute = starts[-int(account.per_minute)] + MINUTE if number >= account.per_minute else 0
        starts.append(max(place, minute))
    return starts[-1] + service_s
