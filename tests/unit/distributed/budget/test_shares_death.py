"""What becomes of dollars when workers, or the books themselves, die."""

from __future__ import annotations

import pytest

from chutes_opencode.distributed.budget.shares import SILENCE_S, Report, Shares
from tests.unit.distributed.budget.cluster import Cluster


def test_what_a_dead_worker_held_is_doubtful_for_it_may_have_reserved_it_since() -> None:
    cluster = Cluster(1.0, workers=2)
    dead, living = cluster.living
    dead.ask(0.25)
    cluster.deliver()
    dead.ask(0.25)  # in its block: nobody is told
    cluster.kill(dead)

    cluster.shares.forget(dead.node)

    assert cluster.shares.view() == pytest.approx((0.0, 0.0, 0.5))
    living.ask(0.6)
    cluster.settle_down()
    assert "maybe $0.500000 more" in living.refused[0].raw_message
    living.ask(0.5)
    cluster.deliver()
    assert len(living.open) == 1
    assert living.budget.held == pytest.approx(0.5), "and no more"


def test_what_a_dead_worker_had_told_is_known() -> None:
    cluster = Cluster(1.0, workers=1)
    [dead] = cluster.living
    dead.ask(0.25)
    cluster.deliver()
    dead.settle(0, 0.4, 0.6)
    dead.ask(0.1)
    cluster.sync(dead, last=True)

    cluster.shares.forget(dead.node)

    assert cluster.shares.view() == pytest.approx((0.1, 0.0, 0.15))


def test_those_that_waited_for_a_dead_worker_are_told() -> None:
    cluster = Cluster(1.0, workers=2)
    dead, living = cluster.living
    dead.ask(0.9)
    cluster.deliver()
    living.ask(0.5)
    cluster.deliver()
    cluster.deliver()
    cluster.kill(dead)

    cluster.shares.forget(dead.node)
    cluster.settle_down()

    assert len(living.refused) == 1


def test_a_dead_worker_that_was_short_keeps_nobody_waiting() -> None:
    cluster = Cluster(1.0, workers=3)
    first, dead, living = cluster.living
    first.ask(0.6)
    cluster.sync(first)
    cluster.sync(first, last=True)
    dead.ask(0.9)
    cluster.sync(dead)
    living.ask(0.1)
    cluster.sync(living)
    cluster.kill(dead)

    cluster.shares.forget(dead.node)
    cluster.deliver()

    assert len(living.open) == 1


@pytest.mark.parametrize(("silence", "doubtful"), [(SILENCE_S, 0.0), (SILENCE_S + 1, 0.5)])
def test_a_worker_that_says_nothing_is_dead(silence: float, doubtful: float) -> None:
    cluster = Cluster(1.0, workers=1)
    cluster.living[0].ask(0.25)
    cluster.deliver()

    cluster.shares.expire(silence)

    assert cluster.shares.view().doubtful == pytest.approx(doubtful)


def test_a_worker_that_was_taken_for_dead_comes_back() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.5)
    cluster.deliver()
    cluster.shares.forget(worker.node)

    worker.settle(0, 0.2)
    cluster.sync(worker, last=True)

    assert cluster.shares.view() == pytest.approx((0.1, 0.0, 0.0))


def test_a_worker_may_be_started_again_under_its_name() -> None:
    cluster = Cluster(1.0)
    cluster.join("w")
    dead = cluster.living[0]
    dead.ask(0.25)
    cluster.deliver()
    cluster.kill(dead)
    cluster.shares.forget("w")

    again = cluster.join("w")
    again.ask(0.1)
    cluster.settle_down()

    assert cluster.shares.view() == pytest.approx((0.05, 0.0, 0.5))


def test_a_report_that_comes_late_changes_nothing() -> None:
    shares = Shares(1.0)
    shares.report(Report("a", number=2, spent=0.5, need=0.1, wish=0.1), 0.0)

    answer = shares.report(Report("a", number=1, spent=0.2), 0.0)

    assert (answer.handed, shares.view().spent) == (0.1, 0.5)


def test_new_books_know_every_claim_from_the_store() -> None:
    cluster = Cluster(1.0, workers=3)
    dead, first, second = cluster.living
    for worker in (dead, first):
        worker.ask(0.2)
        cluster.sync(worker)
    cluster.kill(dead)

    cluster.restart_books()
    second.ask(0.4)
    cluster.sync(second)

    assert second.waiting, "0.7 of 1 are out; whether they are used, nobody has told yet"
    cluster.sync(first)
    while cluster.deliver():
        pass
    assert len(second.open) == 1
    assert cluster.shares.free == pytest.approx(1.0 - 0.4 - 0.2 - second.budget.held)


def test_books_without_a_store_learn_what_the_living_hold() -> None:
    cluster = Cluster(1.0, workers=1)
    [worker] = cluster.living
    worker.ask(0.2)
    cluster.deliver()
    cluster.stored.clear()

    cluster.restart_books()
    cluster.sync(worker)

    assert cluster.shares.free == pytest.approx(0.6)
