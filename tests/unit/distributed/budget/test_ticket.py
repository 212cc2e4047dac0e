"""A budget as it travels; what is done where there is no cluster any more."""

from __future__ import annotations

import pickle

import pytest

from chutes_opencode.distributed.budget import ticket as module
from chutes_opencode.distributed.budget.budget_actor import BudgetSpec
from chutes_opencode.distributed.budget.ticket import BudgetTicket
from chutes_opencode.distributed.extra import ray

TICKET = BudgetTicket("max_cost_usd of the batch", BudgetSpec("budget:a", 1.5, 0.5))


def test_a_ticket_travels() -> None:
    assert pickle.loads(pickle.dumps(TICKET)) == TICKET


def test_without_a_cluster_there_is_nobody_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[BudgetSpec] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module, "find_actor", found.append)

    TICKET.forget("w1")
    TICKET.end()

    assert found == [], "Ray would start a cluster of its own"
