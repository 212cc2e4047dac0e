"""What the engines' benchmark makes of its rounds."""

from __future__ import annotations

import pytest

from scripts.engine_bench.figures import (
    Floor,
    Round,
    Spread,
    added_seconds,
    long_answers_floor,
    percentile,
    rate_floors,
    rate_ratio,
    single_floor,
    steady_rate,
    summarise,
)


def a_round(rate: float, *, prompts: int = 10, concurrency: int = 1) -> Round:
    seconds = prompts / rate
    return Round(concurrency, seconds, (concurrency / rate,) * prompts)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ((3.0,), 99, 3.0),
        ((1.0, 2.0, 3.0), 50, 2.0),
        ((4.0, 1.0, 3.0, 2.0), 50, 2.0),
        (tuple(map(float, range(1, 101))), 99, 99.0),
        (tuple(map(float, range(1, 102))), 99, 100.0),
        ((5.0, 6.0), 0, 5.0),
    ],
)
def test_a_percentile_is_a_value_that_was_seen(
    values: tuple[float, ...], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_a_rate_counts_right_answers_only() -> None:
    seen = Round(1, 2.0, (0.5,) * 4, errors=("wrong",))

    assert seen.rate == 1.5


def test_a_summary_is_of_medians_by_prompt() -> None:
    rounds = [
        Round(4, 1.0, (0.1,) * 10, 20.0, 5.0, 1.0, peak_mib=400.0),
        Round(4, 2.0, (0.3,) * 10, 30.0, 6.0, 2.0, peak_mib=800.0, errors=("lost",)),
        Round(4, 5.0, (0.2,) * 10, 90.0, 7.0, 3.0, peak_mib=600.0),
    ]

    figures = summarise(rounds)

    assert (figures.prompts, figures.failed) == (30, 1)
    assert figures.rate == 4.5
    assert (figures.p50, figures.p99) == (0.2, 0.3)
    assert figures.cpu_seconds == 3.0
    assert figures.client_cpu_seconds == 0.6
    assert figures.simulator_cpu_seconds == 0.2
    assert (figures.peak_mib, figures.mib_per_prompt) == (600.0, 150.0)


def test_a_ratio_compares_each_round_with_the_one_beside_it() -> None:
    # The machine was twice as slow in the second pair; the ratio does not notice.
    serve = [a_round(30.0), a_round(15.0), a_round(28.0)]
    raw = [a_round(40.0), a_round(20.0), a_round(40.0)]

    ratio = rate_ratio(serve, raw)

    assert ratio.median == pytest.approx(0.75)
    assert ratio.lowest == pytest.approx(0.70)
    assert ratio.highest == pytest.approx(0.75)


def test_a_ratio_of_unequal_numbers_of_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        rate_ratio([a_round(1.0)], [a_round(1.0), a_round(2.0)])


def test_added_seconds_are_differences_of_medians() -> None:
    serve = [Round(1, 1.0, (0.060, 0.065, 0.900)), Round(1, 1.0, (0.070, 0.070))]
    raw = [Round(1, 1.0, (0.055, 0.060, 0.061)), Round(1, 1.0, (0.050, 0.065))]

    added = added_seconds(serve, raw)

    assert added.lowest == pytest.approx(0.005)
    assert added.highest == pytest.approx(0.020)


def test_the_steady_rate_leaves_the_common_start_out() -> None:
    seen = Round(2, 20.0, (9.0, 9.0, 5.0, 5.0, 4.0, 6.0))

    assert steady_rate(seen) == 2 / 5.0


@pytest.mark.parametrize(
    ("median", "bound", "at", "met"),
    [
        (0.9, 0.9, "least", True),
        (0.89, 0.9, "least", False),
        (0.010, 0.010, "most", True),
        (0.011, 0.010, "most", False),
    ],
)
def test_a_floor_is_met_by_the_median(median: float, bound: float, at: str, met: bool) -> None:
    seen = Spread(median, lowest=0.0, highest=1000.0)

    floor = Floor("a", seen, bound, "least" if at == "least" else "most", "×")

    assert floor.met is met


def test_rate_floors_are_told_of_what_was_measured() -> None:
    rounds = {
        ("seed", 1): [a_round(0.5)],
        ("serve", 16): [a_round(27.0)],
        ("raw", 16): [a_round(27.0)],
        ("direct", 16): [a_round(300.0)],
        ("serve", 64): [a_round(28.0)],
    }

    floors = rate_floors(rounds)

    assert [(floor.name, floor.seen.median) for floor in floors] == [
        ("serve, tools denied / seed's way, 16 at once", 54.0),
        ("serve, tools denied / raw, 16 at once", 1.0),
    ]


def test_a_single_warm_prompt_may_take_ten_milliseconds_longer() -> None:
    raw = [Round(1, 1.0, (0.055,))]

    assert single_floor([Round(1, 1.0, (0.064,))], raw).met
    assert not single_floor([Round(1, 1.0, (0.066,))], raw).met


@pytest.mark.parametrize(("later", "met"), [(6.2, True), (6.4, False)])
def test_long_answers_are_held_against_the_time_of_one_alone(later: float, met: bool) -> None:
    seen = Round(64, 21.0, (8.0,) * 64 + (later,) * 128)

    floor = long_answers_floor([seen], answer_seconds=6.0)

    assert floor.name == "answers of 6.0 s, 64 at once / ideal"
    assert floor.seen.median == pytest.approx(6.0 / later)
    assert floor.met is met
