"""A cluster in virtual time: members whose calls reach a desk that may die at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from chutes_opencode.distributed.limiter.desk import Desk
from chutes_opencode.distributed.limiter.member import MemberLimiter
from chutes_opencode.distributed.limiter.protocol import (
    Answer,
    DeskClient,
    DeskLostError,
    HandOver,
    Report,
)
from chutes_opencode.relay.flow import Pace
from tests.unit.relay.virtual_time import clock

PACE = Pace(jitter=0.0)


class Line:
    """What carries calls to one desk: each way takes a while, and breaks when the desk dies."""

    def __init__(self, desk: Desk, way_s: float) -> None:
        self.desk = desk
        self.is_cut = False
        self.calls = 0
        self._way_s = way_s
        self._serving: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.Future[Answer]] = set()

    async def exchange(self, report: Report) -> Answer:
        return await self._carry(partial(self.desk.exchange, report))

    async def hand_over(self, told: HandOver) -> Answer:
        return await self._carry(partial(self.desk.hand_over, told))

    def cut(self) -> None:
        self.is_cut = True
        for call in self._open:
            if not call.done():
                call.set_exception(DeskLostError("the desk has died"))

    async def _carry(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        self.calls += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open.add(answer)
        serving = asyncio.create_task(self._serve(work, answer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        if self.is_cut:
            self.cut()
        try:
            return await answer
        finally:
            self._open.discard(answer)

    async def _serve(
        self, work: Callable[[], Awaitable[Answer]], answer: asyncio.Future[Answer]
    ) -> None:
        await asyncio.sleep(self._way_s)
        if self.is_cut:
            return
        told = await work()
        await asyncio.sleep(self._way_s)
        if not answer.done() and not self.is_cut:
            answer.set_result(told)


class Cluster:
    """Members of one account, and its desk; a desk that dies is followed by another."""

    def __init__(self, pace: Pace = PACE, *, way_s: float = 0.001) -> None:
        self.pace = pace
        self.desks: list[Desk] = []
        self.calls = 0
        self._way_s = way_s
        self._line: Line | None = None

    @property
    def desk(self) -> Desk:
        return self.desks[-1]

    @property
    def calls_made(self) -> int:
        return self.calls + (self._line.calls if self._line is not None else 0)

    def member(self, node: str = "n1") -> MemberLimiter:
        return MemberLimiter(self.find, node, clock=clock)

    async def find(self) -> DeskClient:
        if self._line is None:
            self.desks.append(
                Desk(
                    self.pace,
                    is_successor=bool(self.desks),
                    clock=clock,
                    random01=lambda: 0.5,
                )
            )
            self._line = Line(self.desk, self._way_s)
        return self._line

    def kill_desk(self) -> None:
        if self._line is not None:
            self.calls += self._line.calls
            self._line.cut()
            self._line = None
