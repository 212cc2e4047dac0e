"""Times: percentiles are exact, and each is in a bin."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.report.distributions import BINS, distribution, percentile

TIMES = st.lists(st.floats(0, 1e5, allow_nan=False), max_size=60)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.99, 3.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
        ([0.0, 10.0, 20.0, 30.0], 0.95, 28.5),
    ],
)
def test_a_percentile_lies_between_the_nearest_values(
    values: list[float], share: float, expected: float | None
) -> None:
    assert percentile(values, share) == pytest.approx(expected)


@given(TIMES, TIMES)
def test_each_time_is_in_one_bin(ok: list[float], failed: list[float]) -> None:
    spread = distribution(ok, array("d", failed))

    assert sum(each.ok for each in spread.bins) == len(ok) == spread.count
    assert sum(each.failed for each in spread.bins) == len(failed)
    assert len(spread.bins) in (0, 1, BINS)


def test_bins_are_of_equal_width_on_a_logarithmic_axis() -> None:
    spread = distribution([0.1, 1.0, 10.0], array("d"))

    ratios = {round(each.high / each.low, 6) for each in spread.bins}
    assert len(ratios) == 1
    assert spread.bins[0].low == pytest.approx(0.1)
    assert spread.bins[-1].high == pytest.approx(10.0)


def test_failures_are_shown_and_not_in_the_percentiles() -> None:
    spread = distribution([], array("d", [600.0, 1.0]))

    assert (spread.p50, spread.longest) == (None, None)
    assert sum(each.failed for each in spread.bins) == 2


def test_times_that_are_all_the_same_have_a_bin_around_them() -> None:
    (only,) = distribution([2.0, 2.0], array("d")).bins

    assert only.low < 2.0 < only.high
    assert only.ok == 2
