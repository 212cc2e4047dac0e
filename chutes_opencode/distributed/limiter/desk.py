"""Where the members of a cluster ask for permits: their calls wait here until there are some.

A call waits ("is parked") until there are permits for it, or a refusal that everybody has to know
of, or its member calls again; at the latest for two seconds. So nothing polls, and the calls of a
busy member grow instead of becoming more.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chutes_opencode.distributed.limiter.protocol import (
    PARKED_SECONDS,
    Answer,
    Grant,
    HandOver,
    Report,
)
from chutes_opencode.distributed.limiter.shared_flow import SharedFlow
from chutes_opencode.relay.flow import Pace
from chutes_opencode.relay.lessons import Lessons
from chutes_opencode.relay.limiter import LimiterStats

LESSONS_SECONDS = 1.0
"""How often lessons are told where no refusal has taught anything new.

What was sent after the last ones, the members know themselves.
"""
LOOK_SECONDS = 1.0
"""How often silent members are looked for."""


@dataclass(slots=True, eq=False)
class _Parked:
    """A call that waits.

    Attributes:
        member: Whose.
        answer: What it is answered.
        verdicts: Of its report's refusals.
        ending: Ends the wait.
    """

    member: str
    answer: asyncio.Future[Answer]
    verdicts: tuple[bool, ...]
    ending: asyncio.TimerHandle


class Desk:
    """Serves the members of a cluster for one account; belongs to one event loop."""

    def __init__(
        self,
        pace: Pace | None = None,
        *,
        is_successor: bool = False,
        clock: Callable[[], float] = time.monotonic,
        random01: Callable[[], float] = random.random,
    ) -> None:
        """Start with nothing learnt.

        Args:
            pace: What to start from; None: the defaults.
            is_successor: Whether another desk of the account is known to have died.
            clock: Seconds.
            random01: Random numbers from 0 to 1.
        """
        self.epoch = uuid.uuid4().hex
        self._clock = clock
        self._used_at = clock()
        self._flow = SharedFlow(
            pace or Pace(), random01, now=self._used_at, is_successor=is_successor
        )
        self._parked: dict[str, _Parked] = {}
        self._opening: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._lessons: Lessons | None = None
        self._lessons_at = -math.inf
        self._is_taught = False  # since those lessons
        self._taught_at: dict[str, float] = {}

    # Calls

    async def exchange(self, report: Report) -> Answer:
        """Hear a member; answer with permits or news, at the latest after a while."""
        now = self._begin(report.member)
        is_here = report.epoch == self.epoch
        if is_here and not report.holds and not self._flow.knows(report.member):
            self._flow.join(report, now)
        if not is_here or not self._flow.knows(report.member):
            return Answer(self.epoch, known=False, view=self._flow.view(now))
        verdicts = self._flow.hear(report, now)
        if verdicts:
            self._is_taught = True
            self._tell_all()
        call = self._park(report.member, verdicts)
        self._serve()
        if verdicts or report.refusals < self._flow.view(now).refusals:
            self._finish(report.member)
        elif not self._flow.is_busy(report.member):
            self._finish(report.member)
            self._flow.forget(report.member, now)
            self._taught_at.pop(report.member, None)
        return await call.answer

    async def hand_over(self, told: HandOver) -> Answer:
        """Take a member in, with all that it knows."""
        now = self._begin(told.member)
        self._flow.hand_over(told, now, is_ours=told.epoch == self.epoch)
        self._serve()
        return Answer(self.epoch, known=True, view=self._flow.view(now))

    def forget(self, node: str) -> None:
        """Take back what a node holds that has died."""
        self._flow.forget_node(node, self._clock())
        for member in [name for name in self._parked if not self._flow.knows(name)]:
            self._finish(member, known=False)
        self._serve()

    def stats(self) -> LimiterStats:
        """Tell what is known of the account, and what the cluster does with it."""
        now = self._clock()
        return self._flow.stats(now)

    def held(self) -> dict[str, int]:
        """Tell how many permits each node holds."""
        return self._flow.held()

    def idle_seconds(self) -> float:
        """Tell for how long there has been nobody to serve; 0: there is somebody."""
        return self._clock() - self._used_at if self._flow.is_idle else 0.0

    # Parking

    def _begin(self, member: str) -> float:
        """A member calls: its earlier call need not wait any more."""
        self._used_at = self._clock()
        if member in self._parked:
            self._finish(member)
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(LOOK_SECONDS, self._look)
        return self._used_at

    def _park(self, member: str, verdicts: tuple[bool, ...]) -> _Parked:
        loop = asyncio.get_running_loop()
        ending = loop.call_later(PARKED_SECONDS, self._finish, member)
        call = _Parked(member, loop.create_future(), verdicts, ending)
        self._parked[member] = call
        return call

    def _finish(self, member: str, grants: Iterable[Grant] = (), *, known: bool = True) -> None:
        """Answer the call of a member, if one is parked."""
        call = self._parked.pop(member, None)
        if call is None:
            return
        call.ending.cancel()
        now = self._clock()
        lessons = self._lessons_for(member, now)
        answer = Answer(
            self.epoch,
            known=known,
            view=self._flow.view(now),
            grants=tuple(grants),
            verdicts=call.verdicts,
            lessons=lessons,
            holders=() if lessons is None else self._flow.holders(),
        )
        if not call.answer.done():
            call.answer.set_result(answer)

    def _tell_all(self) -> None:
        """Answer everybody: a refusal may end the patience of those who wait."""
        for member in tuple(self._parked):
            self._finish(member)

    def _lessons_for(self, member: str, now: float) -> Lessons | None:
        if self._is_taught or now - self._lessons_at >= LESSONS_SECONDS:
            self._lessons, self._lessons_at, self._is_taught = self._flow.lessons(now), now, False
        if self._taught_at.get(member, -math.inf) >= self._lessons_at:
            return None
        self._taught_at[member] = self._lessons_at
        return self._lessons

    # Time

    def _serve(self) -> None:
        """Give permits as far as it goes now; wake up when time alone allows the next."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        now = self._clock()
        for member, grants in self._flow.allot(self._parked, now).items():
            self._finish(member, grants)
        opens_at = self._flow.opens_at(now)
        if now < opens_at < math.inf and any(map(self._flow.is_wanting, self._parked)):
            loop = asyncio.get_running_loop()
            self._opening = loop.call_later(opens_at - now, self._serve)

    def _look(self) -> None:
        """Take back what silent members hold; look again, as long as there is any member."""
        self._looking = None
        now = self._clock()
        self._flow.forget_silent(now)
        if self._flow.is_idle:
            self._taught_at.clear()
            return
        self._serve()
        self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
