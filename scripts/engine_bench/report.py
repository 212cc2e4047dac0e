"""The figures as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.engine_bench.figures import (
    FLOORS,
    Figures,
    Floor,
    Key,
    Round,
    Spread,
    cpu_ratio,
    rate_ratio,
    summarise,
)

NAMES = {
    "seed": "seed's way",
    "run": "run",
    "raw": "raw opencode serve",
    "raw tools": "raw, tools on",
    "serve": "serve",
    "serve tools": "serve, tools on",
    "direct": "direct",
    "bare": "bare httpx",
    "lean": "bare, own clients",
}
SEED: Key = ("seed", 1)
_COLUMNS = {
    "": 20,
    "at once": 8,
    "prompts/s": 10,
    "x seed": 8,
    "p50 ms": 8,
    "p99 ms": 8,
    "CPU ms": 8,
    "client": 8,
    "MiB": 6,
    "peak MiB": 9,
}


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured.

    Attributes:
        machine: What it was measured on.
        rounds: The rounds of each way and concurrency.
        floors: The issue's floors with what was seen.
        missing: The ways that could not be measured, and why.
    """

    machine: Mapping[str, object]
    rounds: Mapping[Key, Sequence[Round]]
    floors: Sequence[Floor]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> dict[Key, Figures]:
        """The figures of each way and concurrency, in the table's order."""
        order = list(NAMES)
        keys = sorted(self.rounds, key=lambda key: (order.index(key[0]), key[1]))
        return {key: summarise(self.rounds[key]) for key in keys}

    @property
    def errors(self) -> list[str]:
        """What went wrong, way by way."""
        return [
            f"{NAMES[way]}, {concurrency} at once: {error}"
            for (way, concurrency), rounds in self.rounds.items()
            for each in rounds
            for error in each.errors
        ]

    @property
    def cpu_ratios(self) -> list[tuple[str, Spread]]:
        """What a prompt costs in CPU time, compared as the floors compare the rates."""
        return [
            (f"{name}, {way[1]} at once", cpu_ratio(self.rounds[way], self.rounds[base]))
            for name, way, base, _least in FLOORS
            if way in self.rounds and base in self.rounds
        ]

    def seed_ratio(self, key: Key) -> Spread | None:
        """Compare a way's rate with that of the seed's way, round by round."""
        if SEED not in self.rounds:
            return None
        return rate_ratio(self.rounds[key], self.rounds[SEED])


def as_text(results: Results) -> str:
    """Return the table, the floors, and what went wrong."""
    rounds = max((len(each) for each in results.rounds.values()), default=0)
    about = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        f"{about}; medians of {rounds} rounds, in turns",
        "CPU ms of a prompt, opencode and client together, then the client's process alone, with",
        "engine and relay; MiB: their peak memory by prompts at once. Nothing is the simulator's.",
        _line(_COLUMNS),
        *(_line(_row(results, key, each)) for key, each in results.figures.items()),
        "",
        *floor_lines(results.floors),
        *_cpu_lines(results.cpu_ratios),
        *(f"{NAMES[way]}: not measured: {why}" for way, why in results.missing.items()),
    ]
    return "\n".join([*lines, *_first_errors(results.errors)])


def _line(cells: Iterable[str]) -> str:
    first, *others = zip(cells, _COLUMNS.values(), strict=True)
    return f"{first[0]:{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)


def _row(results: Results, key: Key, figures: Figures) -> tuple[str, ...]:
    ratio = results.seed_ratio(key)
    return (
        NAMES[key[0]],
        str(key[1]),
        f"{figures.rate:.2f}" if figures.rate < 10 else f"{figures.rate:.1f}",
        f"{ratio.median:.1f}" if ratio else "",
        f"{figures.p50 * 1000:.0f}",
        f"{figures.p99 * 1000:.0f}",
        f"{figures.cpu_seconds * 1000:.1f}",
        f"{figures.client_cpu_seconds * 1000:.1f}",
        f"{figures.mib_per_prompt:.0f}",
        f"{figures.peak_mib:.0f}",
    )


def floor_lines(floors: Sequence[Floor]) -> list[str]:
    """Return a line for each floor: what was seen, between what, what is asked, whether it is."""
    lines = []
    for floor in floors:
        seen = floor.seen
        between = f"({_figure(seen.lowest, floor)} to {_figure(seen.highest, floor)})"
        asked, verdict = "", ""
        if floor.bound is not None:
            asked = f"at {floor.at} {_figure(floor.bound, floor)}"
            verdict = "ok" if floor.met else "NOT MET"
        lines.append(
            f"{floor.name:46}{_figure(seen.median, floor):>9} {between:26}{asked:18}{verdict}"
        )
    return lines


def _cpu_lines(ratios: Sequence[tuple[str, Spread]]) -> list[str]:
    lines = [
        f"{name:46}{each.median:9.3f} ({each.lowest:.3f} to {each.highest:.3f})"
        for name, each in ratios
    ]
    return ["", "the same for the CPU time of a prompt (less is better):", *lines] if lines else []


def _figure(value: float, floor: Floor) -> str:
    if floor.unit == "%":
        return f"{value:.1%}"
    if floor.unit == "ms":
        return f"{value * 1000:+.1f} ms"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _first_errors(errors: Sequence[str], most: int = 10) -> list[str]:
    if not errors:
        return []
    return ["", f"{len(errors)} prompts without the right answer:", *errors[:most]]


def as_json(results: Results) -> dict[str, Any]:
    """Return everything, single rounds included."""
    rows = []
    for key, figures in results.figures.items():
        ratio = results.seed_ratio(key)
        rows.append(
            {
                "way": key[0],
                "concurrency": key[1],
                **asdict(figures),
                "times_seed": asdict(ratio) if ratio else None,
                "rounds": [asdict(each) for each in results.rounds[key]],
            }
        )
    floors = [asdict(floor) | {"met": floor.met} for floor in results.floors]
    return {
        "machine": dict(results.machine),
        "floors": floors,
        "cpu_ratios": {name: asdict(ratio) for name, ratio in results.cpu_ratios},
        "missing": dict(results.missing),
        "ways": rows,
    }
