"""`chutes-opencode batch`: many prompts, from a file of items to a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli import batch_diff, batch_views
from chutes_opencode.cli.batch_estimate import show_estimate
from chutes_opencode.cli.batch_options import (
    AGAIN,
    CLUSTER,
    MODEL,
    OUTPUT,
    RUN,
    Asked,
    Cluster,
    On,
    OnBudget,
    OptionalValues,
    Transcripts,
    read_cluster,
    read_retry,
)
from chutes_opencode.cli.completion import complete_models
from chutes_opencode.cli.option_group import grouped
from chutes_opencode.cli.output import print_json, say
from chutes_opencode.cli.prompt import SIMULATED_MODEL, open_llm
from chutes_opencode.cli.session import provider_settings

if TYPE_CHECKING:
    from chutes_opencode.batch.running.runner import BatchArguments
    from chutes_opencode.batch.running.summary import BatchSummary
    from chutes_opencode.llm import ChutesOpenCodeLLM

RunBatch = Callable[..., "BatchSummary"]

app = typer.Typer(
    help="Run many prompts: durable, resumable, within a budget.", no_args_is_help=True
)


@contextmanager
def open_batch_llm(
    asked: Asked,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    **arguments: Any,
) -> Iterator[ChutesOpenCodeLLM]:
    """Make the instance that answers the items, for as long as the block runs.

    Args:
        asked: The command's options; of several models the first is the instance's.
        timeout: Seconds for one attempt; None: the setting.
        retries: Attempts for one model step; None: the setting.
        **arguments: Further ones of `ChutesOpenCodeLLM`.
    """
    with provider_settings(
        asked.provider, simulate=asked.simulate, timeout_seconds=timeout, retries=retries
    ) as (_, settings):
        # A line for each request that is tried again would bury the view; results tell of failures.
        level = "error" if settings.sources["log_level"] == "default" else None
        if asked.simulate:
            say("simulated: the answers come from the embedded simulator, not from a model")
        own = next(iter(asked.models or ()), SIMULATED_MODEL if asked.simulate else None)
        arguments |= asked.instance()
        arguments |= {"model": own, "provider": asked.provider, "settings": settings}
        with open_llm(logging_level=level, **arguments) as llm:
            yield llm


def run(
    *,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR|URL",
            help="Folder of the run, or a URL (s3://, gs://, …). A run in it is gone on with.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ],
    asked: Asked,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Asked when the model is full, cold or gone; repeatable.",
            autocompletion=complete_models,
            rich_help_panel=MODEL,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For one attempt of a prompt.", rich_help_panel=MODEL),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Attempts in all for one model step.", rich_help_panel=MODEL
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the model's answers here; what was asked before costs nothing.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    on_budget: Annotated[
        OnBudget,
        typer.Option(
            help="Whether prompts in flight are finished or cut when the budget is used up.",
            rich_help_panel=RUN,
        ),
    ] = OnBudget.FINISH,
    on: Annotated[
        On,
        typer.Option(
            "--on",
            help="local: this machine; ray: a cluster, which then needs a DIR that all its nodes "
            "see, or a URL.",
            rich_help_panel=CLUSTER,
        ),
    ] = On.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of the cluster: auto (it must be there), host:port. Without it: the one of "
            "RAY_ADDRESS or of this machine, else one that is started for this batch.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Workers, each with a warm opencode; without it: one for each node.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the items, estimate, and spend nothing.", rich_help_panel=RUN
        ),
    ] = False,
    retry_failed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLASS…]",
            help="Run what failed before again: all of it, or errors like ServerError only.",
            rich_help_panel=AGAIN,
            show_default=False,
        ),
    ] = None,
    transcripts: Annotated[
        Transcripts,
        typer.Option(help="Whose messages and requests are kept.", rich_help_panel=OUTPUT),
    ] = Transcripts.ALL,
    report: Annotated[
        bool,
        typer.Option("--report", help="Write report.html at the end.", rich_help_panel=OUTPUT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Run each item of a file as a prompt, and keep what it came to.

    A row of the file is an item: {"id": "q1", "prompt": "What is 17 + 25?"}.
    Further columns: messages, system, model, params, files, work_dir,
    output_schema, repo, commit, metadata. Lines of OpenAI's Batch API do, too.

    DIR/results.jsonl gets a line for each prompt that has finished. After a
    crash, Ctrl-C or a used-up budget the same command goes on where it ended:
    what is done is not asked again.

    Ctrl-C finishes the prompts in flight and stops; a second one stops at once.

    With --on ray the prompts run on a cluster. Workers write answers into
    DIR/shards; all other commands read them and results.jsonl as one.
    """
    cluster = read_cluster(on, address, workers)
    run_it = batch_runner(None if dry_run else cluster, quiet=quiet)
    arguments = asked.arguments(
        retry_failed=read_retry(retry_failed or ()),
        on_budget=on_budget.value,
        transcripts=transcripts.value,
    )
    if report:
        from chutes_opencode.batch.report.figures import plotly_js

        plotly_js()  # that it is missing is better said now
    with open_batch_llm(
        asked, timeout=timeout, retries=retries, fallback_models=fallback or (), cache=cache
    ) as llm:
        if dry_run:
            show_estimate(asked, llm, arguments, out=out, like=None, measure=True)
            return
        summary = carry_out(run_it, asked.items, llm, out, arguments, quiet=quiet)
    finish(summary, report=report, as_json=asked.as_json)


