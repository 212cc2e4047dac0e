"""The page's sections of figures: head, totals, errors, models, the places of the plots."""

from __future__ import annotations

import re
from urllib.parse import quote

from chutes_opencode.batch.report import numbers
from chutes_opencode.batch.report.cells import (
    UNNAMED,
    UNNAMED_CLASS,
    item_link,
    number,
    pair,
    script_safe,
    table,
)
from chutes_opencode.batch.report.distributions import Distribution
from chutes_opencode.batch.report.facts import Facts
from chutes_opencode.batch.report.figures import Figure
from chutes_opencode.batch.report.markup import Html, join, tag, text
from chutes_opencode.batch.report.summary import (
    ErrorFigures,
    ModelFigures,
    Summary,
    input_tokens,
    output_tokens,
)

MESSAGE_CHARACTERS = 600


def head(facts: Facts, summary: Summary) -> Html:
    """Return the run's name, state, dates and models."""
    state = facts.state + (f" by {facts.stopped_by}" if facts.stopped_by else "")
    lines = [
        ("Models", ", ".join(each.model or UNNAMED for each in summary.models) or numbers.UNKNOWN),
        ("Started", numbers.moment(facts.sessions[0] if facts.sessions else None)),
        ("Last result", numbers.moment(summary.ended_at)),
    ]
    if len(facts.sessions) > 1:
        lines.append(("Resumed", f"{numbers.counted(len(facts.sessions) - 1, 'time')}"))
    if facts.waiting and facts.state in ("running", "stopping"):
        lines.append(("Waiting", facts.waiting))
    return join(
        [
            tag("p", "Batch report", class_="eyebrow"),
            tag(
                "h1",
                tag("span", facts.run_id, class_="name"),
                " ",
                tag("span", state, class_="state", data_state=facts.state),
            ),
            tag("dl", *(pair(*each) for each in lines), class_="facts"),
        ]
    )


def totals(facts: Facts, summary: Summary) -> Html:
    """Return how far the run is, and what it took."""
    left = None if facts.total is None else max(facts.total - summary.finished, 0)
    all_tasks = summary.finished + (left or 0)
    running = summary.timeline.duration_s
    spent, vain = summary.usage, summary.vain_usage
    tiles = [
        _tile("Done", numbers.count(summary.ok), numbers.percent(summary.ok, all_tasks), "ok"),
        _tile(
            "Failed",
            numbers.count(summary.failed),
            numbers.percent(summary.failed, all_tasks),
            "failed" if summary.failed else "",
        ),
        _tile(
            "Left", numbers.UNKNOWN if left is None else numbers.count(left), _of(facts, all_tasks)
        ),
        _tile("Spent", _cost(summary.cost_usd, summary.unpriced), _in_vain_usd(summary)),
        _tile("Tokens in", numbers.count(input_tokens(spent)), _cached(summary)),
        _tile(
            "Tokens out",
            numbers.count(output_tokens(spent)),
            f"{numbers.count(output_tokens(vain))} in vain" if output_tokens(vain) else "",
        ),
        _tile("Wall time", numbers.seconds(running or None), "pauses left out"),
        _tile(
            "Prompts per second",
            numbers.rate(summary.finished / running if running and summary.finished else None),
            "on average",
        ),
    ]
    return join([_bar(summary.ok, summary.failed, all_tasks), tag("dl", *tiles, class_="tiles")])


def _bar(ok: int, failed: int, total: int) -> Html:
    told = f"{numbers.count(ok)} done, {numbers.count(failed)} failed, of {numbers.count(total)}"
    parts = [
        tag("span", class_=name, style=f"width:{100 * part / total:.3f}%")
        for name, part in (("ok", ok), ("failed", failed))
        if part
    ]
    return tag("div", *parts, class_="progress", role="img", aria_label=told)


def _tile(label: str, value: str, note: str = "", kind: str = "") -> Html:
    return tag(
        "div",
        tag("dt", label),
        tag("dd", tag("strong", value), " ", tag("span", note)),
        class_=f"tile {kind}".strip(),
    )


def _of(facts: Facts, tasks: int) -> str:
    return "the total is not known" if facts.total is None else f"of {numbers.count(tasks)}"


def _cached(summary: Summary) -> str:
    cached = summary.usage.cache_read
    estimated = "some estimated" if summary.usage.estimated else ""
    told = f"{numbers.count(cached)} from cache" if cached else ""
    return ", ".join(each for each in (told, estimated) if each)


def _cost(known: float | None, unpriced: int) -> str:
    if known is None:
        return "unknown" if unpriced else "$0"
    return f"≥ {numbers.dollars(known)}" if unpriced else numbers.dollars(known)


