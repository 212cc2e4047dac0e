"""How times are spread: exact percentiles, and bins for a plot whose axis is logarithmic."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BINS = 48
# What is shorter is counted in the first bin: a logarithm needs a smallest value.
SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class Bin:
    """How many fell between two times.

    Attributes:
        low: Seconds, included.
        high: Seconds, included in the last bin only.
        ok: Answers.
        failed: Failures.
    """

    low: float
    high: float
    ok: int
    failed: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """A spread of times; the percentiles are those of the answers.

    Attributes:
        count: Answers that have such a time.
        p50: Seconds; None: there is none. (So are the others.)
        p95: Seconds.
        p99: Seconds.
        longest: Seconds.
        bins: Of equal width on a logarithmic axis, failures too.
    """

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None
    bins: tuple[Bin, ...] = ()


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile as numpy does by default: linear between the two nearest values.

    Args:
        ordered: Values, ascending.
        share: 0.95 for the 95th.
    """
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def distribution(ok: Iterable[float], failed: array[float]) -> Distribution:
    """Return how the times of answers, and of failures, are spread.

    Args:
        ok: Seconds, in any order.
        failed: Seconds, in any order.
    """
    ordered = array("d", sorted(ok))
    return Distribution(
        len(ordered),
        percentile(ordered, 0.5),
        percentile(ordered, 0.95),
        percentile(ordered, 0.99),
        ordered[-1] if ordered else None,
        _bins(ordered, failed),
    )


def _bins(ok: array[float], failed: array[float]) -> tuple[Bin, ...]:
    if not ok and not failed:
        return ()
    ends = [max(pick(each), SHORTEST_S) for each in (ok, failed) if each for pick in (min, max)]
    low, high = math.log(min(ends)), math.log(max(ends))
    if high - low < 0.01:  # all the same: a bin around it
        low, high = low - 0.05, high + 0.05
        return (Bin(math.exp(low), math.exp(high), len(ok), len(failed)),)
    width = (high - low) / BINS
    counts = [_counts(values, low, width) for values in (ok, failed)]
    edges = [math.exp(low + width * number) for number in range(BINS + 1)]
    return tuple(Bin(edges[n], edges[n + 1], counts[0][n], counts[1][n]) for n in range(BINS))


def _counts(values: array[float], low: float, width: float) -> list[int]:
    counts = [0] * BINS
    for value in values:
        place = int((math.log(max(value, SHORTEST_S)) - low) / width)
        counts[min(max(place, 0), BINS - 1)] += 1
    return counts