def batch_runner(cluster: Cluster | None, *, quiet: bool) -> RunBatch:
    """Return what runs a batch: here, or on a cluster, which is looked for when it begins.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    if cluster is None:
        from chutes_opencode.batch.running.runner import run_batch

        return run_batch
    from chutes_opencode.distributed.batches import ray_batch

    return partial(ray_batch, **cluster, tell=None if quiet else say)


def carry_out(
    run_it: RunBatch,
    items: str,
    llm: ChutesOpenCodeLLM,
    out: str,
    arguments: BatchArguments,
    *,
    quiet: bool,
) -> BatchSummary:
    """Run a batch, show how far it is, and let signals stop it."""
    from chutes_opencode.batch.running.stop import StopSwitch, pressed_by_signals
    from chutes_opencode.batch.running.summary import BrokenRunError
    from chutes_opencode.cli.batch_progress import told_of_stops, watching

    switch = StopSwitch()
    with (
        watching(quiet=quiet, cap_usd=arguments.get("max_cost_usd")) as display,
        told_of_stops(switch, display),
        pressed_by_signals(switch),
    ):
        watched: BatchArguments = {**arguments, "on_progress": display.show, "stop": switch}
        try:
            return run_it(items, llm, out, **watched)
        except BrokenRunError as error:
            if error.summary is None:
                raise
            return replace(error.summary, stopped_by="store", stop_error=error)


def finish(summary: BatchSummary, *, report: bool, as_json: bool) -> None:
    """Tell what a batch came to, and end with the exit code that says so.

    Raises:
        typer.Exit: It did not come to a good end.
    """
    from chutes_opencode.cli.batch_summary import (
        figures,
        results_place,
        summary_code,
        summary_fields,
        tell_summary,
    )

    begun = summary.total > 0  # else it was stopped while the items were checked
    models = figures(summary.out_dir) if begun else ()
    path = None
    if report and begun:
        path = batch_views.write_report(summary.place or str(summary.out_dir))
    if as_json:
        print_json(summary_fields(summary, models, path))
    else:
        tell_summary(summary, models)
        if path is not None:
            say(f"report: {path}")
        if begun:
            typer.echo(results_place(summary))
    if code := summary_code(summary):
        raise typer.Exit(code)


def estimate(
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR|URL",
            help="The run's folder, if there is one: only what is left of it is estimated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    asked: Asked,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            help="Learn from the answers of that run how long answers are.",
            rich_help_panel=RUN,
        ),
    ] = None,
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure",
            help="Do not run a few prompts with opencode against the simulator to see what it "
            "adds to each; use a table.",
            rich_help_panel=RUN,
        ),
    ] = False,
) -> None:
    """Say what a batch will use and cost; nothing is spent.

    Tokens are counted, prices and limits looked up in the list of models, and
    what is left of the account is asked for. How that was done is printed, too.
    """
    with open_batch_llm(asked) as llm:
        show_estimate(asked, llm, asked.arguments(), out=out, like=like, measure=not no_measure)


# In the order in which `--help` shows them.
app.command("run", cls=OptionalValues)(grouped(run))
app.command("estimate", cls=OptionalValues)(grouped(estimate))
app.command("status")(batch_views.status)
app.command("report")(batch_views.report)
app.command("diff")(batch_diff.diff)
app.command("export")(batch_views.export)
