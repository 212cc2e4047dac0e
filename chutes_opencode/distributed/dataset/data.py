"""Ray Data: a dataset with a column of prompts becomes one with columns of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa

from chutes_opencode.arguments import PromptArguments, check_names
from chutes_opencode.batching import failed_result
from chutes_opencode.distributed.budget import BudgetTicket, ClusterBudget
from chutes_opencode.distributed.connect import connect
from chutes_opencode.distributed.dataset.answering import Answering
from chutes_opencode.distributed.dataset.rows import ResultColumns, no_text, prompts_of, result_row
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.metrics import PromptMetrics
from chutes_opencode.distributed.setup.parcel import Parcel, placed
from chutes_opencode.distributed.setup.secrets import key_of, pack
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, enter
from chutes_opencode.distributed.worker import CONCURRENCY, MEMORY_BYTES
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.results import QueryResult

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

    from chutes_opencode.llm import ChutesOpenCodeLLM

# A block is what is asked again when its actor is lost, and what an actor takes at a time: small.
BLOCKS_PER_ROUND = 4
# These belong to one machine or one conversation.
_NOT_FOR_ROWS = ("session_id", "keep_session", "budget")


def prompt_dataset(
    ds: Dataset,
    llm: ChutesOpenCodeLLM,
    *,
    prompt_column: str = "prompt",
    concurrency: int | tuple[int, int] | None = None,
    prompts_per_actor: int = CONCURRENCY,
    columns: Sequence[str] | None = None,
    prefix: str = "",
    shared_budget: BudgetTicket | None = None,
    block_rows: int | None = None,
    num_cpus: float | None = None,
    memory: int = MEMORY_BYTES,
    resources: dict[str, float] | None = None,
    install: bool = False,
    limiter: bool = True,
    **arguments: Unpack[PromptArguments],
) -> Dataset:
    """Ask a prompt for each row of a dataset; lazily, as all of Ray Data.

    Every input row becomes one output row, in no particular order. A prompt that fails is a row
    that says so, and never ends the job; after an account error (authentication, billing) an actor
    sends nothing more, and its further rows say that. The prompts of a block whose actor or node
    was lost are asked again.

    Args:
        ds: The dataset; its columns are kept.
        llm: The instance; each actor works with a copy of it and the key of its own machine.
        prompt_column: The column of prompts. What is no text there fails with its row.
        concurrency: Actors, each with a warm engine of its own; `(fewest, most)`: as many as there
            is work and room for; None: one for each node that is there now.
        prompts_per_actor: Prompts at once of each actor, at most.
        columns: Which columns results get, see `RESULT_COLUMNS`; None: all.
        prefix: Stands before the names of those columns.
        shared_budget: Dollars that all actors share, of `start_budget`; None: no limit.
        block_rows: Rows that an actor takes at a time; None: a quarter of `prompts_per_actor`.
        num_cpus: CPUs that Ray counts for an actor; None: 1, and 0 where the actors would leave
            none of the cluster's for reading and writing.
        memory: Bytes that Ray counts for an actor.
        resources: Further resources that an actor's node must have, `{"opencode_creds": 0.01}`.
        install: Whether actors may fetch opencode from npm when they have no other way.
        limiter: Whether the whole cluster shares one limiter for each account.
        **arguments: Of every prompt, as `ChutesOpenCodeLLM.prompt`'s.

    Returns:
        The dataset with its results' columns, which have the same types whatever the answers are.

    Raises:
        ConfigurationError: There is no such column, two columns would have one name, or an argument
            that rows cannot have. Where the columns are known only when the dataset is read, the
            job fails with it.
    """
    _check_arguments(tuple(arguments), prompts_per_actor)
    added = ResultColumns.chosen(columns, prefix)
    known = _known_schema(ds)
    if known is not None:
        added.check(known.names, prompt_column)
    connect()
    job = PromptJob(
        parcel=Parcel.of(llm),
        setup=WorkerSetup.of_driver(llm, install=install, limiter=limiter),
        arguments=pack(arguments, key_of(llm.settings)),
        prompt_column=prompt_column,
        added=added,
        places=prompts_per_actor,
        budget=shared_budget,
        checked=known is not None,
    )
    fewest, most = _actors(concurrency)
    rows = block_rows or max(1, prompts_per_actor // BLOCKS_PER_ROUND)
    asked = ds.repartition(target_num_rows_per_block=rows).map_batches(
        PromptRows,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=_pool(fewest, most, prompts_per_actor),
        udf_modifying_row_count=False,
        num_cpus=_cpus(fewest) if num_cpus is None else num_cpus,
        memory=memory,
        resources=resources,
    )
    return asked.union(ray.data.from_arrow(_nothing(known, added)))


@dataclass(frozen=True, slots=True)
class PromptJob:
    """What an actor has to know; holds no secret.

    Attributes:
        parcel: The instance.
        setup: What the driver says.
        arguments: Of every prompt, packed.
        prompt_column: Where the prompts stand.
        added: The columns of results.
        places: Prompts at once.
        budget: The dollars that all share; None: no limit.
        checked: Whether the columns were looked at before.
    """

    parcel: Parcel
    setup: WorkerSetup
    arguments: bytes
    prompt_column: str
    added: ResultColumns
    places: int
    budget: BudgetTicket | None
    checked: bool


class PromptRows:
    """Answers blocks of rows; one in each actor, called by as many threads as it has places.

    So there is always a row to fill a free place with: a block that waits for its slowest prompt
    keeps only that prompt's place.
    """

    def __init__(self, job: PromptJob) -> None:
        """Get ready for prompts.

        Raises:
            OpenCodeError: This machine cannot; the job fails with it.
        """
        enter(job.setup)
        self._job = job
        self._llm = job.parcel.open(job.setup)
        self._metrics = PromptMetrics()
        self._node = ray.get_runtime_context().get_node_id()
        self._arguments: dict[str, Any] = ray.cloudpickle.loads(job.arguments)
        self._budget: ClusterBudget | None = None
        if job.budget is not None:
            self._budget = job.budget.open(str(ray.get_runtime_context().get_actor_id()))
            self._arguments["budget"] = self._budget
        self._answering = Answering(partial(self._llm.map, concurrency=job.places))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a block's rows with their results, in the same order.

        A lost block is made again, and Ray takes it for the same one: hence one table, whole.
        """
        job = self._job
        if not job.checked:
            job.added.check(table.column_names, job.prompt_column)
        values = prompts_of(table, job.prompt_column)
        items = [{**self._arguments, "prompt": value} for value in values if isinstance(value, str)]
        answers = iter(self._answering.ask(items))
        results = [
            next(answers) if isinstance(value, str) else failed_result(no_text(value))
            for value in values
        ]
        return job.added.added_to(table, [self._row(result) for result in results])

    def __del__(self) -> None:
        """End the engine: Ray drops this object when the actor ends in good order.

        What else ends the process ends opencode, too: its supervisor sees to that.
        """
        if "_answering" in self.__dict__:
            self._answering.close()
            self._llm.close()
            if self._budget is not None:
                self._budget.close()

    def _row(self, result: QueryResult) -> dict[str, Any]:
        if result.error is not None:
            result = replace(result, error=placed(result.error))
        self._metrics.observe(result)
        return result_row(result, self._node)


