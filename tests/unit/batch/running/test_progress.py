"""The meter counts what is durable, and guesses the rest from the last half minute."""

from __future__ import annotations

import pytest

from chutes_opencode.batch.record import CUT, FAILED, OK, Record, RecordedError
from chutes_opencode.batch.running.progress import RUNNING, STOPPING, WINDOW_S, Meter, Snapshot
from chutes_opencode.results import Usage

START = 1_000_000.0


def record(status: str = OK, cost: float | None = 0.5, error: str = "ServerError") -> Record:
    recorded = RecordedError(error, "it broke") if status == FAILED else None
    usage = Usage(input=6, output=4)
    return Record("a", "m", status=status, cost_usd=cost, usage=usage, error=recorded)


def test_nothing_is_known_before_anything_has_finished() -> None:
    shown = Meter(10, now=START, spent_usd=2.0).snapshot(START)

    assert shown == Snapshot(total=10, spent_usd=2.0, started_at=START, updated_at=START)
    assert shown.left == 10
    assert (shown.eta_s, shown.projected_usd) == (None, None)


def test_each_end_is_counted_as_what_it_is() -> None:
    meter = Meter(10, now=START)
    meter.skipped, meter.failed_before = 3, 1
    for status, error in [(OK, ""), (FAILED, "ServerError"), (FAILED, "TimeoutError"), (CUT, "")]:
        meter.add(record(status, error=error), START)

    shown = meter.snapshot(START, in_flight=2, waiting="w", state=STOPPING, stopped_by="budget")

    assert (shown.done, shown.failed, shown.skipped, shown.left) == (1, 3, 3, 3)
    assert shown.errors == {"ServerError": 1, "TimeoutError": 1}
    assert shown.spent_usd == 2.0, "what was cut was paid for, too"
    assert (shown.in_flight, shown.waiting) == (2, "w")
    assert (shown.state, shown.stopped_by) == (STOPPING, "budget")


def test_what_is_left_is_expected_to_cost_and_to_last_as_what_was_done() -> None:
    meter = Meter(100, now=START, spent_usd=3.0)
    for second in range(10):
        meter.add(record(), START + second)

    shown = meter.snapshot(START + 10)

    assert shown.prompts_per_s == pytest.approx(1.0)
    assert shown.tokens_per_s == pytest.approx(10.0)
    assert shown.eta_s == pytest.approx(90.0)
    assert shown.spent_usd == pytest.approx(8.0)
    assert shown.projected_usd == pytest.approx(8.0 + 45.0)


def test_only_the_last_half_minute_makes_the_rate() -> None:
    meter = Meter(100, now=START)
    for second in range(60):
        meter.add(record(), START + second)
    meter.add(record(), START + 59.5)

    assert meter.snapshot(START + 60).prompts_per_s == pytest.approx(30 / WINDOW_S)
    stalled = meter.snapshot(START + 60 + WINDOW_S)
    assert (stalled.prompts_per_s, stalled.eta_s) == (0.0, None)
    assert stalled.done == 61


def test_a_clock_that_is_set_back_loses_no_count() -> None:
    meter = Meter(2, now=START)
    meter.add(record(), START + 5)
    meter.add(record(), START - 100)

    assert meter.snapshot(START + 5).done == 2
    assert meter.snapshot(START - 100).prompts_per_s == 2.0


def test_an_unknown_price_costs_nothing_that_could_be_shown() -> None:
    meter = Meter(2, now=START)
    meter.add(record(cost=None), START)

    shown = meter.snapshot(START)
    assert (shown.spent_usd, shown.projected_usd, shown.state) == (0.0, 0.0, RUNNING)
