"""What a batch is given, checked and put together: options, dataset, manifest and store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from chutes_opencode.batch.items.dataset import Dataset
from chutes_opencode.batch.items.layout import Layout
from chutes_opencode.batch.items.sources import FileFormat, Source
from chutes_opencode.batch.record import FAILED, Record
from chutes_opencode.batch.running.executor import Executor, RunExecutor
from chutes_opencode.batch.store.manifest import Manifest, new_run_id
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.engine_set import choose_engine, default_places
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.limits import require_prices
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.settings import inherited_environment
from chutes_opencode.structured import Schema

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Price
    from chutes_opencode.llm import ChutesOpenCodeLLM
    from chutes_opencode.runtime import Runtime

OnBudget = Literal["finish", "cut"]
Transcripts = Literal["all", "failed", "none"]

# Rows of a source that cannot be read twice. Hidden: a folder without a run may hold it.
SPOOL = ".items.jsonl"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is run; what they mean stands at `run_batch`."""

    models: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Layout)
    format: FileFormat | None = None
    output_schema: Any = None
    samples_per_item: int = 1
    limit: int | None = None
    shuffle: int | None = None
    skip_bad: bool = False
    concurrency: int | None = None
    retry_failed: bool | tuple[str, ...] = False
    max_cost_usd: float | None = None
    on_budget: OnBudget = "finish"
    transcripts: Transcripts = "all"
    max_pause_s: float = 1800.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ConfigurationError: Names the value and what it may be.
        """
        for name, allowed in (("on_budget", OnBudget), ("transcripts", Transcripts)):
            if (value := getattr(self, name)) not in get_args(allowed):
                choices = ", ".join(get_args(allowed))
                raise ConfigurationError(raw_message=f"{name} {value!r} is none of {choices}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigurationError(
                raw_message=f"concurrency must be at least 1, not {self.concurrency!r}"
            )

    def wants_again(self, record: Record) -> bool:
        """Tell whether a result is a failure that is to be tried again."""
        if record.status != FAILED or isinstance(self.retry_failed, bool):
            return record.status == FAILED and self.retry_failed is True
        return record.error is not None and record.error.type in self.retry_failed


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run is begun with, besides its items.

    Attributes:
        settings: For the manifest.
        prices: For the manifest.
        opencode_version: "" where none is needed.
        places: How many prompts at once the machine is set up for.
        no_model: What is raised if an item names no model; None: there is one for it.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    opencode_version: str = ""
    places: int = 16
    no_model: ConfigurationError | None = None


async def look_up(
    llm: ChutesOpenCodeLLM, options: BatchOptions, executor: Executor | None = None
) -> Terms:
    """Look up what the batch will need; nothing is spent. Runs on the background loop.

    Args:
        llm: What answers.
        options: How the batch is run.
        executor: What runs the tasks; one with workers of its own has its opencode there, and none
            is needed here.

    Raises:
        ConfigurationError: No price for a budget, no opencode.
        ModelNotFoundError: One of the models is not listed.
        AuthenticationError: No key.
    """
    runtime = await llm._runtime()
    own = llm.options.model or llm.settings.default_model
    asked = options.models or ((own,) if own else ())
    no_model = None if asked else await _no_model(runtime)
    models = {name: await runtime.resolve(name) for name in asked}
    prices: dict[str, Price | None] = {name: model.price for name, model in models.items()}
    if options.max_cost_usd is not None:
        require_prices(prices)
        _require_relay(llm)
    engine = choose_engine(llm.options, single=False)
    opencode = ""
    if isinstance(executor, RunExecutor):
        opencode = executor.opencode_version()
    elif engine != "direct":  # a binary that is new is started: others' prompts go on meanwhile
        opencode = await asyncio.to_thread(_opencode_version, llm)
    instances = models[own].id if own and not options.models else None
    return Terms(
        settings=_settings(llm, options, engine, instances),
        prices={name: _price(price) for name, price in prices.items() if price is not None},
        opencode_version=opencode,
        places=default_places(llm.settings, engine),
        no_model=no_model,
    )


async def _no_model(runtime: Runtime) -> ConfigurationError | None:
    """Return the error of a prompt that names no model where the instance has none, either."""
    try:
        await runtime.resolve(None)
    except ConfigurationError as error:
        return error
    return None


def _require_relay(llm: ChutesOpenCodeLLM) -> None:
    if not llm.options.relay and llm.options.engine != "direct":
        raise ConfigurationError(
            raw_message="max_cost_usd needs the relay: it is what counts before money is spent",
            hint="Leave relay=False out, or the budget.",
        )


def _settings(
    llm: ChutesOpenCodeLLM, options: BatchOptions, engine: str, model: str | None
) -> dict[str, Any]:
    """Return the settings for the manifest: what answers depend on, and what people look for."""
    given, schema, params = llm.options, options.output_schema, asdict(llm.options.params)
    return {
        "provider": given.provider.id,
        "base_url": llm.settings.base_url,
        "model": model,
        "models": list(options.models),
        "system_message": given.system_message,
        "params": {name: value for name, value in params.items() if value is not None},
        "builtin_tools": given.builtin_tools,
        "permission": given.permission,
        "tools": [server.name for server in given.tools],
        "output_schema": None if schema is None else dict(Schema.from_any(schema).json_schema),
        "fallback_models": list(given.fallback_models),
        "engine": engine,
        "relay": given.relay,
        **run_settings(options),
    }


def run_settings(options: BatchOptions) -> dict[str, Any]:
    """Return the batch's own settings for the manifest."""
    layout = options.layout
    return {
        "template": layout.template,
        "columns": {"prompt": layout.prompt_column, "id": layout.id_column, "extra": layout.extra},
        "samples_per_item": options.samples_per_item,
        "limit": options.limit,
        "shuffle": options.shuffle,
        "concurrency": options.concurrency,
        "max_cost_usd": options.max_cost_usd,
    }


