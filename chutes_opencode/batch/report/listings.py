"""The page's lists: the slowest and dearest items, what was left out, settings and prices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chutes_opencode.batch.report import numbers
from chutes_opencode.batch.report.cells import UNNAMED, item_link, number, table
from chutes_opencode.batch.report.embedding import Embedded
from chutes_opencode.batch.report.facts import Facts
from chutes_opencode.batch.report.markup import Html, join, tag
from chutes_opencode.batch.report.summary import (
    Ranked,
    Summary,
    input_tokens,
    latency,
    output_tokens,
)

_PRICES = (("input", "Input"), ("output", "Output"), ("cache_read", "Cached input"))


def extremes(summary: Summary) -> Html:
    """Return the slowest and the dearest items."""
    parts = []
    for title, ranked, lead in (
        ("Slowest", summary.slowest, _slow_cells),
        ("Dearest", summary.dearest, _dear_cells),
    ):
        if not ranked:
            none = "No item has a latency." if title == "Slowest" else "No item has a cost."
            parts.append(tag("div", tag("h3", title), tag("p", none, class_="calm")))
            continue
        rows = [[_item_cell(each), *lead(each)] for each in ranked]
        headings = {
            "Slowest": ("Item", "#Latency", "#Tokens out", "#Tries"),
            "Dearest": ("Item", "#Cost", "#Tokens in", "#Tokens out"),
        }[title]
        parts.append(tag("div", tag("h3", title), table(headings, rows)))
    return tag("div", *parts, class_="pair")


def _item_cell(ranked: Ranked) -> Html:
    record = ranked.record
    failed = tag("small", record.error.type if record.error else "failed", class_="failed")
    return tag(
        "th",
        item_link(ranked.position, record.id),
        failed if record.status != "ok" else tag("small", record.model),
        scope="row",
        role="rowheader",
    )


def _slow_cells(ranked: Ranked) -> list[Html]:
    record = ranked.record
    out = output_tokens(record.usage)
    told = (numbers.seconds(latency(record)), numbers.count(out), numbers.count(record.attempts))
    return [number(each) for each in told]


def _dear_cells(ranked: Ranked) -> list[Html]:
    usage = ranked.record.usage
    counts = (numbers.count(input_tokens(usage)), numbers.count(output_tokens(usage)))
    return [number(each) for each in (numbers.dollars(ranked.record.cost_usd), *counts)]


def left_out(facts: Facts, summary: Summary, embedded: Embedded) -> Html:
    """Say what the page does not carry, and where it lies."""
    said = []
    everything = numbers.count(summary.finished)
    if embedded.num_rows < summary.finished:
        said.append(
            f"The table holds {numbers.count(embedded.num_rows)} of {everything} items: the "
            "slowest, dearest and failed ones first, then the others in their order."
        )
    if embedded.num_texts < embedded.num_rows:
        said.append(
            f"{numbers.counted(embedded.num_texts, 'item')} of {everything} "
            "have their texts and transcripts in this page (the slowest, dearest and failed ones "
            "first, then the others in their order). A search finds the others by id and by the "
            "beginning of their text."
        )
    if not said:
        return Html()
    where = (
        tag("code", f"{facts.folder}/results.jsonl"),
        tag("code", f"{facts.folder}/transcripts/"),
    )
    return tag(
        "p", " ".join(said), " All of it is in ", where[0], " and ", where[1], ".", class_="note"
    )


def settings(facts: Facts) -> Html:
    """Return the settings that answers depend on, the prices and the dataset."""
    listed = {**{f"dataset {key}": value for key, value in facts.dataset.items()}, **facts.settings}
    rows = [
        [tag("th", key.replace("_", " "), scope="row", role="rowheader"), _value(value)]
        for key, value in listed.items()
        if value not in (None, "", [], {}, ())
    ]
    rows += [
        [tag("th", f"{name} version", scope="row", role="rowheader"), _value(value)]
        for name, value in facts.versions.items()
    ]
    return tag(
        "div",
        tag(
            "div",
            tag("h3", "Settings"),
            table(("Setting", "Value"), rows)
            if rows
            else tag("p", "None are known.", class_="calm"),
        ),
        tag("div", tag("h3", "Prices"), _prices(facts.prices)),
        class_="pair",
    )


def _prices(prices: Mapping[str, Mapping[str, float]]) -> Html:
    if not prices:
        return tag("p", "No price was known when the run began: costs are unknown.", class_="calm")
    rows = [
        [
            tag("th", model or UNNAMED, scope="row", role="rowheader"),
            *(number(numbers.dollars(price.get(key))) for key, _ in _PRICES),
        ]
        for model, price in prices.items()
    ]
    note = tag("p", "US dollars per million tokens, as they were in force.", class_="note")
    return join([table(("Model", *(f"#{name}" for _, name in _PRICES)), rows), note])


def _value(value: Any) -> Html:
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = "\n".join(value)
    if isinstance(value, Mapping | list | tuple):
        written = json.dumps(value, ensure_ascii=False, indent=1, default=str)
        return tag("td", tag("pre", written, tabindex="0"), class_="wide", role="cell")
    shown = {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else str(value)
    return tag("td", tag("span", shown or "", class_="message"), class_="wide", role="cell")
