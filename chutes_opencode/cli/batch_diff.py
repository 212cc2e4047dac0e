"""`batch diff`: two runs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from chutes_opencode.cli.output import JsonOption, counted, print_json, print_table, say

if TYPE_CHECKING:
    from chutes_opencode.batch.compare import Comparison

SHOWN_CHANGES = 20


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Folder or URL of a run.", show_default=False)
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Folder or URL of another.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: what came out differently, what it cost more or less."""
    from chutes_opencode.batch.compare import compare
    from chutes_opencode.batch.store.folder import open_folder
    from chutes_opencode.batch.store.manifest import differences
    from chutes_opencode.cli.session import waiting

    first, second = open_folder(a), open_folder(b)
    if first.path.samefile(second.path):
        say(f"{a} and {b} are the same run: there is nothing to compare")
    settings = differences(first.manifest, second.manifest)
    with waiting():
        found = compare(first.records(), second.records())
    if as_json:
        print_json({"ok": True, "settings": settings, **asdict(found)})
        return
    for difference in settings:
        say(f"setting {difference}")
    own = [str(run.manifest.settings.get("model") or "") for run in (first, second)]
    _print_sides((a, b), own, found)
    print()
    print_table(("", ""), _difference_lines(found))
    if found.changes:
        print()
        _print_changes(found)


def _print_sides(names: tuple[str, str], own: Sequence[str], found: Comparison) -> None:
    """Print both runs side by side; `own` are the models of what asked for none by name."""
    from chutes_opencode.batch.report.numbers import count, dollars, seconds

    asked = [
        ", ".join(model or default for model in side.models)
        for side, default in zip((found.a, found.b), own, strict=True)
    ]
    rows = [
        ("models", *asked),
        ("results", *(count(side.items) for side in (found.a, found.b))),
        ("answers", *(count(side.ok) for side in (found.a, found.b))),
        ("failed", *(count(side.failed) for side in (found.a, found.b))),
        ("tokens", *(count(side.tokens) for side in (found.a, found.b))),
        ("cost", *(dollars(side.cost_usd) for side in (found.a, found.b))),
        ("median time", *(seconds(side.p50_s) for side in (found.a, found.b))),
        ("95 % within", *(seconds(side.p95_s) for side in (found.a, found.b))),
    ]
    print_table(("", *names), rows)


def _difference_lines(found: Comparison) -> list[tuple[str, str]]:
    from chutes_opencode.batch.report.numbers import count

    rows = [
        ("in both", found.both),
        ("same text", found.same_text),
        ("other text", found.other_text),
        ("failed, now answered", found.fixed),
        ("answered, now failed", found.broken),
        ("failed in both", found.failed_both),
        ("only in the first", len(found.only_a)),
        ("only in the second", len(found.only_b)),
    ]
    lines = [(name, count(number)) for name, number in rows]
    per_item = _more(found.median_tokens, found.median_cost_usd, found.median_latency_s)
    return (
        [*lines, ("median item", f"{per_item}, where both have an answer")] if per_item else lines
    )


def _more(tokens: float | None, cost_usd: float | None, latency_s: float | None) -> str:
    """Return what the second run took more, or less."""
    from chutes_opencode.batch.report.numbers import dollars, seconds

    parts = [] if tokens is None else [f"{tokens:+,.0f} tokens"]
    for value, shown in ((cost_usd, dollars), (latency_s, seconds)):
        if value is not None:
            parts.append(f"{'-' if value < 0 else '+'}{shown(abs(value))}")
    return ", ".join(parts)


def _print_changes(found: Comparison) -> None:
    rows: Sequence[Sequence[str]] = [
        (
            _named(change.key),
            change.before if change.before == change.after else f"{change.before} → {change.after}",
            {True: "same", False: "other", None: ""}[change.same_text],
            "asked differently" if change.asked_differently else "",
            _more(change.tokens, change.cost_usd, change.latency_s),
        )
        for change in found.changes[:SHOWN_CHANGES]
    ]
    print_table(("item", "became", "text", "", "more"), rows)
    more = len(found.changes) - len(rows)
    if more:
        say(f"and {counted(more, 'other change')} (--json has them all)")


def _named(key: tuple[str, str, int]) -> str:
    item, model, sample = key
    return " ".join(part for part in (item, model, f"sample {sample}" if sample else "") if part)