def _price(price: Price) -> dict[str, float]:
    cached = price.input if price.cache_read is None else price.cache_read
    return {"input": price.input, "output": price.output, "cache_read": cached}


def _opencode_version(llm: ChutesOpenCodeLLM) -> str:
    settings, path = llm.settings, inherited_environment().get("PATH", "")
    return find_binary(settings.opencode_bin, path, settings.home / "opencode").version


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that may begin.

    Attributes:
        store: Open, and to be closed.
        dataset: Checked.
        retried: Failures that were taken back, to be tried again.
    """

    store: RunStore
    dataset: Dataset
    retried: int = 0


def check_items(
    source: Source,
    folder: Path,
    options: BatchOptions,
    on_progress: Callable[[int], object] | None = None,
) -> Dataset:
    """Read the items of a batch once, from end to end.

    Args:
        source: Where they are.
        folder: The run's; items that cannot be read twice are kept there.
        options: How they are read.
        on_progress: Called with the number of rows, now and then.

    Raises:
        ConfigurationError: See `Dataset.check`.
    """
    return Dataset.check(
        source,
        options.layout,
        spool=folder / SPOOL,
        models=options.models,
        samples=options.samples_per_item,
        limit=options.limit,
        shuffle=options.shuffle,
        skip_bad=options.skip_bad,
        on_progress=on_progress,
    )


def open_run(
    source: Source,
    place: Path | str,
    options: BatchOptions,
    terms: Terms,
    on_progress: Callable[[int], object] | None = None,
) -> OpenRun:
    """Take the folder, check the items, and begin the run or go on with it.

    Args:
        source: The items.
        place: The run's folder or URL.
        options: How it is run.
        terms: What it is begun with.
        on_progress: Called with the number of rows that were checked, now and then.

    Raises:
        ConfigurationError: Another process works there, the items are no items, one has no model,
            or the run was begun with settings that make other answers.
    """
    store = RunStore.open(place)
    try:
        dataset = check_items(source, store.path, options, on_progress)
        # Read once more only here, where each item has to bring its own; the first that does not
        # ends it.
        if terms.no_model and any(item.model is None for item in dataset.items()):
            raise terms.no_model
        now = time.time()
        store.begin(
            Manifest(
                run_id=new_run_id(now),
                created_at=now,
                package_version=version("chutes-opencode"),
                opencode_version=terms.opencode_version,
                dataset={
                    "source": source.name,
                    "items": dataset.count,
                    "hash": dataset.hash,
                    "format": source.format,
                },
                settings=terms.settings,
                prices=terms.prices,
            )
        )
        retried = store.take_back(options.wants_again) if options.retry_failed else 0
    except BaseException:
        store.close()
        raise
    return OpenRun(store, dataset, retried)
