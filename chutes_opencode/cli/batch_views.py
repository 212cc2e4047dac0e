"""`batch status`, `report`, `export`: what a run's folder tells."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli.output import JsonOption, counted, print_json, print_table, say
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.batch.running.progress import Snapshot
    from chutes_opencode.batch.store.folder import RunFolder

LOOKS_PER_SECOND = 1.0
STDOUT = "-"
NOT_BEGUN = "not begun"
BROKEN_OFF = "broken off"


class ExportFormat(StrEnum):
    """What a run's results can be written as."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    OPENAI = "openai"
    SWEBENCH = "swebench"


RunArgument = Annotated[
    str, typer.Argument(metavar="DIR|URL", help="Folder or URL of the run.", show_default=False)
]


def status(
    folder: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until the run ends.")
    ] = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print it as metrics for Prometheus.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is; also from another terminal while it runs."""
    from chutes_opencode.batch.store.folder import open_folder

    if sum((watch, prometheus, as_json)) > 1:
        raise ConfigurationError(
            raw_message="--watch, --prometheus and --json exclude each other",
            hint="Choose one of them.",
        )
    run = open_folder(folder)
    if watch:
        _watch(run)
        return
    state, snapshot = look(run)
    if prometheus:
        from chutes_opencode.batch.prometheus import text

        typer.echo(text(replace(snapshot, state=state), run.manifest.run_id), nl=False)
    elif as_json:
        print_json({"ok": True, **status_fields(run, state, snapshot)})
    else:
        print_table(("", ""), status_lines(run, state, snapshot, now=time.time()))


def look(run: RunFolder) -> tuple[str, Snapshot]:
    """Return a run's state and how far it is.

    What a process that was killed had written last is not trusted: its results are counted.
    """
    from chutes_opencode.batch.running.progress import RUNNING, STOPPING, Snapshot
    from chutes_opencode.batch.running.status import read_status

    found = read_status(run.path)
    alive = run.holder() is not None
    if found is None:
        return (RUNNING if alive else NOT_BEGUN), Snapshot(total=0)
    snapshot = found.snapshot
    known = sum(snapshot.errors.values()) == snapshot.failed  # those of earlier sessions, too
    if alive or (known and snapshot.state not in (RUNNING, STOPPING)):
        return snapshot.state, snapshot
    totals = run.totals()
    if snapshot.state not in (RUNNING, STOPPING):
        return snapshot.state, replace(snapshot, errors=totals.errors)
    counted_anew = replace(
        snapshot,
        done=totals.ok,
        skipped=0,
        failed=totals.failed,
        errors=totals.errors,
        in_flight=0,
        waiting="",
        spent_usd=totals.cost_usd,
        eta_s=None,
        prompts_per_s=0.0,
        tokens_per_s=0.0,
    )
    return BROKEN_OFF, counted_anew


def status_lines(
    run: RunFolder, state: str, snapshot: Snapshot, *, now: float
) -> list[tuple[str, str]]:
    """Return what is known of a run, a line each."""
    from chutes_opencode.batch.report.numbers import count, counted, dollars, moment
    from chutes_opencode.cli.batch_progress import errors, money_line, share, span

    holder = run.holder()
    reason = f", by {snapshot.stopped_by}" if snapshot.stopped_by else ""
    who = f" ({holder})" if holder else ""
    ended = snapshot.total - snapshot.left
    ok = snapshot.done + snapshot.skipped
    rows = [
        ("run", run.manifest.run_id),
        ("items", str(run.manifest.dataset.get("source", ""))),
        ("state", f"{state}{reason}{who}"),
        ("begun", moment(run.manifest.created_at)),
        ("finished", f"{count(ended)} of {counted(snapshot.total, 'prompt')}, "
         f"{share(ended, snapshot.total)}"),
        ("answers", count(ok)),
        ("failed", count(snapshot.failed)),
        ("errors", errors(snapshot)),
        ("in flight", count(snapshot.in_flight) if holder else ""),
        ("workers", count(snapshot.workers) if holder and snapshot.workers else ""),
        ("sent again", f"about {counted(snapshot.resent, 'prompt')}" if snapshot.resent else ""),
        ("waiting", snapshot.waiting),
        ("spent", money_line(snapshot, cap_usd=budget(run))),
        ("projected", dollars(snapshot.projected_usd)
         if snapshot.left and snapshot.projected_usd is not None else ""),
        ("pace", f"{snapshot.prompts_per_s:.1f} prompts/s, {snapshot.tokens_per_s:,.0f} tokens/s"
         if holder else ""),
        ("left", span(snapshot.eta_s) if holder and snapshot.eta_s is not None else ""),
        ("updated", f"{span(now - snapshot.updated_at)} ago" if snapshot.updated_at else ""),
    ]  # fmt: skip
    return [(name, text) for name, text in rows if text]


def status_fields(run: RunFolder, state: str, snapshot: Snapshot) -> dict[str, Any]:
    """Return a run's state as JSON has it."""
    holder = run.holder()
    return {
        "run_id": run.manifest.run_id,
        "path": run.place,
        "dataset": dict(run.manifest.dataset),
        **asdict(snapshot),
        "state": state,
        "left": snapshot.left,
        "pid": None if holder is None else holder.pid,
        "host": None if holder is None else holder.host,
    }


