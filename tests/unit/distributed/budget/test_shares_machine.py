"""Whatever workers, messages and the books' actor do and die of: never overdrawn, never stuck."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from chutes_opencode.distributed.budget.shares import SILENCE_S
from tests.unit.distributed.budget.cluster import Cluster, Worker

AMOUNTS = st.floats(0.001, 0.7)
PARTS = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SLACK_USD = 1e-6  # of sums of floating-point numbers


class SharesMachine(RuleBasedStateMachine):
    """Four workers or more share a dollar."""

    @initialize(spent=st.sampled_from([0.0, 0.25, 1.5]))
    def start(self, spent: float) -> None:
        self.cluster = Cluster(1.0, spent, workers=3)

    def _pick(self, number: int) -> Worker:
        living = self.cluster.living
        return living[number % len(living)]

    @rule()
    @precondition(lambda self: len(self.cluster.living) < 6)
    def join(self) -> None:
        self.cluster.join(f"w{len(self.cluster.living) % 4}")

    @rule(who=st.integers(0, 5), usd=AMOUNTS)
    def ask(self, who: int, usd: float) -> None:
        self._pick(who).ask(usd)

    @rule(who=st.integers(0, 5), which=st.integers(0, 9), part=PARTS, doubt=PARTS)
    def settle(self, who: int, which: int, part: float, doubt: float) -> None:
        worker = self._pick(who)
        if worker.open:
            worker.settle(which, part, doubt)
            worker.go_on()

    @rule(who=st.integers(0, 5), part=st.floats(0.5, 2.0))
    def go_beyond(self, who: int, part: float) -> None:
        worker = self._pick(who)
        if worker.open:
            held = worker.open[0]
            with_room = worker.budget.left
            if held.usd * (part - 1) < with_room:
                worker.budget._raise(held, held.usd * part)

    @rule(
        who=st.integers(0, 5),
        lost=st.sampled_from(["", "", "report", "answer"]),
        idle=st.booleans(),
    )
    def report(self, who: int, lost: str, idle: bool) -> None:
        self.cluster.sync(self._pick(who), lost=lost, idle=idle)

    @rule(times=st.integers(1, 5))
    def messages_are_brought(self, times: int) -> None:
        for _ in range(times):
            self.cluster.deliver()

    @rule()
    def a_late_report_arrives(self) -> None:
        if self.cluster.late:
            self.cluster.shares.report(self.cluster.late.pop(0), self.cluster.now)

    @rule(who=st.integers(0, 5))
    def cancel(self, who: int) -> None:
        worker = self._pick(who)
        if worker.waiting:
            worker.waiting.pop(0)[1]()

    @rule(who=st.integers(0, 5), told=st.booleans())
    @precondition(lambda self: len(self.cluster.living) > 1)
    def die(self, who: int, told: bool) -> None:
        worker = self._pick(who)
        self.cluster.kill(worker)
        if told:
            self.cluster.shares.forget(worker.node)

    @rule(seconds=st.sampled_from([1.0, SILENCE_S, SILENCE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.now += seconds
        self.cluster.shares.expire(self.cluster.now)

    @rule()
    def the_actor_dies(self) -> None:
        self.cluster.restart_books()

    @invariant()
    def it_is_never_overdrawn(self) -> None:
        if hasattr(self, "cluster"):
            assert self.cluster.exposure <= max(1.0, self.cluster.spent_usd) + SLACK_USD

    def teardown(self) -> None:
        """Nobody is left waiting once all that runs has ended, and the dead are known to be."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        for worker in cluster.living:  # as the loop does after an actor's death
            cluster.sync(worker)
        cluster.now += SILENCE_S + 1
        for worker in cluster.living:
            cluster.sync(worker)
        cluster.shares.expire(cluster.now)
        for worker in cluster.living:
            while worker.open:
                worker.settle(0, 0.5)
            worker.go_on()
        cluster.settle_down()
        assert [worker.waiting for worker in cluster.living if worker.waiting] == []
        self.it_is_never_overdrawn()
        self._all_that_is_left_can_be_spent()

    def _all_that_is_left_can_be_spent(self) -> None:
        cluster, view = self.cluster, self.cluster.shares.view()
        assert view.reserved == 0
        left = 1.0 - view.spent - view.doubtful
        if left > SLACK_USD:
            worker = cluster.join("last")
            worker.ask(left - SLACK_USD / 2)
            cluster.settle_down()
            assert worker.refused == []
            assert worker.waiting == []


TestSharesMachine = SharesMachine.TestCase
TestSharesMachine.settings = settings(max_examples=150, stateful_step_count=40)
