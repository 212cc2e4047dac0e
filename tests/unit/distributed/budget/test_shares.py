"""How dollars are shared out among workers."""

from __future__ import annotations

import pytest

from tests.unit.distributed.budget.cluster import NAME, Cluster


def amounts(cluster: Cluster) -> list[int]:
    """Tell how many requests run in each worker."""
    return [len(worker.open) for worker in cluster.living]


# --- handing out ---------------------------------------------------------------------------------


def test_who_needs_dollars_is_handed_a_block_and_not_only_what_it_needs() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living

    worker.ask(0.1)
    cluster.deliver()

    assert amounts(cluster) == [1]
    assert worker.budget.held == pytest.approx(0.2), "one more request goes without asking"


def test_a_block_is_no_more_than_a_workers_part_of_what_is_there() -> None:
    cluster = Cluster(1.0, workers=2)
    first, second = cluster.living
    cluster.sync(second)
    for _ in range(20):
        first.ask(0.1)

    cluster.deliver()

    assert amounts(cluster) == [5, 0]


def test_many_reserve_in_their_blocks_without_a_word() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.1)
    cluster.deliver()

    for _ in range(50):
        worker.settle(0, 0.02)
        worker.ask(0.1)

    assert amounts(cluster) == [1]
    assert not worker.budget.is_urgent()


def test_what_was_spent_before_is_not_handed_out() -> None:
    cluster = Cluster(1.0, 0.95, workers=1)
    [worker] = cluster.living

    worker.ask(0.1)
    cluster.deliver()

    [error] = worker.refused
    assert error.limit == NAME
    assert "$0.950000 is spent" in error.raw_message


def test_what_another_has_spent_is_told_to_who_waits() -> None:
    cluster = Cluster(1.0, workers=2)
    first, second = cluster.living
    first.ask(0.8)
    cluster.deliver()
    second.ask(0.5)
    cluster.deliver()
    assert second.waiting, "the first may cost less than its bound"

    first.settle(0, 1.0)
    cluster.settle_down()

    assert "0.800000 is spent" in second.refused[0].raw_message


# --- giving back ---------------------------------------------------------------------------------


def test_what_nobody_used_for_an_interval_is_given_back_but_for_one_request() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    for _ in range(4):
        worker.ask(0.1)
    cluster.deliver()
    for _ in range(3):
        worker.settle(0, 0.0)

    cluster.sync(worker, idle=True)
    assert worker.budget.left == pytest.approx(0.4), "all of it was used in this interval"
    cluster.sync(worker, idle=True)

    assert worker.budget.left == pytest.approx(0.1)
    assert cluster.shares.free == pytest.approx(0.8)


def test_an_idle_worker_keeps_nothing() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.1)
    cluster.deliver()
    worker.settle(0, 0.5)

    cluster.sync(worker, idle=True)
    cluster.sync(worker, idle=True)

    assert worker.budget.is_idle
    assert cluster.shares.free == pytest.approx(0.95)


def test_a_block_is_called_back_when_another_is_short() -> None:
    cluster = Cluster(1.0, workers=2)
    first, second = cluster.living
    first.ask(0.5)  # and as much again for the next one
    cluster.sync(first)
    second.ask(0.4)

    cluster.sync(second)
    assert cluster.shares.rung == {first.budget.holder}
    cluster.sync(first)  # learns of it
    assert first.budget.is_urgent()
    cluster.sync(first)  # gives it back
    cluster.deliver()

    assert amounts(cluster) == [1, 1]


def test_while_another_is_short_what_settles_is_given_back_at_once() -> None:
    cluster = Cluster(1.0, workers=2)
    first, second = cluster.living
    first.ask(0.9)
    cluster.deliver()
    second.ask(0.5)
    while cluster.deliver():
        pass
    assert not first.budget.is_urgent()

    first.settle(0, 0.1)
    assert first.budget.is_urgent()
    cluster.settle_down()

    assert second.refused == []
    assert second.budget.spent == pytest.approx(0.25)


def test_two_that_each_hold_half_of_what_both_need_do_not_wait_for_each_other() -> None:
    cluster = Cluster(1.0, workers=2)
    for worker in cluster.living:
        worker.ask(0.25)
        cluster.sync(worker)
        worker.ask(0.25)
        cluster.sync(worker)
    assert cluster.shares.free == pytest.approx(0)
    for worker in cluster.living:
        for _ in range(2):
            worker.settle(0, 0.0)
        worker.ask(0.8)

    cluster.settle_down()

    assert [worker.budget.spent for worker in cluster.living] == pytest.approx([0.4, 0.0])
    assert len(cluster.living[1].refused) == 1, "0.8 of 1 that 0.4 is spent of"


def test_what_is_about_to_be_taken_is_not_given_back() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.budget.add_waiter(lambda: None, 0.3)
    cluster.sync(worker)
    assert worker.budget.left == pytest.approx(0.6)

    worker.budget.report(last=True)

    assert worker.budget.left == pytest.approx(0.3), "its waiter was woken, and will come"


def test_a_request_that_can_never_fit_keeps_nobody_waiting() -> None:
    cluster = Cluster(1.0, workers=3)
    first, second, third = cluster.living
    first.ask(0.9)
    cluster.sync(first)
    first.settle(0, 1.0)
    cluster.sync(first, last=True)
    second.budget.add_waiter(lambda: None, 0.5)  # not woken yet
    cluster.sync(second)

    cluster.sync(second)
    third.ask(0.05)
    cluster.sync(third)

    assert amounts(cluster) == [0, 0, 1]


def test_a_request_that_waits_no_more_keeps_nobody_waiting() -> None:
    cluster = Cluster(1.0, workers=3)
    first, second, third = cluster.living
    first.ask(0.6)
    cluster.sync(first)
    cluster.sync(first, idle=True)
    second.ask(0.9)
    cluster.sync(second)
    third.ask(0.1)
    cluster.sync(third)

    second.waiting.pop()[1]()
    assert second.budget.is_urgent()
    cluster.settle_down()

    assert third.budget.spent == pytest.approx(0.05)


def test_closing_gives_back_all_that_is_not_reserved() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.2)
    cluster.deliver()

    cluster.sync(worker, last=True)

    assert worker.budget.left == 0.0
    assert cluster.shares.free == pytest.approx(0.8)


# --- answers beyond their bounds ------------------------------------------------------------------


def test_an_answer_beyond_its_bound_takes_what_its_worker_has_and_asks_for_more() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.1)
    cluster.deliver()
    [held] = worker.open

    worker.budget._raise(held, 0.2)
    assert worker.budget.is_urgent()
    cluster.deliver()

    assert worker.budget.left == pytest.approx(0.1)


def test_an_answer_that_cost_more_than_anybody_had_is_counted_in_full() -> None:
    cluster = Cluster(1.0, workers=2)
    first, second = cluster.living
    first.ask(0.4)
    cluster.deliver()

    first.settle(0, 2.0)
    cluster.deliver()
    second.ask(0.3)
    cluster.settle_down()

    assert cluster.shares.view().spent == pytest.approx(0.8)
    assert "0.800000 is spent" in second.refused[0].raw_message
