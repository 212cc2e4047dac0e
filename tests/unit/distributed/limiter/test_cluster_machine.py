"""Whatever processes, provider and chance do, in whatever order: a cluster's promises hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chutes_opencode.distributed.limiter.member import MemberLimiter
from chutes_opencode.relay.flow import Outcome, Pace
from chutes_opencode.relay.limiter import Permit
from tests.unit.distributed.limiter.cluster import Cluster
from tests.unit.relay.virtual_time import VirtualLoop

MOST = 5
PACE = Pace(start=3, max_in_flight=MOST, jitter=0.0)
NODES = ("n1", "n1", "n2", "n3")
members = st.integers(0, len(NODES) - 1)


@dataclass
class Held:
    """A permit in use."""

    permit: Permit
    member: int


class ClusterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.cluster = Cluster(PACE)
        self.members: list[MemberLimiter] = [
            MemberLimiter(self.cluster.find, node, clock=self.loop.time) for node in NODES
        ]
        self.waiting: list[tuple[asyncio.Task[Permit], int]] = []
        self.held: list[Held] = []

    def pass_time(self, seconds: float) -> None:
        """Let time pass; take the permits that are given meanwhile, and see that all is well."""
        until = self.loop.time() + seconds
        while (left := until - self.loop.time()) > 0:
            self.loop.run_until_complete(asyncio.sleep(min(left, 0.25)))
            self.take()
            assert len(self.held) <= MOST, "never more in flight than the limit"

    def take(self) -> None:
        for task, member in tuple(self.waiting):
            if task.done():
                self.waiting.remove((task, member))
                if not task.cancelled():
                    self.held.append(Held(task.result(), member))

    @rule(member=members, priority=st.booleans(), count=st.integers(1, 4))
    def ask(self, member: int, priority: bool, count: int) -> None:
        for _ in range(count):
            work = self.members[member].acquire(priority=priority)
            self.waiting.append((self.loop.create_task(work), member))
        self.pass_time(0.01)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting))[0].cancel()
        self.pass_time(0.01)

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        hint=st.none() | st.floats(-10, 100),
        at_once=st.booleans(),
    )
    def release(
        self, data: st.DataObject, outcome: Outcome, hint: float | None, at_once: bool
    ) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.held.remove(held)

        async def act() -> None:
            until = None if hint is None else self.loop.time() + hint
            held.permit.release(outcome, pause_until=until)

        self.loop.run_until_complete(act())
        if not at_once:
            self.pass_time(0.01)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))

        async def act() -> None:
            held.permit.accepted()

        self.loop.run_until_complete(act())
        self.pass_time(0.01)

    @rule()
    def kill_desk(self) -> None:
        self.cluster.kill_desk()

    @rule(seconds=st.floats(0.01, 20))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @invariant()
    def each_process_knows_what_it_has(self) -> None:
        for number, member in enumerate(self.members):
            assert member.stats().in_flight == sum(each.member == number for each in self.held)

    def teardown(self) -> None:
        """Everyone is served once the provider takes everything, and all permits come back."""
        for _ in range(100):
            while self.held:
                held = self.held.pop()

                async def act(permit: Permit = held.permit) -> None:
                    permit.release(Outcome.OK)

                self.loop.run_until_complete(act())
                self.pass_time(0.01)
            if not self.waiting:
                break
            self.pass_time(60)
        self.pass_time(10)
        waiting = list(self.waiting)
        left = self.cluster.desk.held() if self.cluster.desks else {}
        self.loop.run_until_complete(self.end())
        self.loop.close()
        assert waiting == []
        assert left == {}

    async def end(self) -> None:
        """End the tasks that are left."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait([*tasks, asyncio.create_task(asyncio.sleep(0))])


ClusterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestClusterMachine = ClusterMachine.TestCase
