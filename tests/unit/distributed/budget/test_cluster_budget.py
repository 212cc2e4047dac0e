"""A worker's budget and its actor: what is told when; Ray itself is a stand-in here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from chutes_opencode.distributed.budget import cluster_budget as module
from chutes_opencode.distributed.budget.budget_actor import BudgetSpec
from chutes_opencode.distributed.budget.cluster_budget import ClusterBudget
from chutes_opencode.distributed.budget.shares import Answer, Report
from chutes_opencode.distributed.extra import ray
from tests import patience


class Method:
    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class Actor:
    """Hands nothing out, and rings nobody."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.report, self.listen = Method(self._report), Method(self._listen)

    async def _report(self, told: Report) -> Answer:
        self.reports.append(told)
        return Answer(handed=0.0, spent=0.0, doubtful=0.0, recall=False)

    async def _listen(self, _holder: str) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setattr(module, "find_actor", lambda _spec: actor)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return actor


@pytest.fixture
def budget(actor: Actor) -> Iterator[ClusterBudget]:
    budget = ClusterBudget("max_cost_usd", BudgetSpec("budget:a", 1.0), "w1")
    yield budget
    budget.close()


def test_who_holds_nothing_is_heard_of_long_before_the_actor_ends_itself(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert BudgetSpec("budget:a", 1.0).idle_seconds > 2 * module.IDLE_SECONDS

    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    actor: Actor = request.getfixturevalue("actor")
    budget: ClusterBudget = request.getfixturevalue("budget")

    patience.wait_until(lambda: len(actor.reports) > 3)
    assert budget.is_idle
