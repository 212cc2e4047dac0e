"""A picture of the figures for the README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.engine_bench.figures import Figures, Key
from scripts.engine_bench.report import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour, line, and points by which the label is moved up: a limit's above its engine's.
_LINES = {
    "lean": ("#767676", "--", 6),
    "direct": ("#1b7f4d", "-", -6),
    "raw": ("#767676", ":", 6),
    "serve": ("#1f5fbf", "-", -6),
}
_POINTS = {"run": ("#b5651d", 6), "seed": ("#a32638", -6)}
_INK = "#333333"
_WARM = ("raw", "serve", "direct", "lean")
_WARM_CONCURRENCY = 16


def draw(figures: Mapping[Key, Figures], path: Path) -> None:
    """Draw prompts a second by prompts at once, and what a prompt costs in CPU time.

    Args:
        figures: Those of each way and concurrency.
        path: File to write; its ending tells the format (.svg, .png).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {
        "font.size": 10,
        "svg.hashsalt": "chutes-opencode",
        "svg.fonttype": "none",  # text stays text: a third of the size, and it can be searched
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": "#bbbbbb",
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    drawing, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 4), width_ratios=(3, 2), layout="constrained"
    )
    _draw_rates(left, figures)
    _draw_costs(right, figures)
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
    drawing.savefig(path, dpi=150, facecolor="white", metadata=metadata)
    pyplot.close(drawing)


def _draw_rates(axes: Axes, figures: Mapping[Key, Figures]) -> None:
    for way, (colour, style, up) in _LINES.items():
        places = sorted(at for name, at in figures if name == way)
        if not places:
            continue
        rates = [figures[way, at].rate for at in places]
        axes.plot(places, rates, style, color=colour, marker="o", markersize=4)
        _label(axes, _named(way, rates[-1]), places[-1], rates[-1], colour, up)
    for way, (colour, up) in _POINTS.items():
        if (way, 1) in figures:
            rate = figures[way, 1].rate
            axes.plot([1], [rate], "o", color=colour)
            _label(axes, _named(way, rate), 1, rate, colour, up)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    axes.set_xlim(0.8, 700)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(axis="y", color="#eeeeee")
    axes.set_xlabel("prompts at once")
    axes.set_title("prompts per second", loc="left", fontsize=11)


def _label(axes: Axes, text: str, x: float, y: float, colour: str, up: float) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(8, up),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
    )


def _named(way: str, rate: float) -> str:
    return f"{NAMES[way]}  " + (f"{rate:.2g}" if rate < 10 else f"{rate:.0f}")


def _draw_costs(axes: Axes, figures: Mapping[Key, Figures]) -> None:
    bars = [
        (way, figures[key].cpu_seconds)
        for way, at in (("seed", 1), ("run", 1), *((warm, _WARM_CONCURRENCY) for warm in _WARM))
        if (key := (way, at)) in figures
    ]
    for row, (way, seconds) in enumerate(bars):
        axes.plot([seconds], [row], "o", color=_colour(way), markersize=9)
        _label(axes, _duration(seconds), seconds, row, _colour(way), 0)
    axes.set_yticks(range(len(bars)), [NAMES[way] for way, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlim(min(seconds for _, seconds in bars) / 2, max(seconds for _, seconds in bars) * 8)
    axes.xaxis.set_major_formatter(lambda seconds, _position: _duration(seconds))
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("log scale")
    axes.set_title("CPU time of a prompt", loc="left", fontsize=11)


def _colour(way: str) -> str:
    return _LINES[way][0] if way in _LINES else _POINTS[way][0]


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
