"""A run in figures: each result counts once, and each try with what it cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.report.summary import EXTREMES, Summary, summarize
from chutes_opencode.batch.report.timeline import Clock
from chutes_opencode.results import Usage
from tests.unit.batch.report.sample_run import STARTED, failure, record


def summary(records: list[Record], retried: list[Record] | None = None) -> Summary:
    return summarize(records, retried or [], Clock([STARTED]), "the/default")


def test_tries_that_count_no_more_still_cost() -> None:
    came = summary([record(0), failure(1)], [record(2, status=CUT, cost_usd=0.5)])

    assert (came.ok, came.failed, came.retries, came.finished) == (1, 1, 1, 2)
    assert came.cost_usd == pytest.approx(0.52)
    assert came.vain_usd == pytest.approx(0.51)
    assert came.usage.input == 300
    assert came.timeline.cost_usd[-1] == pytest.approx(0.52)
    assert came.timeline.ok[-1] == 1


def test_what_an_answer_cost_in_vain_is_part_of_it() -> None:
    came = summary([record(0, failed_usage=Usage(input=40, output=7))])

    assert (came.vain_usage.input, came.vain_usage.output) == (40, 7)
    assert came.usage.input == 100


def test_an_unknown_price_is_not_zero() -> None:
    assert summary([record(0, cost_usd=None)]).cost_usd is None

    partly = summary([record(0, cost_usd=None), record(1)])
    assert (partly.cost_usd, partly.unpriced) == (0.01, 1)


def test_a_record_that_names_no_model_counts_for_the_runs() -> None:
    (model,) = summary([record(0, model="")]).models

    assert model.model == "the/default"


def test_models_stand_in_the_order_of_what_they_were_asked() -> None:
    came = summary([record(0, model="a"), record(1, model="b"), failure(2, model="b")])

    assert [(each.model, each.ok, each.failed) for each in came.models] == [
        ("b", 1, 1),
        ("a", 1, 0),
    ]
    assert came.models[0].p50 == pytest.approx(2.0)


def test_a_class_of_failures_is_told_with_its_first() -> None:
    came = summary([record(0), failure(1, "ServerError"), failure(2), failure(3)])

    assert [(each.type, each.count, each.item, each.position) for each in came.errors] == [
        ("RateLimitError", 2, "item-002", 2),
        ("ServerError", 1, "item-001", 1),
    ]
    assert came.errors[0].example.message == "RateLimitError of 2"


def test_the_slowest_and_the_dearest_are_named_in_their_order() -> None:
    slow = [record(n, duration_s=float(n), queued_s=0.0) for n in range(30)]

    came = summary([*slow, record(30, cost_usd=9.0)])

    assert [each.position for each in came.slowest] == list(range(29, 29 - EXTREMES, -1))
    assert came.dearest[0].record.id == "item-030"


def test_latency_has_no_wait_for_a_place_in_it() -> None:
    assert summary([record(0, duration_s=9.0, queued_s=7.0)]).latency.p50 == pytest.approx(2.0)


def test_nothing_is_a_summary_too() -> None:
    came = summary([])

    assert (came.finished, came.cost_usd, came.unpriced, came.ended_at) == (0, None, 0, None)
    assert (came.latency.bins, came.models, came.errors, came.slowest) == ((), (), (), ())


def test_texts_are_let_go() -> None:
    def records() -> Iterator[Record]:
        for number in range(3_000):
            yield record(number, result=f"{number}" + "x" * 10_000)

    tracemalloc.start()
    summarize(records(), [], Clock([STARTED]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3_000_000  # all texts together are 30 MB
