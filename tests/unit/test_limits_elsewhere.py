"""A budget of which only a part is here; more of it comes from elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from chutes_opencode import limits
from chutes_opencode.errors import LimitExceededError
from chutes_opencode.limits import Budget, reserve, try_reserve


class Borrowed(Budget):
    """A budget of which only a part is here; more of it may come."""

    def __init__(self, max_cost_usd: float, part: float, elsewhere: float = 0.0) -> None:
        super().__init__("cluster", max_cost_usd)
        self.part = part
        self.elsewhere = elsewhere
        self.changes: list[list[float]] = []

    def lend(self, usd: float) -> None:
        with limits.guard():
            self.part += usd
        self._wake_waiters()

    def _committed(self) -> tuple[float, float]:
        return self._spent + self.elsewhere, self._doubtful

    def _room(self) -> float:
        return self.part - self._spent - self._doubtful - self._reserved()

    def _changed(self) -> None:
        self.changes.append([waiter.usd for waiter in self._waiters.values()])


def test_what_does_not_fit_into_the_part_that_is_here_waits_for_more_of_it() -> None:
    budget = Borrowed(1.0, part=0.2)

    async def wait() -> float:
        waiting = asyncio.ensure_future(reserve((budget,), 0.5))
        await asyncio.sleep(0)
        assert budget.changes == [[0.5]], "it is told what is waited for"
        budget.lend(0.3)
        return (await waiting).usd

    assert asyncio.run(wait()) == 0.5
    assert budget.changes[-1] == [], "and that nobody waits any more"
    assert budget.left == pytest.approx(0.0)


def test_what_is_spent_elsewhere_is_told_in_the_refusal() -> None:
    budget = Borrowed(1.0, part=0.2, elsewhere=0.75)

    with pytest.raises(LimitExceededError, match=r"of which \$0.750000 is spent"):
        budget.try_reserve(0.3)

    assert budget.changes == []


def test_an_answer_beyond_its_bound_has_what_is_here() -> None:
    budget = Borrowed(1.0, part=0.2)
    hold = try_reserve((budget,), 0.1)
    assert hold is not None

    assert hold.raise_to(0.15) is None
    assert hold.raise_to(0.25) is budget
    assert budget.changes == [[]], "it is told that one got more"


def test_a_budget_that_has_room_is_not_told_of_one_that_has_none() -> None:
    roomy, full = Borrowed(1.0, part=1.0), Borrowed(1.0, part=0.0)

    assert try_reserve((roomy, full), 0.5) is None

    assert (roomy.changes, full.changes) == ([], [[]])
