"""What a batch came to: a table and some sentences for people, one object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chutes_opencode.cli.output import (
    FAILED,
    INTERRUPTED,
    OK,
    error_fields,
    exit_code,
    say,
    tell_error,
)

if TYPE_CHECKING:
    from chutes_opencode.batch.report.summary import ModelFigures
    from chutes_opencode.batch.running.summary import BatchSummary

INTERRUPT, BUDGET = "interrupt", "budget"
RETRY = "--retry-failed"


def figures(folder: Path) -> tuple[ModelFigures, ...]:
    """Count a run's results and tries by model; what asked for none has the run's."""
    from chutes_opencode.batch.report.summary import summarize
    from chutes_opencode.batch.report.timeline import Clock
    from chutes_opencode.batch.store.folder import RunFolder

    run = RunFolder(folder)
    own = str(run.manifest.settings.get("model") or "")
    found = summarize(run.records(), run.attempts(), Clock((run.manifest.created_at,))).models
    return tuple(model if model.model else replace(model, model=own) for model in found)


def summary_code(summary: BatchSummary) -> int:
    """Return the exit code that tells how a batch ended."""
    if summary.stop_error is not None:
        return exit_code(summary.stop_error) or FAILED
    if summary.stopped_by == INTERRUPT:
        return INTERRUPTED
    return FAILED if summary.failed or summary.left else OK


def summary_fields(
    summary: BatchSummary, models: Sequence[ModelFigures], report: Path | None
) -> dict[str, Any]:
    """Return a summary as JSON has it."""
    return {
        "ok": summary_code(summary) == OK,
        "out_dir": str(summary.out_dir),
        "place": summary.place,
        "results": results_place(summary),
        "total": summary.total,
        "done": summary.done,
        "skipped": summary.skipped,
        "failed": summary.failed,
        "left": summary.left,
        "resent": summary.resent,
        "bad_rows": summary.bad,
        "usage": asdict(summary.usage),
        "cost_usd": summary.cost_usd,
        "errors": dict(summary.errors),
        "duration_s": round(summary.duration_s, 3),
        "models": [asdict(model) for model in models],
        "report": None if report is None else str(report),
        "stopped_by": summary.stopped_by,
        "error": None if summary.stop_error is None else error_fields(summary.stop_error),
    }


def results_place(summary: BatchSummary) -> str:
    """Return where a run's results are: their file; the whole run, where workers have shards."""
    from chutes_opencode.batch.store.lines import RESULTS
    from chutes_opencode.batch.store.remote import is_url
    from chutes_opencode.batch.store.shard_files import SHARDS

    if is_url(summary.place):
        return summary.place
    sharded = (summary.out_dir / SHARDS).is_dir()
    return str(summary.out_dir if sharded else summary.out_dir / RESULTS)


def tell_summary(summary: BatchSummary, models: Sequence[ModelFigures]) -> None:
    """Say on stderr what a batch came to, and what can be done next."""
    if models:
        _print_models(models)
    for line in summary_lines(summary):
        say(line)
    if summary.stop_error is not None:
        tell_error(summary.stop_error)


def summary_lines(summary: BatchSummary) -> list[str]:
    """Return what a batch came to, a sentence each."""
    from chutes_opencode.batch.report.numbers import count, counted, dollars, seconds

    were = "was" if summary.bad == 1 else "were"
    bad = [f"{counted(summary.bad, 'bad row')} {were} left out"] if summary.bad else []
    if not summary.left and not summary.stopped_by and not summary.done and not summary.failed:
        return [f"nothing is left to do: {counted(summary.skipped, 'prompt')} done before", *bad]
    answers = counted(summary.done + summary.skipped, "answer")
    before = f", {count(summary.skipped)} of them before" if summary.skipped else ""
    spent = dollars(summary.cost_usd if summary.usage.num_requests else 0.0)
    lines = [
        f"{answers}{before}, {count(summary.failed)} failed, {count(summary.left)} left; "
        f"{spent} in all, {seconds(summary.duration_s)}",
        *bad,
    ]
    if summary.resent:
        again = counted(summary.resent, "prompt")
        lines.append(f"about {again} sent again, and perhaps paid twice: what ran them was lost")
    if summary.errors:
        kinds = sorted(summary.errors.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count(number)} {name}" for name, number in kinds)
        lines.append(f"failed: {shown}; {RETRY} [CLASS] tries them again")
    if summary.left:
        left = counted(summary.left, "prompt")
        why = f"stopped by {summary.stopped_by}: " if summary.stopped_by else ""
        more = " with a larger --max-cost" if summary.stopped_by == BUDGET else ""
        lines.append(f"{why}the same command again{more} runs the {left} left")
    return lines


def _print_models(models: Sequence[ModelFigures]) -> None:
    from chutes_opencode.batch.report.numbers import count, dollars, seconds
    from chutes_opencode.cli.tables import Column, print_columns

    columns = [
        Column("model", [model.model for model in models]),
        Column("prompts", [count(model.ok + model.failed) for model in models], right=True),
        Column("answers", [count(model.ok) for model in models], right=True),
        Column("failed", [count(model.failed) for model in models], right=True),
        Column("tokens", [count(model.usage.total) for model in models], right=True, rank=1),
        Column("cost", [dollars(model.cost_usd) for model in models], right=True),
        Column("median", [seconds(model.p50) for model in models], right=True, rank=2),
        Column("95 %", [seconds(model.p95) for model in models], right=True, rank=3),
    ]
    print_columns(columns, stderr=True)
