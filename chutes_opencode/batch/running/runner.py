"""run_batch: many prompts, durable and resumable, within a budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from chutes_opencode import background
from chutes_opencode.arguments import PromptArguments, check_names
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.items.layout import Layout
from chutes_opencode.batch.items.sources import open_source
from chutes_opencode.batch.repositories.worktrees import Worktrees
from chutes_opencode.batch.running.executor import (
    Executor,
    LlmExecutor,
    RunExecutor,
    RunStart,
    stats_of,
)
from chutes_opencode.batch.running.gates import BATCH_BUDGET, MAX_PAUSE_S, Gates
from chutes_opencode.batch.running.in_flight import read_in_flight
from chutes_opencode.batch.running.intake import (
    BatchOptions,
    OpenRun,
    Terms,
    look_up,
    open_run,
    run_settings,
)
from chutes_opencode.batch.running.progress import Meter, sent_in_vain
from chutes_opencode.batch.running.reading import TaskReader
from chutes_opencode.batch.running.reporting import OnProgress, Reporter
from chutes_opencode.batch.running.scheduler import Scheduler
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.batch.running.stop import GO, StopSwitch, unless_stopped
from chutes_opencode.batch.running.summary import BatchSummary, BrokenRunError
from chutes_opencode.batch.store.run_place import WORK, open_place
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.limits import Budget
from chutes_opencode.logs import make_logger

if TYPE_CHECKING:
    from chutes_opencode.batch.items.sources import FileFormat
    from chutes_opencode.batch.running.intake import OnBudget, Transcripts
    from chutes_opencode.llm import ChutesOpenCodeLLM


class BatchArguments(TypedDict, total=False):
    """How a batch is run; all optional.

    Attributes:
        models: Each item is asked of each of them; none: the instance's.
        template: The prompt, with columns in braces: "Translate {text}".
        prompt_column: Column that is the prompt.
        id_column: Column that is the id.
        keep_columns: Whether columns that mean nothing go to the results' metadata; False: they
            are refused.
        format: Of a file whose suffix does not tell: "jsonl", "csv", "tsv" or "parquet".
        output_schema: What each answer must fit, where the item has no schema of its own.
        concurrency: Prompts at once at most; fewer where the account lets fewer through. None: as
            many as the settings allow the engine.
        samples_per_item: How often to ask each item of each model.
        limit: Items at most.
        shuffle: Seed of a random order; None: the order of the source.
        skip_bad: Whether rows that are no items are left out; False: they are an error.
        retry_failed: Whether items that failed in an earlier session run again: all, or those
            with these classes of error.
        max_cost_usd: US dollars for the whole run, earlier sessions included; a request that may
            cost more than what is left is not sent.
        on_budget: Whether prompts in flight are finished or cut when the dollars are used up.
        transcripts: Of which items messages and requests are kept: "all", "failed" or "none".
        max_pause_s: Seconds for which a cold model or a rate limit is waited for.
        executor: What runs a task, instead of the instance; it stays the caller's to close.
        on_progress: Is told how far it is, twice a second and at the end, from a thread of ours.
        stop: The switch that ends it early.
    """

    models: Sequence[str] | None
    template: str | None
    prompt_column: str | None
    id_column: str | None
    keep_columns: bool
    format: FileFormat | None
    output_schema: Any
    concurrency: int | None
    samples_per_item: int
    limit: int | None
    shuffle: int | None
    skip_bad: bool
    retry_failed: bool | Sequence[str] | None
    max_cost_usd: float | None
    on_budget: OnBudget
    transcripts: Transcripts
    max_pause_s: float
    executor: Executor | None
    on_progress: OnProgress | None
    stop: StopSwitch | None


def run_batch(
    items: Any,
    llm: ChutesOpenCodeLLM | None,
    out_dir: Path | str,
    **arguments: Unpack[BatchArguments],
) -> BatchSummary:
    """Run many prompts, each once, and keep what they come to in a folder.

    The same call again goes on where the last one ended, however that ended: what is done is not
    asked again.

    Args:
        items: A path (.jsonl, .csv, .tsv, .parquet), "-" (stdin), an iterable of prompts, mappings
            or `BatchItem`s, or a DataFrame.
        llm: What answers; None where an executor is given.
        out_dir: The run's folder: results.jsonl has a line for each finished prompt. Or an fsspec
            URL (s3://…, gs://…): results are objects there, in `shards/`.
        **arguments: See `BatchArguments`.

    Returns:
        What it came to. An item's failure is in its result; what stopped the whole batch
        (account, budget, interrupt) in `stopped_by`.

    Raises:
        BadItemsError: Rows are no items; nothing was spent.
        BrokenRunError: The folder cannot be written any more; its `summary` tells the rest.
        ConfigurationError: Something is set wrongly; nothing was spent.
        ModelNotFoundError: The provider lists no such model; nothing was spent.
        AuthenticationError: No key; nothing was spent.
    """
    return background.Job(_run(items, llm, out_dir, arguments)).result()


async def arun_batch(
    items: Any,
    llm: ChutesOpenCodeLLM | None,
    out_dir: Path | str,
    **arguments: Unpack[BatchArguments],
) -> BatchSummary:
    """Run a batch from any event loop; as `run_batch`.

    A cancelled call has ended everything that it had started when it returns; the same call again
    goes on.
    """
    return await background.Job(_run(items, llm, out_dir, arguments)).join()


def batch_options(arguments: BatchArguments) -> BatchOptions:
    """Return the options that a caller's arguments mean.

    Raises:
        ConfigurationError: One of them cannot be, or there is none of that name.
    """
    check_names(arguments, tuple(BatchArguments.__annotations__), whose="a batch")
    layout = Layout(
        arguments.get("template"),
        arguments.get("prompt_column"),
        arguments.get("id_column"),
        "metadata" if arguments.get("keep_columns") else "refuse",
    )
    models, again = arguments.get("models"), arguments.get("retry_failed")
    for name in ("models", "retry_failed"):
        if isinstance(arguments.get(name), str):
            raise ConfigurationError(raw_message=f"{name} is a list, not one text")
    return BatchOptions(
        models=tuple(dict.fromkeys(() if models is None else models)),
        layout=layout,
        format=arguments.get("format"),
        output_schema=arguments.get("output_schema"),
        samples_per_item=arguments.get("samples_per_item", 1),
        limit=arguments.get("limit"),
        shuffle=arguments.get("shuffle"),
        skip_bad=arguments.get("skip_bad", False),
        concurrency=arguments.get("concurrency"),
        retry_failed=bool(again) if again is None or isinstance(again, bool) else tuple(again),
        max_cost_usd=arguments.get("max_cost_usd"),
        on_budget=arguments.get("on_budget", "finish"),
        transcripts=arguments.get("transcripts", "all"),
        max_pause_s=arguments.get("max_pause_s", MAX_PAUSE_S),
    )


class _InterruptedError(Exception):
    """The switch was used while the items were checked."""


async def _run(
    items: Any, llm: ChutesOpenCodeLLM | None, out_dir: Path | str, arguments: BatchArguments
) -> BatchSummary:
    """Run a batch, on the background loop."""
    began = time.time()
    options = batch_options(arguments)
    stop = arguments.get("stop") or StopSwitch()
    if llm is not None:
        terms = await look_up(llm, options, arguments.get("executor"))
    elif arguments.get("executor") is not None:
        terms = Terms(settings=run_settings(options))
    else:
        raise ConfigurationError(raw_message="a batch needs an instance, or an executor")
    source = open_source(items, options.format)
    opening = partial(open_run, source, out_dir, options, terms)
    try:
        async with _opened(opening, stop) as run:
            batch = _Batch(run, llm, options, terms, arguments, stop)
            return await batch.run(began)
    except _InterruptedError:
        place = open_place(out_dir, WORK)
        return BatchSummary(
            place.folder, place=place.text, duration_s=time.time() - began, stopped_by="interrupt"
        )


@asynccontextmanager
async def _opened(
    opening: Callable[[Callable[[int], object]], OpenRun], stop: StopSwitch
) -> AsyncIterator[OpenRun]:
    """Open the run in a thread: a long dataset is read meanwhile, and the loop has other work."""
    cancelled = False

    def check(_rows: int) -> None:
        if cancelled or stop.level > GO:
            raise _InterruptedError

    thread = asyncio.ensure_future(asyncio.to_thread(opening, check))
    try:
        run = await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancelled = True
        await asyncio.shield(_close_unused(thread))
        raise
    try:
        yield run
    finally:
        await asyncio.shield(asyncio.to_thread(run.store.close))


async def _close_unused(opening: asyncio.Future[OpenRun]) -> None:
    """Close the run that nobody waits for any more; shielded, whoever is cancelled once more."""
    await asyncio.wait([opening])
    if opening.exception() is None:
        await asyncio.to_thread(opening.result().store.close)


class _Batch:
    """A batch that may begin. Used once."""

    def __init__(
        self,
        run: OpenRun,
        llm: ChutesOpenCodeLLM | None,
        options: BatchOptions,
        terms: Terms,
        arguments: BatchArguments,
        stop: StopSwitch,
    ) -> None:
        self._store, self._dataset = run.store, run.dataset
        self._options, self._stop = options, stop
        settings = None if llm is None else llm.settings
        self._log = (
            make_logger("chutes_opencode")
            if settings is None
            else make_logger("chutes_opencode", settings.log_level, settings.log_format)
        )
        for sentence in self._store.mended:
            self._log.warning("the run was mended", what=sentence)
        spent = self._store.totals().cost_usd
        given, self._own = arguments.get("executor"), None
        if given is None and llm is not None:
            given = self._own = _executor(llm, options, terms, spent)
        assert given is not None
        self._executor: Executor = given
        self._meter = Meter(self._dataset.task_count, now=time.time(), spent_usd=spent)
        earlier = read_status(self._store.path)
        self._meter.resent_before = sent_in_vain(
            earlier.snapshot if earlier else None, read_in_flight(self._store.path)
        )
        self._reader = TaskReader(
            self._dataset.tasks,
            lambda task: self._store.standing(task.key, task.item.content_hash),
            lambda task: self._store.changed(task.key, task.item.content_hash),
        )
        self._reporter = Reporter(
            self._store.path,
            arguments.get("on_progress"),
            self._log,
            self._store.publish,
            resent=self._meter.resent_before,
        )
        self._scheduler = Scheduler(
            reader=self._reader,
            store=self._store,
            executor=self._executor,
            gates=Gates(options.models or ("",), max_pause_s=options.max_pause_s),
            meter=self._meter,
            reporter=self._reporter,
            stop=stop,
            cut_at_budget=options.on_budget == "cut",
            transcripts=options.transcripts,
        )

    async def run(self, began: float) -> BatchSummary:
        """Run it; `began` is when the call did, seconds since the epoch."""
        try:
            await self._work()
            if not self._meter.left:
                await asyncio.to_thread(self._store.finish)
        except StoreError as error:
            raise BrokenRunError(
                raw_message=error.raw_message, hint=error.hint, summary=self._summary(began)
            ) from error
        finally:
            self._reader.close()
            try:
                await self._reporter.last(self._scheduler.snapshot(ended=True))
            finally:
                if self._own is not None:
                    await self._own.close()
        return self._summary(began)

    async def _work(self) -> None:
        """Run the tasks; workers that store answers themselves are told of the run, and its end."""
        executor = self._executor
        if not isinstance(executor, RunExecutor):
            await self._scheduler.run()
            return
        await unless_stopped(self._begin(executor), self._stop)
        try:
            await self._scheduler.run()
        finally:
            for sentence in await asyncio.to_thread(self._store.close_shards):
                self._log.warning("the run was mended", what=sentence)

    async def _begin(self, executor: RunExecutor) -> None:
        """Have its workers started, unless all is done: they take long to come."""
        if await self._reader.look_ahead():
            await executor.begin(self._run_start())

    def _run_start(self) -> RunStart:
        options, manifest = self._options, self._store.manifest
        assert manifest is not None
        return RunStart(
            place=self._store.address,
            run_id=manifest.run_id,
            transcripts=options.transcripts,
            max_cost_usd=options.max_cost_usd,
            spent_usd=self._meter.spent_usd,
            defaults=_defaults(options),
            concurrency=options.concurrency,
        )

    def _summary(self, began: float) -> BatchSummary:
        meter, totals = self._meter, self._store.totals()
        records = totals.results + totals.cut + totals.taken_back
        priced = totals.cost_usd > 0 or totals.unpriced < records
        return BatchSummary(
            out_dir=self._store.path,
            total=meter.total,
            done=meter.done,
            failed=meter.failed + meter.failed_before,
            skipped=meter.skipped,
            left=meter.left,
            bad=self._dataset.bad_count,
            usage=totals.usage,
            cost_usd=totals.cost_usd if priced else None,
            errors=totals.errors,
            duration_s=time.time() - began,
            stopped_by=self._scheduler.stopped_by,
            stop_error=self._scheduler.stop_error,
            resent=self._meter.resent_before + stats_of(self._executor).resent,
            place=self._store.place,
        )


def _executor(
    llm: ChutesOpenCodeLLM, options: BatchOptions, terms: Terms, spent_usd: float
) -> LlmExecutor:
    budget = None
    if options.max_cost_usd is not None:
        budget = Budget(BATCH_BUDGET, options.max_cost_usd, spent_usd=spent_usd)
    home, temp = llm.settings.home, llm.settings.temp_dir
    return LlmExecutor(
        llm,
        options.concurrency or terms.places,
        budget=budget,
        defaults=_defaults(options),
        worktrees=Worktrees(home / "repositories", temp),
    )


def _defaults(options: BatchOptions) -> PromptArguments:
    """Return the arguments that every prompt of the batch has."""
    schema = options.output_schema
    return {} if schema is None else {"output_schema": schema}
