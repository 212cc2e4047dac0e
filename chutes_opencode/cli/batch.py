"""`chutes-opencode batch`: many prompts, from a file of items to a folder of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli import batch_views
from chutes_opencode.cli.batch_estimate import show_estimate
from chutes_opencode.cli.batch_options import (
    AGAIN,
    OUTPUT,
    RUN,
    CacheOption,
    ConcurrencyOption,
    EngineOption,
    FallbackOption,
    FormatOption,
    IdColumnOption,
    ItemsArgument,
    KeepColumnsOption,
    LimitOption,
    MaxCostOption,
    ModelsOption,
    NoToolsOption,
    OnBudget,
    OptionalValues,
    OutOption,
    ParamsOption,
    PromptColumnOption,
    RetriesOption,
    SamplesOption,
    SchemaOption,
    ShuffleOption,
    SkipBadOption,
    SystemOption,
    TemplateOption,
    TimeoutOption,
    Transcripts,
    WorkDirOption,
    read_arguments,
    read_retry,
)
from chutes_opencode.cli.output import JsonOption, SimulateOption, print_json, say
from chutes_opencode.cli.prompt import SIMULATED_MODEL, Engine, open_llm, read_params
from chutes_opencode.cli.session import ProviderOption, provider_settings

if TYPE_CHECKING:
    from chutes_opencode.batch.running.runner import BatchArguments
    from chutes_opencode.batch.running.summary import BatchSummary
    from chutes_opencode.llm import ChutesOpenCodeLLM

app = typer.Typer(
    help="Run many prompts: durable, resumable, within a budget.", no_args_is_help=True
)


@contextmanager
def open_batch_llm(
    models: Sequence[str],
    provider: str,
    *,
    simulate: bool,
    timeout: float | None,
    retries: int | None,
    **arguments: Any,
) -> Iterator[ChutesOpenCodeLLM]:
    """Make the instance that answers the items, for as long as the block runs.

    Args:
        models: Those that were named; the first is the instance's.
        provider: Its id.
        simulate: Whether the embedded simulator stands in.
        timeout: Seconds for one attempt; None: the setting.
        retries: Attempts for one model step; None: the setting.
        **arguments: As for `ChutesOpenCodeLLM`.
    """
    with provider_settings(
        provider, simulate=simulate, timeout_seconds=timeout, retries=retries
    ) as (_, settings):
        # A line for each request that is tried again would bury the view; results tell of failures.
        level = "error" if settings.sources["log_level"] == "default" else None
        if simulate:
            say("simulated: the answers come from the embedded simulator, not from a model")
        own = next(iter(models), SIMULATED_MODEL if simulate else None)
        arguments |= {"model": own, "provider": provider, "settings": settings}
        with open_llm(logging_level=level, **arguments) as llm:
            yield llm


def run(
    items: ItemsArgument,
    out: OutOption,
    template: TemplateOption = None,
    prompt_column: PromptColumnOption = None,
    id_column: IdColumnOption = None,
    keep_columns: KeepColumnsOption = False,
    file_format: FormatOption = None,
    skip_bad: SkipBadOption = False,
    limit: LimitOption = None,
    shuffle: ShuffleOption = None,
    samples: SamplesOption = 1,
    models: ModelsOption = None,
    provider: ProviderOption = "chutes",
    system: SystemOption = "",
    params: ParamsOption = None,
    schema: SchemaOption = None,
    engine: EngineOption = Engine.AUTO,
    fallback: FallbackOption = None,
    timeout: TimeoutOption = None,
    retries: RetriesOption = None,
    cache: CacheOption = None,
    no_tools: NoToolsOption = False,
    work_dir: WorkDirOption = None,
    concurrency: ConcurrencyOption = None,
    max_cost: MaxCostOption = None,
    on_budget: Annotated[
        OnBudget,
        typer.Option(
            help="Whether prompts in flight are finished or cut when the budget is used up.",
            rich_help_panel=RUN,
        ),
    ] = OnBudget.FINISH,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the items, estimate, and spend nothing.", rich_help_panel=RUN
        ),
    ] = False,
    simulate: SimulateOption = False,
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
    as_json: JsonOption = False,
) -> None:
    """Run each item of a file as a prompt, and keep what it came to.

    A row of the file is an item: {"id": "q1", "prompt": "What is 17 + 25?"}.
    Further columns: messages, system, model, params, files, work_dir,
    output_schema, repo, commit, metadata. Lines of OpenAI's Batch API do, too.

    DIR/results.jsonl gets a line for each prompt that has finished. After a
    crash, Ctrl-C or a used-up budget the same command goes on where it ended:
    what is done is not asked again.

    Ctrl-C finishes the prompts in flight and stops; a second one stops at once.
    """
    arguments = read_arguments(
        models=models,
        template=template,
        prompt_column=prompt_column,
        id_column=id_column,
        keep_columns=keep_columns,
        file_format=file_format,
        schema=schema,
        samples=samples,
        limit=limit,
        shuffle=shuffle,
        skip_bad=skip_bad,
        concurrency=concurrency,
        retry_failed=read_retry(retry_failed or ()),
        max_cost_usd=max_cost,
        on_budget=on_budget.value,
        transcripts=transcripts.value,
    )
    if report:
        from chutes_opencode.batch.report.figures import plotly_js

        plotly_js()  # that it is missing is better said now
    with open_batch_llm(
        models or (),
        provider,
        simulate=simulate,
        timeout=timeout,
        retries=retries,
        system_message=system,
        params=read_params(params or (), {}),
        builtin_tools=not no_tools,
        work_dir=work_dir,
        engine=engine.value,
        fallback_models=fallback or (),
        cache=cache,
    ) as llm:
        if dry_run:
            show_estimate(
                *(items, llm, arguments),
                out=out,
                like=None,
                measure=True,
                simulate=simulate,
                as_json=as_json,
            )
            return
        summary = carry_out(items, llm, out, arguments, quiet=quiet)
    finish(summary, report=report, as_json=as_json)


def carry_out(
    items: str, llm: ChutesOpenCodeLLM, out: Path, arguments: BatchArguments, *, quiet: bool
) -> BatchSummary:
    """Run a batch, show how far it is, and let signals stop it."""
    from chutes_opencode.batch.running.runner import run_batch
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
            return run_batch(items, llm, out, **watched)
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
        results_path,
        summary_code,
        summary_fields,
        tell_summary,
    )

    begun = summary.total > 0  # else it was stopped while the items were checked
    models = figures(summary.out_dir) if begun else ()
    path = None
    if report and begun:
        from chutes_opencode.batch.report.page import write_report

        path = write_report(summary.out_dir)
    if as_json:
        print_json(summary_fields(summary, models, path))
    else:
        tell_summary(summary, models)
        if path is not None:
            say(f"report: {path}")
        if begun:
            typer.echo(str(results_path(summary.out_dir)))
    if code := summary_code(summary):
        raise typer.Exit(code)


def estimate(
    items: ItemsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="The run's folder, if there is one: only what is left of it is estimated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    template: TemplateOption = None,
    prompt_column: PromptColumnOption = None,
    id_column: IdColumnOption = None,
    keep_columns: KeepColumnsOption = False,
    file_format: FormatOption = None,
    skip_bad: SkipBadOption = False,
    limit: LimitOption = None,
    shuffle: ShuffleOption = None,
    samples: SamplesOption = 1,
    models: ModelsOption = None,
    provider: ProviderOption = "chutes",
    system: SystemOption = "",
    params: ParamsOption = None,
    schema: SchemaOption = None,
    engine: EngineOption = Engine.AUTO,
    no_tools: NoToolsOption = False,
    work_dir: WorkDirOption = None,
    concurrency: ConcurrencyOption = None,
    max_cost: MaxCostOption = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
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
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a batch will use and cost; nothing is spent.

    Tokens are counted, prices and limits looked up in the list of models, and
    what is left of the account is asked for. How that was done is printed, too.
    """
    arguments = read_arguments(
        models=models,
        template=template,
        prompt_column=prompt_column,
        id_column=id_column,
        keep_columns=keep_columns,
        file_format=file_format,
        schema=schema,
        samples=samples,
        limit=limit,
        shuffle=shuffle,
        skip_bad=skip_bad,
        concurrency=concurrency,
        max_cost_usd=max_cost,
    )
    with open_batch_llm(
        models or (),
        provider,
        simulate=simulate,
        timeout=None,
        retries=None,
        system_message=system,
        params=read_params(params or (), {}),
        builtin_tools=not no_tools,
        work_dir=work_dir,
        engine=engine.value,
    ) as llm:
        show_estimate(
            *(items, llm, arguments),
            out=out,
            like=like,
            measure=not no_measure,
            simulate=simulate,
            as_json=as_json,
        )


# In the order in which `--help` shows them.
app.command("run", cls=OptionalValues)(run)
app.command("estimate", cls=OptionalValues)(estimate)
app.command("status")(batch_views.status)
app.command("report")(batch_views.report)
app.command("diff")(batch_views.diff)
app.command("export")(batch_views.export)
