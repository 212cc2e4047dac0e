"""The limiter of one process that shares its account with a whole cluster."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from chutes_opencode.distributed.limiter.book import Book, Refusal
from chutes_opencode.distributed.limiter.protocol import (
    Answer,
    DeskClient,
    DeskLostError,
    Grant,
    Report,
    View,
    member_name,
)
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.relay.flow import Outcome, Pace
from chutes_opencode.relay.limiter import LimiterStats, Permit
from chutes_opencode.relay.waiters import Waiters

VERDICT_SECONDS = 5.0
"""For so long a refused request waits for its verdict; then it counts."""
OPEN_CALLS = 2
"""One that waits for permits, and one that tells what has happened since."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
"""Before a desk that could not be reached is looked for again."""
_REFUSALS = (Outcome.RATE_LIMITED, Outcome.CAPACITY)
_FIRST_VIEW = View(Pace().start, 1, None, None, math.inf, 0, 0, 0)


class MemberLimiter:
    """A limiter whose permits come from a desk; belongs to one event loop (`stats` does not).

    While somebody waits or holds a permit, one task talks to the desk. A desk that dies is looked
    for again, and told what is held here; who waits goes on waiting meanwhile.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[DeskClient]],
        node: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked before the first `acquire`.

        Args:
            find: Finds the account's desk, or makes one. It may raise DeskLostError, to be asked
                again; an OpenCodeError ends the waits.
            node: Where this process is.
            clock: Seconds, as `deadline` and `pause_until` count them.
        """
        self._find = find
        self._node = node
        self._name = member_name(node)
        self._clock = clock
        self._waiters: Waiters[_MemberPermit] = Waiters(clock)
        self._book = Book()
        self._calls: deque[asyncio.Task[Answer]] = deque()
        self._talking: asyncio.Task[None] | None = None
        self._news: asyncio.Event = asyncio.Event()
        self._epoch = ""
        self._told_waiting = 0
        self._view = _FIRST_VIEW
        self._paused_until: float | None = None
        self._last_taken = -math.inf
        self._in_flight = 0
        self._permits = 0

    async def acquire(
        self,
        *,
        priority: bool = False,
        deadline: float | None = None,
        patience: float = math.inf,
    ) -> Permit:
        """Wait for a permit; see `Limiter.acquire`.

        Raises:
            TimeoutError: As there.
            OpenCodeError: There is no cluster any more.
        """
        return await self._waiters.wait(
            self._call,
            priority=priority,
            deadline=deadline,
            patience=patience,
            paused_until=self._paused_until,
        )

    def stats(self) -> LimiterStats:
        """Tell what it knows; from any thread.

        `limit` is this process's fair share; what is in flight, waits and was given is its own;
        the rest is the cluster's.
        """
        view = self._view
        return LimiterStats(
            limit=max(1, math.ceil(view.limit / max(1, view.members))),
            in_flight=self._in_flight,
            waiting=len(self._waiters),
            paused_until=self._paused_until,
            ceiling=view.ceiling,
            permits=self._permits,
            rate_limited=view.rate_limited,
            capacity=view.capacity,
            refused_in_a_row=view.refused_in_a_row,
        )

    # Talking

    def _call(self) -> None:
        """There is something to tell."""
        self._news.set()
        if self._talking is None or self._talking.done():
            self._talking = asyncio.get_running_loop().create_task(self._talk())

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiters or self._book.holds or self._told_waiting)

    async def _talk(self) -> None:
        """Tell the desk what happens here, and hear it, until there is nothing left to tell."""
        desk = None
        try:
            while self._is_busy or self._calls:
                try:
                    desk = desk or await self._join()
                    if desk is not None:
                        await self._take_turn(desk)
                except DeskLostError:
                    desk = None
                    self._drop_calls()
                    await asyncio.sleep(FIRST_PAUSE_SECONDS)
        except Exception as error:
            self._waiters.fail(error)
            if not isinstance(error, OpenCodeError):
                raise
        finally:
            self._drop_calls()

    async def _join(self) -> DeskClient | None:
        """Find the desk and tell it what is held here, as often as it takes; None: no need."""
        pause = FIRST_PAUSE_SECONDS
        while self._is_busy:
            with suppress(DeskLostError):
                desk = await self._find()
                told = self._book.hand_over(self._name, self._node, self._epoch, self._clock())
                answer = await desk.hand_over(told)
                self._epoch = answer.epoch
                self._look_at(answer.view)
                self._news.set()
                return desk
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return None

    async def _take_turn(self, desk: DeskClient) -> None:
        """Tell what there is to tell, then wait for the oldest answer or something new to tell."""
        if not self._calls or (self._news.is_set() and len(self._calls) < OPEN_CALLS):
            self._news.clear()
            self._calls.append(asyncio.create_task(desk.exchange(self._report())))
        awaited: list[asyncio.Task[Answer] | asyncio.Task[bool]] = [self._calls[0]]
        if len(self._calls) < OPEN_CALLS:
            awaited.append(asyncio.create_task(self._news.wait()))
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in awaited[1:]:
                task.cancel()
        if self._calls[0].done():
            self._hear(self._calls.popleft().result())

    def _report(self) -> Report:
        urgent, ordinary = len(self._waiters.urgent), len(self._waiters.ordinary)
        self._told_waiting = urgent + ordinary
        news = self._book.tell().news(self._clock())
        return Report(
            self._name,
            self._node,
            self._epoch,
            news,
            urgent=urgent,
            ordinary=ordinary,
            holds=self._book.holds,
            received=self._book.received,
            refusals=self._view.refusals,
        )

    def _drop_calls(self) -> None:
        """Nothing that was told and not answered counts as heard."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        self._told_waiting = 0
        self._book.lost()

    # Hearing

    def _hear(self, answer: Answer) -> None:
        """Take in an answer, and give its permits to those who wait."""
        if not answer.known:
            raise DeskLostError("the desk does not know this process")
        self._book.heard(answer.verdicts)
        if answer.lessons is not None:
            self._book.taught(answer.lessons, answer.holders, self._clock())
        self._look_at(answer.view)
        for grant in answer.grants:
            self._give(grant)

    def _look_at(self, view: View) -> None:
        now, before = self._clock(), self._view
        self._view = view
        self._paused_until = None if view.paused_s is None else now + view.paused_s
        self._last_taken = now - view.taken_s
        if view.refusals > before.refusals:
            self._waiters.end_patience(self._last_taken)

    def _give(self, grant: Grant) -> None:
        self._book.granted(grant, self._clock())
        for given in range(grant.count):
            if not self._waiters.give(lambda: _MemberPermit(self, grant.number)):
                self._book.events.unused[grant.number] += grant.count - given
                self._news.set()
                return
            self._permits += 1
            self._in_flight += 1

    # Permits

    def _taken(self, number: int) -> None:
        self._last_taken = self._clock()
        self._book.events.taken[number] += 1
        self._call()

    def _ended(self, number: int, outcome: Outcome, taken: bool) -> None:
        self._in_flight -= 1
        self._book.events.ended[number, outcome, taken] += 1
        self._call()

    def _refused(self, refusal: Refusal) -> None:
        self._in_flight -= 1
        self._book.events.refused.append(refusal)
        self._call()


class _MemberPermit:
    """A permit of a MemberLimiter."""

    __slots__ = ("_is_released", "_is_taken", "_limiter", "_number", "_verdict")

    def __init__(self, limiter: MemberLimiter, number: int) -> None:
        self._limiter = limiter
        self._number = number
        self._is_taken = False
        self._is_released = False
        self._verdict: asyncio.Future[bool] | None = None

    def accepted(self) -> None:
        if not self._is_released and not self._is_taken:
            self._is_taken = True
            self._limiter._taken(self._number)

    def release(self, outcome: Outcome, *, pause_until: float | None = None) -> None:
        if self._is_released:
            return
        if outcome is Outcome.OK:
            self.accepted()
        self._is_released = True
        if outcome not in _REFUSALS:
            self._limiter._ended(self._number, outcome, self._is_taken)
            return
        verdict = self._verdict = asyncio.get_running_loop().create_future()
        refusal = Refusal(self._number, outcome, self._is_taken, pause_until, verdict.set_result)
        self._limiter._refused(refusal)

    async def is_collateral(self) -> bool:
        if self._verdict is None:
            return False
        await asyncio.wait([self._verdict], timeout=VERDICT_SECONDS)
        return self._verdict.done() and self._verdict.result()
