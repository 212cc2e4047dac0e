"""Whatever callers and provider do, in whatever order: the limiter's promises hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chutes_opencode.relay.limiter import AdaptiveLimiter, Outcome, Pace, Permit
from tests.unit.relay.virtual_time import VirtualLoop, settle

T = TypeVar("T")
MOST = 6
PACE = Pace(start=3, max_in_flight=MOST)


@dataclass
class Asked:
    """One call of `acquire`."""

    task: asyncio.Task[Permit]
    priority: bool
    deadline: float | None


class LimiterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.limiter = AdaptiveLimiter(PACE, clock=self.loop.time, random01=lambda: 0.5)
        self.waiting: list[Asked] = []
        self.held: list[Permit] = []

    def do(self, action: Callable[[], T]) -> T:
        """Call something on the loop, as all callers of a limiter do."""

        async def call() -> T:
            return action()

        return self.loop.run_until_complete(call())

    def settle(self) -> None:
        """Let the loop run, and take the permits that were given; they must be the first ones."""
        before = list(self.waiting)
        self.loop.run_until_complete(settle())
        for asked in before:
            if asked.task.done():
                self.waiting.remove(asked)
                if not asked.task.cancelled() and asked.task.exception() is None:
                    self.held.append(asked.task.result())
                    self.check_order(asked, before)
                else:
                    self.check_end(asked)

    def check_order(self, given: Asked, before: list[Asked]) -> None:
        for other in before[: before.index(given)]:
            if other.priority >= given.priority:
                assert other.task.done(), "first come, first served"
        for other in before[before.index(given) :]:
            if other.priority > given.priority:
                assert other.task.done(), "priority first"

    def check_end(self, asked: Asked) -> None:
        if not asked.task.cancelled():
            assert isinstance(asked.task.exception(), TimeoutError)
            assert asked.deadline is not None

    @rule(priority=st.booleans(), seconds=st.none() | st.floats(-1, 90))
    def ask(self, priority: bool, seconds: float | None) -> None:
        deadline = None if seconds is None else self.loop.time() + seconds
        work = self.limiter.acquire(priority=priority, deadline=deadline)
        self.waiting.append(Asked(self.loop.create_task(work), priority, deadline))
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).task.cancel()
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        self.do(data.draw(st.sampled_from(self.held)).accepted)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        hint=st.none() | st.floats(-10, 100),
        cancel=st.booleans(),
    )
    def release(
        self, data: st.DataObject, outcome: Outcome, hint: float | None, cancel: bool
    ) -> None:
        permit = data.draw(st.sampled_from(self.held))
        self.held.remove(permit)
        until = None if hint is None else self.loop.time() + hint

        def act() -> None:
            permit.release(outcome, pause_until=until)
            if cancel and self.waiting:  # in the very moment in which it may have got the permit
                self.waiting[0].task.cancel()

        self.do(act)
        collateral = self.loop.run_until_complete(permit.is_collateral())
        assert not collateral or outcome in (Outcome.RATE_LIMITED, Outcome.CAPACITY)
        self.settle()

    @rule(seconds=st.floats(0.01, 100))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    @invariant()
    def no_permit_is_lost_or_made_up(self) -> None:
        stats = self.limiter.stats()
        assert stats.in_flight == len(self.held)
        assert stats.waiting == len(self.waiting)

    @invariant()
    def never_more_than_the_most_in_flight(self) -> None:
        assert len(self.held) <= MOST
        assert 1 <= self.limiter.stats().limit <= MOST

    @invariant()
    def whoever_waits_for_nothing_in_flight_waits_for_a_time(self) -> None:
        if self.waiting and not self.held:
            timer = self.limiter._timer  # of a pause, or of a minute that is full
            assert timer is not None
            assert not timer.cancelled()

    def teardown(self) -> None:
        """Everyone who still waits is served once the provider takes everything."""
        for _ in range(100):
            while self.held:
                permit = self.held.pop()
                self.do(lambda permit=permit: permit.release(Outcome.OK))  # type: ignore[misc]
                self.settle()
            if not self.waiting:
                break
            self.loop.run_until_complete(asyncio.sleep(3600))
            self.settle()
        self.loop.close()
        assert not self.waiting


LimiterMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLimiterMachine = LimiterMachine.TestCase
