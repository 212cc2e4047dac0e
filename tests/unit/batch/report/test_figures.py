"""The figures: marks of an axis that a person reads at a glance."""

from __future__ import annotations

import json

import pytest

from chutes_opencode.batch.report.figures import _short, courses
from chutes_opencode.batch.report.summary import summarize
from chutes_opencode.batch.report.timeline import Clock
from tests.unit.batch.report.sample_run import record


@pytest.mark.parametrize(
    ("seconds", "mark"),
    [
        (0.0, "0"),
        (0.1, "100 ms"),
        (20.0, "20 s"),
        (80.0, "80 s"),
        (90.0, "1.5 min"),
        (120.0, "2 min"),
        (5400.0, "1.5 h"),
        (86400.0, "1 d"),
        (333.333, "5 min 33 s"),
    ],
)
def test_a_time_is_written_in_the_unit_that_fits(seconds: float, mark: str) -> None:
    assert _short(seconds) == mark


@pytest.mark.parametrize("cost_usd", [0.00004, 0.5, 123_456.0])
def test_the_marks_of_costs_have_room(cost_usd: float) -> None:
    one = record(0, cost_usd=cost_usd)

    *_, cost = courses(summarize([one], [], Clock((one.started_at,))))

    layout = json.loads(cost.json)["layout"]
    widest = max(len(mark) for mark in layout["yaxis"]["ticktext"])
    assert layout["margin"]["l"] >= 7 * widest
