"""`batch estimate` and `batch run --dry-run`: what a batch will use and cost, before it does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from chutes_opencode.cli.output import print_json, say

if TYPE_CHECKING:
    from chutes_opencode.batch.estimate.estimate import Estimate
    from chutes_opencode.batch.estimate.quote import Range
    from chutes_opencode.batch.item import Task
    from chutes_opencode.batch.running.intake import BatchOptions
    from chutes_opencode.batch.running.runner import BatchArguments
    from chutes_opencode.cli.batch_options import Asked
    from chutes_opencode.llm import ChutesOpenCodeLLM


_UNTIMED = "unknown; `batch estimate --like DIR` learns it from an earlier run"


def show_estimate(
    asked: Asked,
    llm: ChutesOpenCodeLLM,
    arguments: BatchArguments,
    *,
    out: str | None,
    like: str | None,
    measure: bool,
) -> None:
    """Check the items, and print what the prompts that have no result yet will use and cost.

    Args:
        asked: The command's options.
        llm: What will run them.
        arguments: How, as `run_batch` takes it.
        out: The run's folder or URL, where no run need be.
        like: Another run's, to learn from.
        measure: Whether some prompts are tried against the simulator.
    """
    from chutes_opencode.batch.estimate.estimate import estimate_batch
    from chutes_opencode.batch.items.sources import open_source
    from chutes_opencode.batch.running.intake import check_items
    from chutes_opencode.batch.running.runner import batch_options
    from chutes_opencode.cli.session import waiting

    options = batch_options(arguments)
    run, other = (None if place is None else local_copy(place) for place in (out, like))
    with tempfile.TemporaryDirectory(prefix="chutes-opencode-") as folder, waiting():
        dataset = check_items(open_source(asked.items, options.format), Path(folder), options)
        found = estimate_batch(
            dataset.tasks,
            llm,
            items=dataset.count,
            standing=standing_results(run, options),
            defaults={"output_schema": options.output_schema} if options.output_schema else None,
            out_dir=run,
            like=other,
            measure=measure,
            simulate=asked.simulate,
            concurrency=options.concurrency,
            max_cost_usd=options.max_cost_usd,
        )
    if asked.as_json:
        print_json({"ok": True, **found.to_json(), "bad_rows": dataset.bad_count})
        return
    if dataset.bad_count:
        say(f"{dataset.bad_count:,} bad rows are left out; the first: {dataset.bad[0]}")
    print_estimate(found)


def local_copy(place: str) -> Path:
    """Return the folder of a run, or what is there of one at a URL, as a folder of this machine."""
    from chutes_opencode.batch.store.run_place import VIEW, open_place

    found = open_place(place, VIEW)
    found.pull()
    return found.folder


def standing_results(out: Path | None, options: BatchOptions) -> Callable[[Task], str]:
    """Return what tells which tasks have a result that stands, without touching the folder."""
    from chutes_opencode.batch.store.folder import RunFolder
    from chutes_opencode.batch.store.index import Index
    from chutes_opencode.batch.store.manifest import read_manifest

    index = Index()
    if out is not None and read_manifest(out) is not None:
        for record in RunFolder(out).records():
            if not options.wants_again(record):
                index.add(record.key, record.content_hash, record.status)
    return lambda task: index.standing(task.key, task.item.content_hash)


def print_estimate(estimate: Estimate) -> None:
    """Print an estimate: a table by model, what to look at, and how it came about."""
    from chutes_opencode.batch.report.numbers import count, counted
    from chutes_opencode.cli.output import print_table
    from chutes_opencode.cli.tables import Column, print_columns

    models = estimate.models
    typer.echo(
        f"{counted(estimate.items, 'item')}, {counted(estimate.tasks, 'prompt')}, "
        f"{count(estimate.pending)} to run"
    )
    if models:
        typer.echo()
        print_columns(
            [
                Column("model", [model.asked.name for model in models]),
                Column("prompts", [count(model.tasks) for model in models], right=True),
                Column("input", [_tokens(model.input_tokens) for model in models], right=True),
                Column("output", [_tokens(model.output_tokens) for model in models], right=True),
                Column("cost", [_dollars(model.cost_usd) for model in models], right=True),
            ]
        )
        typer.echo()
        print_table(("", ""), _totals(estimate))
    for warning in estimate.warnings:
        say(f"warning: {warning}")
    typer.echo(f"\n{estimate.method}")


def _totals(estimate: Estimate) -> Sequence[tuple[str, str]]:
    from chutes_opencode.batch.report.numbers import dollars
    from chutes_opencode.cli.batch_progress import span

    rows = [
        ("cost", _range(estimate.cost_usd, dollars)),
        ("time", _UNTIMED if estimate.minutes is None else span(estimate.minutes * 60)),
    ]
    account = estimate.account
    if account is not None and account.balance_usd is not None:
        rows.append(("balance", dollars(account.balance_usd)))
    if account is not None and account.quota is not None:
        rows.append(("quota", f"{account.used or 0:,.0f} of {account.quota:,.0f} requests used"))
    return rows


def _tokens(tokens: Range) -> str:
    return _range(tokens, lambda number: f"{number:,.0f}")


def _dollars(cost: Range | None) -> str:
    from chutes_opencode.batch.report.numbers import dollars

    return _range(cost, dollars)


def _range(found: Range | None, shown: Callable[[Any], str]) -> str:
    """Return a range: what is expected, and within which bounds."""
    if found is None:
        return "unknown"
    expected, low, high = shown(found.expected), shown(found.low), shown(found.high)
    return expected if low == high else f"{expected} ({low} - {high})"
