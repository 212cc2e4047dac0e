"""The plots: plotly figures of a few hundred points each, counted beforehand.

Colours are names of the page's own (`var(--ok)`): the page puts in those of light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from chutes_opencode.batch.report import numbers
from chutes_opencode.batch.report.distributions import Distribution
from chutes_opencode.batch.report.summary import Summary
from chutes_opencode.batch.report.timeline import Timeline
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    import plotly.graph_objects as go

HINT = "pip install 'chutes-opencode[report]'"
# More classes than this have no colours of their own.
CLASSES = 6

# Marks on the axes of times, seconds: a logarithm's own marks would read "2×10⁻¹".
_TIMES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000)
_MARKS = 6.5
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
# Room left of a plot, pixels: beside its marks, and for each of their characters.
_MARGIN, _CHARACTER = 14, 7
_STEPS_LONG = (21600, 43200, 86400, 172800, 604800)


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot.

    Attributes:
        name: For the page to find it by.
        title: Its heading.
        says: What it shows, in a sentence, for those who do not see it.
        json: plotly's own form.
        series: What is drawn in which colour: for a legend, where there is more than one.
    """

    name: str
    title: str
    says: str
    json: str
    series: tuple[tuple[str, str], ...] = ()


def plotly_js() -> str:
    """Return the source of plotly.js.

    Raises:
        ConfigurationError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigurationError(
            raw_message="a report's plots need plotly, which is not installed", hint=HINT
        ) from error
    return str(get_plotlyjs())


def spreads(summary: Summary) -> tuple[Figure, ...]:
    """Return the plots of latency and time to first token; none where nothing was measured."""
    named = (
        ("latency", "Latency", summary.latency),
        ("first-token", "Time to first token", summary.first_token),
    )
    return tuple(_spread(*each) for each in named if each[2].bins)


def courses(summary: Summary) -> tuple[Figure, ...]:
    """Return the plots over time; none for a run of which nothing has ended."""
    line = summary.timeline
    if not (summary.finished or summary.retries):
        return ()
    drawn = [
        _course(
            Figure(
                "prompts", "Prompts", f"{numbers.counted(summary.finished, 'prompt')} ended", ""
            ),
            line,
            (("done", line.ok, "--ok"), ("failed", line.failed, "--failed")),
        ),
        _course(
            Figure(
                "tokens",
                "Tokens",
                f"{numbers.count(line.input[-1])} in and {numbers.count(line.output[-1])} out",
                "",
            ),
            line,
            (("in", line.input, "--series-1"), ("out", line.output, "--series-2")),
        ),
    ]
    if summary.cost_usd is not None:
        spent = numbers.dollars(summary.cost_usd)
        told = Figure("cost", "Cost", f"{spent} spent", "")
        drawn.append(_course(told, line, (("spent", line.cost_usd, "--series-3"),), money=True))
    return tuple(drawn)


def failures(summary: Summary) -> Figure | None:
    """Return the plot of failures over time, by class; None: nothing has failed."""
    import plotly.graph_objects as go

    line = summary.timeline
    if not line.errors:
        return None
    shown = [*line.errors.items()][: CLASSES + 1]
    if len(line.errors) > CLASSES + 1:
        rest = [values for _, values in [*line.errors.items()][CLASSES:]]
        shown[CLASSES:] = [("others", [sum(step) for step in zip(*rest, strict=True)])]
    seconds, width, grouped = _grouped(line, [values for _, values in shown], 4)
    bars = [
        go.Bar(
            x=seconds,
            y=values,
            width=width,
            name=escape(name or "unnamed"),
            marker={"color": f"var(--class-{number + 1})", "line": {"width": 0}},
            hovertemplate="%{y:,}",
        )
        for number, ((name, _), values) in enumerate(zip(shown, grouped, strict=True))
    ]
    says = f"{numbers.counted(summary.failed, 'failure')} by class"
    layout = _layout(_time_axis(line), barmode="stack", hovermode="x unified")
    layout["yaxis"].update(_count_axis(max(map(sum, zip(*grouped, strict=True)))))
    series = tuple(
        (name or "unnamed", f"--class-{number + 1}") for number, (name, _) in enumerate(shown)
    )
    return Figure("failures", "Failures over time", says, _json(go.Figure(bars, layout)), series)


def _grouped(
    line: Timeline, columns: list[list[int]], size: int
) -> tuple[list[float], float, list[list[int]]]:
    """Join neighbouring steps, so that bars are wide enough to be seen."""
    starts = range(0, len(line.seconds), size)
    step = line.duration_s / len(line.seconds) if line.duration_s else 1.0
    middles = [(start + size / 2) * step for start in starts]
    return middles, step * size * 0.9, [[sum(c[s : s + size]) for s in starts] for c in columns]


def _spread(name: str, title: str, spread: Distribution) -> Figure:
    import plotly.graph_objects as go

    middles = [(math.log10(each.low) + math.log10(each.high)) / 2 for each in spread.bins]
    width = math.log10(spread.bins[0].high) - math.log10(spread.bins[0].low)
    spans = [f"{numbers.seconds(each.low)} – {numbers.seconds(each.high)}" for each in spread.bins]
    columns = (
        ("done", [each.ok for each in spread.bins], "--ok"),
        ("failed", [each.failed for each in spread.bins], "--failed"),
    )
    bars = [
        go.Bar(
            x=middles,
            y=counts,
            width=width * 0.92,
            name=label,
            customdata=spans,
            marker={"color": f"var({colour})", "line": {"width": 0}},
            hovertemplate="%{customdata}: %{y:,} " + label + "<extra></extra>",
        )
        for label, counts, colour in columns
        if any(counts)
    ]
    axis = _log_axis(spread.bins[0].low, spread.bins[-1].high)
    layout = _layout(axis, barmode="stack", bargap=0)
    layout["yaxis"].update(_count_axis(max(each.ok + each.failed for each in spread.bins)))
    layout["margin"]["t"] = 46
    figure = go.Figure(bars, layout)
    _mark_percentiles(figure, spread)
    says = (
        f"Half within {numbers.seconds(spread.p50)}, 95 % within {numbers.seconds(spread.p95)}, "
        f"99 % within {numbers.seconds(spread.p99)}"
        if spread.count
        else "Failures only"
    )
    series = tuple((label, colour) for label, counts, colour in columns if any(counts))
    return Figure(name, title, says, _json(figure), series)


def _mark_percentiles(figure: go.Figure, spread: Distribution) -> None:
    if len(spread.bins) == 1:  # all the same
        return
    for place, (label, value) in enumerate(
        (("p50", spread.p50), ("p95", spread.p95), ("p99", spread.p99))
    ):
        if value is None:
            continue
        at = math.log10(max(value, spread.bins[0].low))
        figure.add_vline(x=at, line={"color": "var(--ink)", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=at,
            y=1.0 + 0.08 * place,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            text=label,
            font={"size": 11, "color": "var(--muted)"},
        )


def _course(
    told: Figure,
    line: Timeline,
    columns: Sequence[tuple[str, Sequence[float], str]],
    *,
    money: bool = False,
) -> Figure:
    import plotly.graph_objects as go

    traces = [
        go.Scatter(
            x=[0.0, *line.seconds],
            y=[0, *values],
            name=label,
            mode="lines",
            line={"color": f"var({colour})", "width": 2},
            fill="tozeroy" if len(columns) == 1 else None,
            fillcolor=f"var({colour}-faint)" if len(columns) == 1 else None,
            hovertemplate="$%{y:,.4~r}" if money else "%{y:,}",
        )
        for label, values, colour in columns
    ]
    layout = _layout(_time_axis(line), hovermode="x unified")
    top = max(max(values) for _, values, _ in columns)
    layout["yaxis"].update(_money_axis(top) if money else _count_axis(top))
    widest = max(len(text) for text in layout["yaxis"]["ticktext"])
    layout["margin"]["l"] = max(layout["margin"]["l"], _MARGIN + _CHARACTER * widest)
    figure = go.Figure(traces, layout)
    for at in line.resumed:
        figure.add_vline(x=at, line={"color": "var(--muted)", "width": 1, "dash": "dot"})
    series = tuple((label, colour) for label, _, colour in columns)
    return Figure(told.name, told.title, told.says, _json(figure), series)


def _layout(xaxis: dict[str, Any], **more: Any) -> dict[str, Any]:
    line = {"gridcolor": "var(--line)", "zeroline": False, "linecolor": "var(--line)"}
    return {
        "template": "none",
        "margin": {"l": 52, "r": 14, "t": 12, "b": 30},
        "paper_bgcolor": "var(--clear)",
        "plot_bgcolor": "var(--clear)",
        "font": {"color": "var(--muted)", "size": 12, "family": "system-ui, sans-serif"},
        "hoverlabel": {
            "bgcolor": "var(--surface)", "bordercolor": "var(--line)",
            "font": {"color": "var(--ink)"},
        },
        "showlegend": False,
        "xaxis": {**line, "showgrid": False, "fixedrange": True, **xaxis},
        "yaxis": {**line, "rangemode": "tozero", "fixedrange": True},
        **more,
    }  # fmt: skip


def _log_axis(low: float, high: float) -> dict[str, Any]:
    if high / low < 1.2:  # all the same
        middle = math.sqrt(low * high)
        at = math.log10(middle)
        label = numbers.seconds(middle)
        return {"tickvals": [at], "ticktext": [label], "range": [at - 0.5, at + 0.5]}
    marks: list[float] = []
    apart = math.log10(high / low) / _MARKS
    for mark in _TIMES:
        if low * 0.98 <= mark <= high * 1.02 and (
            not marks or math.log10(mark / marks[-1]) > apart
        ):
            marks.append(mark)
    if len(marks) < 2:
        marks = [low, high]
    return {
        "tickvals": [math.log10(mark) for mark in marks],
        "ticktext": [_short(mark) for mark in marks],
        "tickangle": 0,
    }


def _time_axis(line: Timeline) -> dict[str, Any]:
    steps = [*_STEPS, *_STEPS_LONG]
    step = next((each for each in steps if line.duration_s / each <= 5), line.duration_s / 5)
    marks = [step * number for number in range(int(line.duration_s / step) + 1)] if step else [0.0]
    return {
        "tickvals": marks,
        "ticktext": [_short(mark) for mark in marks],
        "range": [0, line.duration_s or 1],
        "hoverformat": ",.0f",
        "ticksuffix": " s",
        "tickangle": 0,
    }


def _count_axis(top: float) -> dict[str, Any]:
    marks = _marks(top, whole=True)
    return {"tickvals": marks, "ticktext": [_short_count(mark) for mark in marks]}


def _money_axis(top: float) -> dict[str, Any]:
    marks = _marks(top)
    return {"tickvals": marks, "ticktext": [numbers.dollars(mark) for mark in marks]}


def _marks(top: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from 0 up to `top`, six at most."""
    if top <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(power * each for each in (1, 2, 5, 10) if power * each * 5 >= top * 0.9999)
    if whole:
        step = max(step, 1.0)
    return [step * number for number in range(int(top / step * 1.0001) + 1)]


def _short_count(number: float) -> str:
    """Return a mark of an axis: "500", "1.5k", "20M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9999:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _short(seconds: float) -> str:
    """Return a mark of an axis: "0", "100 ms", "80 s", "2 min", "1.5 h"."""
    if not seconds:
        return "0"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms")):
        number = seconds / size
        # "80 s" reads better than "1.33 min".
        if 0.9999 <= number < 1000 and math.isclose(number, round(number, 1), rel_tol=1e-6):
            return f"{number:.3g} {unit}"
    return numbers.seconds(seconds)


def _json(figure: go.Figure) -> str:
    return str(figure.to_json())
