"""Dollars that the workers of a real Ray cluster share."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray.experimental.internal_kv import _internal_kv_list
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chutes_opencode.distributed.budget import BudgetTicket, ClusterBudget, start_budget
from chutes_opencode.distributed.budget.budget_actor import (
    NAMESPACE,
    BudgetSpec,
    find_actor,
)
from chutes_opencode.errors import ConfigurationError, LimitExceededError
from chutes_opencode.limits import Hold, reserve
from tests.distributed.nodes import Nodes
from tests.patience import WAIT_SECONDS, wait_until

NAME = "max_cost_usd of the batch"
BOUND, COST = 0.05, 0.01

pytestmark = pytest.mark.usefixtures("nodes")


@ray.remote(num_cpus=0.1)
class Worker:
    """A worker that opens the budget and reserves in it."""

    def __init__(self, ticket: BudgetTicket, node: str) -> None:
        self._budget = ticket.open(node)
        self._holds: list[Hold] = []

    async def hold(self, usd: float) -> float:
        self._holds.append(await reserve([self._budget], usd))
        return self._budget.reserved

    async def settle(self, usd: float, at_most: float = 0.0) -> None:
        self._holds.pop().settle(usd, at_most)

    async def work(self, prompts: int) -> tuple[float, str]:
        """Ask so many prompts at once; return what was spent, and why it ended before all did."""

        async def ask() -> None:
            hold = await reserve([self._budget], BOUND)
            await asyncio.sleep(0)
            hold.settle(COST)

        asked = await asyncio.gather(*(ask() for _ in range(prompts)), return_exceptions=True)
        errors = [each for each in asked if isinstance(each, BaseException)]
        return self._budget.spent, type(errors[0]).__name__ if errors else ""

    async def close(self) -> float:
        await self._budget.aclose()
        return self._budget.left

    async def waiting(self) -> int:
        return self._budget.waiting


@contextmanager
def started(usd: float, spent_usd: float = 0.0) -> Iterator[BudgetTicket]:
    ticket = start_budget(NAME, usd, spent_usd)
    try:
        yield ticket
    finally:
        ticket.end()


def workers(ticket: BudgetTicket, nodes: Nodes, count: int = 3) -> list[Any]:
    """Start workers, each on a node of its own."""
    actor: Any = Worker
    places = [NodeAffinitySchedulingStrategy(each, soft=False) for each in nodes.ids]
    chosen = [places[number % len(places)] for number in range(count)]
    return [
        actor.options(scheduling_strategy=place).remote(ticket, f"w{number}")
        for number, place in enumerate(chosen)
    ]


def get(reference: Any) -> Any:
    return ray.get(reference, timeout=WAIT_SECONDS)


def is_there(ticket: BudgetTicket) -> bool:
    named = ray.util.list_named_actors(all_namespaces=True)
    return any(each["name"] == ticket.spec.actor for each in named)


def end(*ended: Any) -> None:
    for worker in ended:
        get(worker.close.remote())
        ray.kill(worker)


def test_three_nodes_spend_one_budget_to_its_end_and_never_more(nodes: Nodes) -> None:
    with started(1.0, spent_usd=0.2) as ticket:
        three = workers(ticket, nodes)

        ended = get([worker.work.remote(60) for worker in three])  # $1.80 of $0.80

        spent = sum(usd for usd, _ in ended)
        assert 0.8 - BOUND <= spent <= 0.8 + 1e-9
        assert {why for _, why in ended} >= {"LimitExceededError"}
        end(*three)
        assert ticket.view() == pytest.approx((0.2 + spent, 0.0, 0.0))


def test_where_there_is_enough_every_prompt_gets_its_dollars(nodes: Nodes) -> None:
    with started(2.0) as ticket:
        three = workers(ticket, nodes)

        ended = get([worker.work.remote(60) for worker in three])

        assert ended == [(pytest.approx(0.6), "")] * 3
        end(*three)


def test_a_block_that_is_not_used_is_called_back_for_who_is_short(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        rich, poor = workers(ticket, nodes, 2)
        get(rich.hold.remote(0.5))  # it is handed all there is, for the next ones

        assert get(poor.hold.remote(0.4)) == pytest.approx(0.4)

        end(rich, poor)


def test_who_is_short_waits_for_a_settlement_on_another_node(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        first, second = workers(ticket, nodes, 2)
        get(first.hold.remote(0.8))
        waits = second.hold.remote(0.7)
        wait_until(lambda: get(second.waiting.remote()) == 1)

        get(first.settle.remote(0.1))

        assert get(waits) == pytest.approx(0.7)
        end(first, second)


def test_what_can_never_fit_any_more_is_refused_with_the_limits_name(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        first, second = workers(ticket, nodes, 2)
        get(first.hold.remote(0.8))
        waits = second.hold.remote(0.7)
        wait_until(lambda: get(second.waiting.remote()) == 1)

        get(first.settle.remote(0.5, 0.6))

        with pytest.raises(LimitExceededError, match=r"0\.500000 \(and maybe \$0\.1") as told:
            get(waits)
        assert told.value.limit == NAME
        assert not told.value.overrun
        end(first, second)


def test_a_dead_workers_part_is_doubtful_and_nobody_waits_for_it(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        dead, living = workers(ticket, nodes, 2)
        get(dead.hold.remote(0.6))
        wait_until(lambda: ticket.view().reserved == pytest.approx(0.6))
        waits = living.hold.remote(0.5)
        wait_until(lambda: get(living.waiting.remote()) == 1)
        # What it does not need is called back; from then on it holds what is reserved.
        shares = find_actor(ticket.spec)
        wait_until(lambda: get(shares.free.remote()) == pytest.approx(0.4))

        ray.kill(dead)
        ticket.forget("w0")

        with pytest.raises(LimitExceededError, match=r"maybe \$0\.600000 more"):
            get(waits)
        assert ticket.view() == pytest.approx((0.0, 0.0, 0.6))
        assert get(living.hold.remote(0.4)) == pytest.approx(0.4)
        end(living)


@pytest.mark.parametrize("how", ["killed for good", "SIGKILL"])
def test_the_books_survive_their_actor(nodes: Nodes, how: str) -> None:
    with started(1.0) as ticket:
        first, second = workers(ticket, nodes, 2)
        get(first.hold.remote(0.5))
        get(first.settle.remote(0.4))
        get(first.hold.remote(0.3))

        actor = find_actor(ticket.spec)
        if how == "SIGKILL":
            os.kill(get(actor.process.remote()), signal.SIGKILL)
        else:
            ray.kill(actor, no_restart=True)

        with pytest.raises(LimitExceededError, match=r"\$0\.4"):
            get(second.hold.remote(0.7))
        assert get(second.hold.remote(0.3)) == pytest.approx(0.3)
        waits = second.hold.remote(0.25)
        wait_until(lambda: get(second.waiting.remote()) == 1)
        get(first.settle.remote(0.0))
        assert get(waits) == pytest.approx(0.55)
        end(first, second)
        view = ticket.view()
        assert view.spent == pytest.approx(0.4)


def test_what_the_dead_held_is_known_to_new_books(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        dead, living = workers(ticket, nodes, 2)
        get(dead.hold.remote(0.6))
        ray.kill(dead)
        ray.kill(find_actor(ticket.spec), no_restart=True)
        ticket.forget("w0")

        with pytest.raises(LimitExceededError, match="maybe"):
            get(living.hold.remote(0.5))

        end(living)


def test_a_worker_that_closes_gives_back_what_it_has_not_spent(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        [worker] = workers(ticket, nodes, 1)
        get(worker.hold.remote(0.2))
        get(worker.settle.remote(0.1))

        assert get(worker.close.remote()) == pytest.approx(0.0)

        assert ticket.view() == pytest.approx((0.1, 0.0, 0.0))
        assert get(find_actor(ticket.spec).free.remote()) == pytest.approx(0.9)
        ray.kill(worker)


def test_a_budget_is_closed_twice_and_unused() -> None:
    with started(1.0) as ticket:
        budget = ClusterBudget(NAME, ticket.spec, "driver")

        budget.close()
        budget.close()

        assert budget.left == 0.0


async def _views(ticket: BudgetTicket) -> tuple[float, ...]:
    await ticket.aforget("nobody")
    return await ticket.aview()


def test_a_ticket_travels_and_is_looked_at_from_an_event_loop() -> None:
    with started(1.0, spent_usd=0.3) as ticket:
        copy = pickle.loads(pickle.dumps(ticket))

        assert asyncio.run(_views(copy)) == (0.3, 0.0, 0.0)


def test_an_end_leaves_neither_an_actor_nor_its_notes(nodes: Nodes) -> None:
    with started(1.0) as ticket:
        [worker] = workers(ticket, nodes, 1)
        get(worker.hold.remote(0.2))
        end(worker)

    wait_until(lambda: not is_there(ticket))
    assert _internal_kv_list(f"{NAMESPACE}/{ticket.spec.actor}", namespace=NAMESPACE) == []


def test_books_that_nobody_needs_any_more_end_by_themselves() -> None:
    spec = BudgetSpec("budget:left behind", 1.0, idle_seconds=0.5)
    ticket = BudgetTicket(NAME, spec)
    assert ticket.view() == (0.0, 0.0, 0.0)

    wait_until(lambda: not is_there(ticket))


def test_a_senseless_limit_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="must be 0 or more"):
        start_budget(NAME, -1.0)