def _check_arguments(names: Sequence[str], prompts_per_actor: object) -> None:
    known = [name for name in PromptArguments.__annotations__ if name not in _NOT_FOR_ROWS]
    check_names(names, known, whose="a row's prompt")
    if not isinstance(prompts_per_actor, int) or prompts_per_actor < 1:
        raise ConfigurationError(
            raw_message=f"prompts_per_actor must be at least 1, not {prompts_per_actor!r}"
        )


def _known_schema(ds: Dataset) -> Any:
    """Return Ray's schema of a dataset, None if only reading it would tell.

    To read may mean to run what stands before it, and that may be prompts that cost.
    """
    try:
        return ds.schema(fetch_if_missing=False)
    except pa.ArrowException:  # its blocks have different types, which Ray does not mind
        return None


def _actors(concurrency: int | tuple[int, int] | None) -> tuple[int, int]:
    """Return how many actors at least and at most."""
    if concurrency is None:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        able = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
        return max(1, len(able)), max(1, len(able))
    fewest, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    if not 1 <= fewest <= most:
        raise ConfigurationError(
            raw_message=f"concurrency must be a number of actors or (fewest, most), "
            f"not {concurrency!r}"
        )
    return fewest, most


def _cpus(actors: int) -> float:
    """Return what an actor counts for: with no CPU left, nothing is read, and all would hang."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return 1.0 if resources.get("CPU", 0.0) - actors >= 1.0 else 0.0


def _pool(fewest: int, most: int, places: int) -> ActorPoolStrategy:
    """Return a pool whose actors hold as many blocks as they have places for prompts."""
    return ray.data.ActorPoolStrategy(
        min_size=fewest,
        max_size=most,
        max_tasks_in_flight_per_actor=places,
        max_concurrent_calls_per_actor=places,
        enable_true_multi_threading=True,
    )


def _nothing(known: Any, added: ResultColumns) -> pa.Table:
    """Return a table without rows: an empty dataset's results have their columns by it.

    Args:
        known: Ray's schema of the input, None if it is not known yet.
        added: The columns of results.
    """
    own = getattr(known, "base_schema", None)
    fields = list(own) if isinstance(own, pa.Schema) else []
    return pa.schema([*fields, *added.schema]).empty_table()
