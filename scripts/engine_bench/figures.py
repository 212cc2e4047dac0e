"""What rounds of prompts tell: medians, ratios of paired rounds, and whether floors are met. Pure.

Compared ways are measured in turns (A B, B A, …): round `n` of one belongs to round `n` of the
other, a ratio is taken of each such pair, and what is told is the median of the ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Round:
    """One round of prompts through one way.

    Attributes:
        concurrency: Prompts at once; each client sends its next one when it has its answer.
        seconds: From the first prompt's start to the last one's end.
        latencies: Seconds of each prompt, in the order in which they began.
        cpu_seconds: What the way's processes have used: the client, the relay, opencode.
        client_cpu_seconds: That of the process which the client is in, with engine and relay.
        simulator_cpu_seconds: What the simulator has used meanwhile.
        peak_mib: The most memory that those processes had together.
        errors: What went wrong, one text for each prompt that was not answered, or wrongly.
    """

    concurrency: int
    seconds: float
    latencies: tuple[float, ...]
    cpu_seconds: float = 0.0
    client_cpu_seconds: float = 0.0
    simulator_cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    errors: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return (len(self.latencies) - len(self.errors)) / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """A way at one concurrency: medians of its rounds, percentiles of all its prompts.

    Attributes:
        prompts: How many were sent in all.
        failed: How many of them have no right answer.
        rate: Prompts a second.
        p50: Seconds of a prompt, the median.
        p99: Seconds that 99 of 100 prompts do not exceed.
        cpu_seconds: CPU-seconds of a prompt, the simulator's left out.
        client_cpu_seconds: Those of the process which the client is in, with engine and relay.
        simulator_cpu_seconds: The simulator's.
        peak_mib: Peak memory of the way's processes together.
        mib_per_prompt: The same, divided by the prompts at once.
    """

    prompts: int
    failed: int
    rate: float
    p50: float
    p99: float
    cpu_seconds: float
    client_cpu_seconds: float
    simulator_cpu_seconds: float
    peak_mib: float
    mib_per_prompt: float


def summarise(rounds: Sequence[Round]) -> Figures:
    """Sum the rounds of a way at one concurrency up; there is at least one."""
    latencies = [seconds for each in rounds for seconds in each.latencies]
    peak = statistics.median(each.peak_mib for each in rounds)
    return Figures(
        prompts=len(latencies),
        failed=sum(len(each.errors) for each in rounds),
        rate=statistics.median(each.rate for each in rounds),
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        cpu_seconds=_median_share(rounds, [each.cpu_seconds for each in rounds]),
        client_cpu_seconds=_median_share(rounds, [each.client_cpu_seconds for each in rounds]),
        simulator_cpu_seconds=_median_share(
            rounds, [each.simulator_cpu_seconds for each in rounds]
        ),
        peak_mib=peak,
        mib_per_prompt=peak / rounds[0].concurrency,
    )


def _median_share(rounds: Sequence[Round], values: Sequence[float]) -> float:
    """Return the median of what falls to one prompt in each round."""
    shares = (value / len(each.latencies) for each, value in zip(rounds, values, strict=True))
    return statistics.median(shares)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was taken several times.

    Attributes:
        median: Its median.
        lowest: The lowest one seen.
        highest: The highest one seen.
    """

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def rate_ratio(rounds: Sequence[Round], base: Sequence[Round]) -> Spread:
    """Compare the rates of two ways, round by round; both have the same number of rounds."""
    return Spread.of([one.rate / other.rate for one, other in zip(rounds, base, strict=True)])


def cpu_ratio(rounds: Sequence[Round], base: Sequence[Round]) -> Spread:
    """Compare the CPU time of a prompt, round by round; it depends less on a busy machine."""
    pairs = zip(rounds, base, strict=True)
    return Spread.of([_cpu_of_a_prompt(one) / _cpu_of_a_prompt(other) for one, other in pairs])


def _cpu_of_a_prompt(round_: Round) -> float:
    return round_.cpu_seconds / len(round_.latencies)


def added_seconds(rounds: Sequence[Round], base: Sequence[Round]) -> Spread:
    """Return by how much a prompt takes longer: of each pair of rounds the medians' difference."""
    pairs = zip(rounds, base, strict=True)
    return Spread.of([percentile(a.latencies, 50) - percentile(b.latencies, 50) for a, b in pairs])


def steady_rate(round_: Round) -> float:
    """Return the prompts a second that a busy way holds, by Little's law.

    The first prompt of each client is left out: they all begin at the same moment, which happens
    once in a batch; of the later ones, `concurrency` are always under way.
    """
    later = round_.latencies[round_.concurrency :]
    return round_.concurrency / statistics.fmean(later)


@dataclass(frozen=True, slots=True)
class Floor:
    """What the issue asks of a figure.

    Attributes:
        name: What was measured.
        seen: The figure.
        bound: What it shall reach; None: nothing is asked.
        at: "least" or "most".
        unit: How the figure is written: "×", "%" (of 1.0) or "ms" (of seconds).
    """

    name: str
    seen: Spread
    bound: float | None
    at: Literal["least", "most"]
    unit: Literal["×", "%", "ms"]

    @property
    def met(self) -> bool:
        """Whether the median reaches it."""
        seen = self.seen.median
        if self.bound is None:
            return True
        return seen >= self.bound if self.at == "least" else seen <= self.bound


Key = tuple[str, int]
"""A way's name and a concurrency."""

FLOORS: tuple[tuple[str, Key, Key, float | None], ...] = (
    ("serve, tools denied / seed's way", ("serve", 16), ("seed", 1), 50.0),
    ("serve, tools on / seed's way", ("serve tools", 16), ("seed", 1), 50.0),
    ("serve, tools denied / raw", ("serve", 16), ("raw", 16), 0.9),
    ("serve, tools on / raw, tools on", ("serve tools", 16), ("raw tools", 16), 0.9),
    ("direct / bare", ("direct", 16), ("bare", 16), 0.7),
    ("direct / bare, own clients", ("direct", 16), ("lean", 16), None),
)
"""Name, way, the way it is compared with, and the least ratio of the rates, where one is asked."""
MOST_ADDED_SECONDS = 0.010
LEAST_SHARE_OF_IDEAL = 0.95


def rate_floors(rounds: Mapping[Key, Sequence[Round]]) -> list[Floor]:
    """Compare what was measured with what the issue asks; ways that are missing are left out."""
    return [
        Floor(
            f"{name}, {way[1]} at once", rate_ratio(rounds[way], rounds[base]), least, "least", "×"
        )
        for name, way, base, least in FLOORS
        if way in rounds and base in rounds
    ]


def single_floor(serve: Sequence[Round], raw: Sequence[Round]) -> Floor:
    """Compare single warm prompts."""
    added = added_seconds(serve, raw)
    return Floor("one warm prompt: serve - raw", added, MOST_ADDED_SECONDS, "most", "ms")


def long_answers_floor(rounds: Sequence[Round], answer_seconds: float) -> Floor:
    """Compare the rate at answers that take their time with the ideal one.

    Args:
        rounds: All at the same concurrency, with two waves of prompts or more.
        answer_seconds: What such an answer takes alone, without anything in between.
    """
    shares = [steady_rate(each) * answer_seconds / each.concurrency for each in rounds]
    name = f"answers of {answer_seconds:.1f} s, {rounds[0].concurrency} at once / ideal"
    return Floor(name, Spread.of(shares), LEAST_SHARE_OF_IDEAL, "least", "%")
