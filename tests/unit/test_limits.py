"""Dollars: what a request costs, what it may cost at most, and budgets that are never overdrawn."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chutes_opencode import limits
from chutes_opencode.catalog.models import Price
from chutes_opencode.errors import ConfigurationError, LimitExceededError
from chutes_opencode.limits import (
    Budget,
    cost_bound,
    cost_usd,
    require_prices,
    reserve,
    try_reserve,
)
from chutes_opencode.results import Usage
from tests.patience import WAIT_SECONDS, join

# --- prices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "price", "expected"),
    [
        (Usage(input=1_000_000), Price(2.0, 10.0), 2.0),
        (Usage(output=1_000_000), Price(2.0, 10.0), 10.0),
        (Usage(reasoning=1_000_000), Price(2.0, 10.0), 10.0),
        (Usage(cache_read=1_000_000), Price(2.0, 10.0, 0.5), 0.5),
        (Usage(cache_read=1_000_000), Price(2.0, 10.0), 2.0),
        (Usage(cache_write=1_000_000), Price(2.0, 10.0, 0.5), 2.0),
        (Usage(100, 40, 5, 23), Price(1.0, 10.0, 0.5), 0.0005615),
    ],
)
def test_a_usage_has_a_price(usage: Usage, price: Price, expected: float) -> None:
    assert cost_usd(usage, price) == pytest.approx(expected)


def test_the_bound_takes_every_byte_for_a_token_and_all_output_that_is_asked_for() -> None:
    assert cost_bound(Price(1.0, 10.0), 3000, 500) == pytest.approx(0.003 + 0.005)


def test_the_bound_holds_where_cached_input_is_dearer() -> None:
    assert cost_bound(Price(1.0, 10.0, 4.0), 1000, 0) == pytest.approx(0.004)


def test_a_dollar_limit_needs_every_price() -> None:
    require_prices({"a": Price(1, 1)})

    with pytest.raises(ConfigurationError, match="the price of b, c"):
        require_prices({"a": Price(1, 1), "b": None, "c": None})


# --- one budget ----------------------------------------------------------------------------------


def test_a_reservation_is_replaced_by_the_real_cost() -> None:
    budget = Budget("max_cost_usd", 1.0)

    held = budget.try_reserve(0.6)
    assert held is not None
    assert (budget.spent, budget.reserved, budget.left) == (0.0, 0.6, 0.4)

    budget.settle(held, 0.25)
    assert (budget.spent, budget.reserved, budget.left) == (0.25, 0.0, 0.75)


def test_a_reservation_settles_once() -> None:
    budget = Budget("max_cost_usd", 1.0)
    held = budget.try_reserve(0.6)
    assert held is not None

    budget.settle(held, 0.25)
    budget.settle(held, 0.25)

    assert budget.spent == 0.25


def test_equal_amounts_are_different_reservations() -> None:
    budget = Budget("max_cost_usd", 1.0)
    first, second = budget.try_reserve(0.5), budget.try_reserve(0.5)
    assert first is not None
    assert second is not None

    budget.settle(first, 0.1)

    assert budget.reserved == 0.5


def test_what_only_open_reservations_keep_out_waits() -> None:
    budget = Budget("max_cost_usd", 1.0)
    assert budget.try_reserve(0.6) is not None

    assert budget.try_reserve(0.6) is None


def test_what_can_never_fit_is_refused_by_the_name_of_the_limit() -> None:
    budget = Budget("batch", 1.0)
    held = budget.try_reserve(0.6)
    assert held is not None
    budget.settle(held, 0.6)

    with pytest.raises(LimitExceededError, match=r"batch: .*\$0\.500000.*\$1, .*\$0\.6") as told:
        budget.try_reserve(0.5)

    assert told.value.limit == "batch"


@pytest.mark.parametrize(("limit", "shown"), [(0.00001, "0.00001"), (5.0, "5"), (100.0, "100")])
def test_a_limit_is_told_as_dollars_are_written(limit: float, shown: str) -> None:
    with pytest.raises(LimitExceededError, match=rf"does not fit into \${shown}, of which"):
        Budget("batch", limit).try_reserve(1000.0)


def test_a_limit_is_kept_to_the_cent_fraction_in_spite_of_binary_fractions() -> None:
    budget = Budget("max_cost_usd", 0.3)
    for _ in range(3):  # 0.1 + 0.1 + 0.1 > 0.3
        held = budget.try_reserve(0.1)
        assert held is not None
        budget.settle(held, 0.1)

    with pytest.raises(LimitExceededError):
        budget.try_reserve(0.001)


def test_what_costs_nothing_always_fits_a_budget_of_nothing() -> None:
    assert Budget("max_cost_usd", 0.0).try_reserve(0.0) is not None


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_senseless_limit_is_refused(limit: float) -> None:
    with pytest.raises(ConfigurationError, match="max_cost_usd must be 0 or more"):
        Budget("max_cost_usd", limit)


def test_a_budget_may_go_on_where_an_earlier_process_has_ended() -> None:
    budget = Budget("batch", 1.0, spent_usd=0.75)

    assert (budget.spent, budget.left) == (0.75, 0.25)
    with pytest.raises(LimitExceededError, match=r"of which \$0.750000 is spent"):
        budget.try_reserve(0.5)


def test_a_waiter_is_told_of_each_settlement_until_it_goes() -> None:
    budget, told = Budget("process", 1.0), []
    remove = budget.add_waiter(lambda: told.append("settled"))
    first, second = budget.try_reserve(0.1), budget.try_reserve(0.1)
    assert first is not None
    assert second is not None

    budget.settle(first, 0.1)
    remove()
    remove()
    budget.settle(second, 0.1)

    assert told == ["settled"]


# --- several budgets -----------------------------------------------------------------------------


def test_an_amount_is_reserved_in_all_budgets_and_settled_in_all() -> None:
    prompt, batch = Budget("prompt", 1.0), Budget("batch", 5.0)

    hold = try_reserve((prompt, batch), 0.5)
    assert hold is not None
    assert (prompt.reserved, batch.reserved) == (0.5, 0.5)

    hold.settle(0.2)
    hold.settle(0.2)
    assert (prompt.spent, batch.spent) == (0.2, 0.2)


def test_an_amount_that_one_budget_has_no_room_for_is_reserved_in_none() -> None:
    prompt, batch = Budget("prompt", 1.0), Budget("batch", 0.6)
    assert batch.try_reserve(0.5) is not None

    assert try_reserve((prompt, batch), 0.5) is None

    assert prompt.reserved == 0.0


def test_that_one_budget_can_never_hold_it_is_told_though_another_is_only_busy() -> None:
    busy, small = Budget("busy", 1.0), Budget("small", 0.1)
    assert busy.try_reserve(0.9) is not None

    with pytest.raises(LimitExceededError, match="small"):
        try_reserve((busy, small), 0.5)


def test_no_budget_holds_everything() -> None:
    hold = try_reserve((), 1_000_000.0)

    assert hold is not None
    hold.settle(1.0)


# --- waiting -------------------------------------------------------------------------------------


def test_a_request_waits_for_reservations_to_settle_on_another_thread() -> None:
    budget = Budget("process", 1.0)
    first = budget.try_reserve(0.8)
    assert first is not None

    async def wait() -> float:
        waiting = asyncio.ensure_future(reserve((budget,), 0.5))
        await asyncio.sleep(0)  # it has tried
        assert not waiting.done()
        threading.Thread(target=budget.settle, args=(first, 0.3)).start()
        await waiting
        return budget.reserved

    assert asyncio.run(wait()) == 0.5
    assert budget._waiters == {}


def test_a_request_that_waits_is_refused_as_soon_as_it_can_never_fit() -> None:
    budget = Budget("process", 1.0)
    first = budget.try_reserve(0.8)
    assert first is not None

    async def wait() -> None:
        waiting = asyncio.ensure_future(reserve((budget,), 0.5))
        await asyncio.sleep(0)
        budget.settle(first, 0.8)
        await waiting

    with pytest.raises(LimitExceededError):
        asyncio.run(wait())


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    budget = Budget("process", 1.0)
    first = budget.try_reserve(0.8)
    assert first is not None

    async def cancel() -> None:
        waiting = asyncio.ensure_future(reserve((budget,), 0.5))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancel())

    assert (budget.reserved, budget._waiters) == (0.8, {})


def test_one_that_costs_more_than_its_bound_has_to_reserve_the_rest() -> None:
    shared, own = Budget("process", 1.0), Budget("max_cost_usd", 0.5)
    first, second = try_reserve((shared, own), 0.2), try_reserve((shared,), 0.4)
    assert first is not None
    assert second is not None

    assert first.raise_to(0.5) is None
    assert second.raise_to(0.6) is shared
    assert (shared.reserved, own.reserved) == pytest.approx((0.9, 0.5))

    assert first.raise_to(0.55) is own
    assert first.raise_to(0.1) is None
    assert (shared.reserved, own.reserved) == pytest.approx((0.9, 0.5))


def test_what_is_settled_reserves_no_more() -> None:
    budget = Budget("process", 1.0)
    hold = try_reserve((budget,), 0.2)
    assert hold is not None
    hold.settle(0.1)

    assert hold.raise_to(5.0) is None
    assert (budget.reserved, budget.spent) == (0.0, 0.1)


def test_what_may_have_been_spent_is_not_spent_again() -> None:
    budget = Budget("process", 1.0)
    hold = try_reserve((budget,), 0.5)
    assert hold is not None

    hold.settle(0.1, at_most=0.4)

    assert (budget.spent, budget.doubtful, budget.left) == pytest.approx((0.1, 0.3, 0.6))
    assert budget.try_reserve(0.6) is not None
    with pytest.raises(
        LimitExceededError, match=r"0\.100000 \(and maybe \$0\.300000 more\) is spent"
    ):
        budget.require(0.7)


def test_a_bound_below_the_cost_is_none() -> None:
    budget = Budget("process", 1.0)
    hold = try_reserve((budget,), 0.5)
    assert hold is not None

    hold.settle(0.4, at_most=0.2)

    assert (budget.spent, budget.doubtful) == (0.4, 0.0)


def test_it_tells_how_many_wait_for_it() -> None:
    budget = Budget("process", 1.0)
    first = budget.try_reserve(0.8)
    assert first is not None

    async def main() -> list[int]:
        waiting = asyncio.create_task(reserve((budget,), 0.5))
        await asyncio.sleep(0)
        counts = [budget.waiting]
        budget.settle(first, 0.1)
        await waiting
        return [*counts, budget.waiting]

    assert asyncio.run(main()) == [1, 0]


def test_a_waiter_whose_loop_has_gone_disturbs_nobody() -> None:
    budget = Budget("process", 1.0)
    first = budget.try_reserve(0.8)
    assert first is not None
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(reserve((budget,), 0.5))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    budget.settle(first, 0.1)

    assert budget.spent == 0.1
    waiting.get_coro().close()


def test_threads_never_overdraw_a_budget() -> None:
    budget, start = Budget("process", 1.0), threading.Barrier(8)
    highest: list[float] = []

    def work() -> None:
        start.wait(WAIT_SECONDS)
        for _ in range(100):
            held = budget.try_reserve(0.3)
            highest.append(budget.reserved)
            if held is not None:
                budget.settle(held, 0.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)

    assert max(highest) <= 0.9 + 1e-9
    assert (budget.spent, budget.reserved) == (0.0, 0.0)


def test_a_forked_child_does_not_inherit_a_lock_that_nobody_will_free() -> None:
    budget = Budget("process", 1.0)
    held = limits._lock
    held.acquire()
    try:
        limits._renew_lock()

        assert budget.try_reserve(0.5) is not None
    finally:
        held.release()


def test_a_forked_child_does_not_wait_for_its_parents_reservations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget("process", 1.0)
    assert budget.try_reserve(0.8) is not None

    monkeypatch.setattr("os.getpid", lambda: -1)

    assert budget.reserved == 0.0
    assert budget.try_reserve(0.8) is not None