def budget(run: RunFolder) -> float | None:
    """Return what a run may cost, US dollars; None: it has no limit."""
    usd = run.manifest.settings.get("max_cost_usd")
    return float(usd) if isinstance(usd, int | float) else None


def _watch(run: RunFolder) -> None:
    """Show a run on stdout until it ends."""
    from chutes_opencode.batch.running.progress import RUNNING, STOPPING
    from chutes_opencode.cli.batch_progress import watching

    with watching(quiet=False, cap_usd=budget(run), stdout=True) as display:
        while True:
            state, snapshot = look(run)
            display.show(replace(snapshot, state=state))
            if state not in (RUNNING, STOPPING):
                break
            time.sleep(1 / LOOKS_PER_SECOND)
            run.refresh(results=False)
    print_table(("", ""), status_lines(run, state, snapshot, now=time.time()))


def report(
    folder: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Instead of report.html in the folder."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file about a run, which opens offline: figures, errors, transcripts."""
    from chutes_opencode.cli.session import waiting

    with waiting():
        path = write_report(folder, out)
    typer.echo(str(path))
    if open_it:
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            say(f"there is no browser here; open {path}")


def write_report(place: str, out: Path | None = None) -> Path:
    """Write the report of a run, and have it at the run's URL, too, if it has one.

    Args:
        place: The run's folder or URL.
        out: Another file, which stays on this machine.

    Returns:
        The file on this machine.
    """
    from chutes_opencode.batch.report import page
    from chutes_opencode.batch.store.folder import open_folder

    path = page.write_report(place, out)
    if out is None:
        open_folder(place).publish(path.name)
    return path


def export(
    folder: RunArgument,
    file_format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="parquet, csv, jsonl: a row for each result, nested values in columns of their "
            "own; openai: output lines of OpenAI's Batch API; swebench: predictions.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Instead of a file in the folder (of a URL: in a copy of it here); - is standard "
            "output.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the results of this model.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only samples with this number.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the --out FILE.")] = False,
) -> None:
    """Write a run's results for another program.

    In CSV a cell that a spreadsheet would take for a formula (it begins with
    = + - @ and is no number) gets a leading apostrophe; all other formats have
    the text as it is.
    """
    from chutes_opencode.batch import exports
    from chutes_opencode.batch.store.folder import open_folder
    from chutes_opencode.cli.session import waiting

    run = open_folder(folder)
    model = None if model is None else _asked_name(run, model)
    if out is not None and str(out) == STDOUT:
        exports.write(run, file_format, sys.stdout.buffer, model=model, sample=sample)
        sys.stdout.buffer.flush()
        return
    if out is not None and out.exists() and not force:
        raise ConfigurationError(
            raw_message=f"{out} is there already",
            hint="Name another file, or add --force to replace it.",
        )
    path = out or run.path / exports.FILE_NAMES[file_format]
    if path.exists() and any(
        path.samefile(own) for own in run.path.iterdir() if own.name in exports.RUN_FILES
    ):
        raise ConfigurationError(
            raw_message=f"{path} is a part of the run itself", hint="Name another file."
        )
    with waiting():
        rows = exports.export(run, file_format, path, model=model, sample=sample)
        if out is None:
            run.publish(path.name)
    typer.echo(str(path))
    say(f"{counted(rows, 'result')} written")


def _asked_name(run: RunFolder, model: str) -> str:
    """Return how results name a model; "" stands for the run's own.

    Raises:
        ConfigurationError: No result is of that model.
    """
    own = str(run.manifest.settings.get("model") or "")
    names = {record.model for record in run.records()}
    if model in names:
        return model
    if model == own and "" in names:
        return ""
    known = ", ".join(sorted(name or own for name in names))
    raise ConfigurationError(
        raw_message=f"no result in {run.place} is of the model {model!r}",
        hint=f"There are results of: {known}." if known else "Wait until there are results.",
    )