def _in_vain_usd(summary: Summary) -> str:
    if summary.cost_usd is None:
        return "no price is known" if summary.unpriced else ""
    vain = f"{numbers.dollars(summary.vain_usd)} in vain" if summary.vain_usd else ""
    unpriced = (
        f"{numbers.counted(summary.unpriced, 'prompt')} without a price" if summary.unpriced else ""
    )
    return ", ".join(each for each in (vain, unpriced) if each)


def errors(facts: Facts, summary: Summary) -> Html:
    """Return what went wrong, by class, each with an example."""
    if not summary.errors:
        said = "Nothing has failed." if summary.finished else "Nothing has a result yet."
        return tag("p", said, class_="calm")
    rows = [_error_row(each, summary.failed) for each in summary.errors]
    again = "" if facts.state == "running" else _retry_hint(facts)
    return join([table(("Class", "#Count", "Share", "An example, and what to do"), rows), again])


def _retry_hint(facts: Facts) -> Html:
    return tag(
        "p",
        "To try these again, run the same command with ",
        tag("code", "--retry-failed"),
        "; what is done stays.",
        class_="note",
    )


def _error_row(error: ErrorFigures, failed: int) -> list[Html]:
    share = 100 * error.count / failed
    message = error.example.message
    if len(message) > MESSAGE_CHARACTERS:
        message = message[:MESSAGE_CHARACTERS] + " …"
    status = f"HTTP {error.example.status}" if error.example.status else ""
    return [
        tag(
            "th",
            tag("a", _class_name(error.type), href=f"#error/{quote(error.type, safe='')}"),
            tag("small", status),
            scope="row",
            role="rowheader",
        ),
        number(numbers.count(error.count)),
        tag(
            "td",
            tag("span", tag("span", style=f"width:{share:.2f}%"), class_="share"),
            tag("small", numbers.percent(error.count, failed)),
            role="cell",
        ),
        tag(
            "td",
            tag("p", message or "no message", class_="message"),
            tag("p", _coded(error.example.hint), class_="hint") if error.example.hint else "",
            tag("p", item_link(error.position, error.item), class_="of"),
            class_="wide",
            role="cell",
        ),
    ]


def _class_name(name: str) -> Html:
    """Return a class's name that may break between its words."""
    return join(re.split(r"(?<=[a-z])(?=[A-Z])", name or UNNAMED_CLASS), tag("wbr"))


def _coded(hint: str) -> Html:
    """Return a hint, what stands in backticks as code."""
    parts = hint.split("`")
    if len(parts) % 2 == 0:
        return text(hint)
    return join(tag("code", each) if place % 2 else each for place, each in enumerate(parts))


def models(summary: Summary) -> Html:
    """Return a table of what was asked of each model."""
    if not summary.models:
        return tag("p", "No model was asked yet.", class_="calm")
    headings = (
        "Model",
        "#Items",
        "#Done",
        "#Failed",
        "#Tokens in",
        "#Tokens out",
        "#Cost",
        "#p50",
        "#p95",
    )
    return table(headings, [_model_row(each) for each in summary.models])


def _model_row(model: ModelFigures) -> list[Html]:
    items = model.ok + model.failed
    return [
        tag("th", model.model or UNNAMED, scope="row", role="rowheader"),
        number(numbers.count(items)),
        number(numbers.count(model.ok), numbers.percent(model.ok, items) if items else ""),
        number(numbers.count(model.failed), kind="failed" if model.failed else ""),
        number(numbers.count(input_tokens(model.usage))),
        number(numbers.count(output_tokens(model.usage))),
        number(_cost(model.cost_usd, model.unpriced)),
        number(numbers.seconds(model.p50)),
        number(numbers.seconds(model.p95)),
    ]


def spread_table(spread: Distribution) -> Html:
    """Return the percentiles of a spread of times."""
    columns = (
        ("p50", spread.p50),
        ("p95", spread.p95),
        ("p99", spread.p99),
        ("longest", spread.longest),
    )
    return tag(
        "dl",
        *(pair(name, numbers.seconds(value)) for name, value in columns),
        class_="percentiles",
    )


def figure(drawn: Figure, more: str = "") -> Html:
    """Return the place of a plot, with its figure in it."""
    return tag(
        "figure",
        tag("figcaption", tag("h3", drawn.title), _legend(drawn), tag("p", drawn.says)),
        tag("div", class_="plot", role="img", aria_label=drawn.says, data_figure=drawn.name),
        more,
        tag(
            "script",
            Html(script_safe(drawn.json)),
            type="application/json",
            id=f"figure-{drawn.name}",
        ),
    )


def _legend(drawn: Figure) -> str:
    if len(drawn.series) < 2:
        return ""
    entries = (
        tag("li", tag("i", style=f"background:var({colour})"), label)
        for label, colour in drawn.series
    )
    return tag("ul", *entries, class_="legend", aria_hidden="true")
