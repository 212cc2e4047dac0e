"""RayExecutor: runs the tasks of a batch on a Ray cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from chutes_opencode import background
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import CutError, ExecutorStats, Finished, RunStart
from chutes_opencode.batch.running.gates import BATCH_BUDGET
from chutes_opencode.batch.store.shards import fence_shard, read_shard
from chutes_opencode.batching import failed_result
from chutes_opencode.distributed.aside import aside
from chutes_opencode.distributed.budget import BudgetTicket, start_budget
from chutes_opencode.distributed.connect import Tell, connect, require
from chutes_opencode.distributed.dispatch.dispatcher import Dispatcher, Key
from chutes_opencode.distributed.dispatch.fleet import PATIENCE_SECONDS, Fleet, WorkerPlan
from chutes_opencode.distributed.dispatch.link import Link
from chutes_opencode.distributed.dispatch.placement import alive
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.limiter.cluster_limiter import forget_node
from chutes_opencode.distributed.setup.parcel import Parcel
from chutes_opencode.distributed.setup.secrets import (
    job_environment,
    key_names,
    key_of,
    refuse_keys,
)
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, drivers_version
from chutes_opencode.distributed.work.orders import counted, pack_work
from chutes_opencode.distributed.worker import CONCURRENCY, MEMORY_BYTES
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.results import QueryResult

MAX_LOST = 3
"""A task with which so many workers were lost fails: it may be what ends them."""
# So long an actor may take to hear of a lost worker; its silence tells it, too, only later.
FORGET_SECONDS = 5.0


class RayExecutor:
    """Runs tasks on workers of a cluster, for `run_batch(executor=…)`.

    There is a worker on every node that can hold one; a node that comes later gets one, and a lost
    worker is replaced. Answers are written by the workers, into shards of the run; what a lost
    worker had not stored is sent to others, and counted.
    """

    def __init__(
        self,
        llm: ChutesOpenCodeLLM,
        *,
        workers: int | None = None,
        concurrency: int = CONCURRENCY,
        num_cpus: float = 1,
        memory: int = MEMORY_BYTES,
        resources: Mapping[str, float] | None = None,
        address: str | None = None,
        install: bool = False,
        limiter: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        """Take what it works with; nothing is connected or started before a run begins.

        Args:
            llm: What answers; each worker has a copy with a warm engine, and reads its own key.
            workers: How many in all; None: one on every node that can hold one.
            concurrency: Prompts of each at once at most, where the batch does not say.
            num_cpus: Cores that Ray sets aside for each.
            memory: Bytes that it does.
            resources: Resources of the cluster's own that it does: {"opencode_creds": 0.01}.
            address: Of the cluster; None: RAY_ADDRESS, one that runs here, or one of our own.
            install: Whether a worker may fetch opencode from npm when it has no other way.
            limiter: Whether the whole cluster shares one limiter for each account.
            patience_seconds: How long a cluster without any worker is waited for.
            tell: Takes a line for people: which cluster is looked for, or started.

        Raises:
            ConfigurationError: A number that cannot be, an instance that cannot be sent, or no
                cluster at the address; or the job's `runtime_env` holds a key.
        """
        require(address)
        refuse_keys(job_environment(), key_names(llm.options.provider))
        self._plan = WorkerPlan(
            workers, concurrency, num_cpus, memory, dict(resources or {}), patience_seconds
        )
        self._llm, self._parcel = llm, Parcel.of(llm)
        self._connect = partial(connect, address, tell=tell, before_start=self._require_key)
        self._set_up = partial(WorkerSetup.of_driver, llm, install=install, limiter=limiter)
        self._version = drivers_version(llm)
        self._key = key_of(llm.settings)
        self._dispatcher: Dispatcher | None = None
        self._ticket: BudgetTicket | None = None

    async def begin(self, start: RunStart) -> None:
        """Connect, start workers for a run, and return when the first is ready.

        Raises:
            ConfigurationError: There is no such cluster, or the key would be shown in it.
            OpenCodeError: None can work for it.
        """
        await self.close()
        # Whoever stops the batch does not wait for Ray, which cannot be told to.
        setup = await aside(self._connected)
        if start.max_cost_usd is not None:
            self._ticket = await asyncio.to_thread(
                start_budget, BATCH_BUDGET, start.max_cost_usd, start.spent_usd
            )
        errand = _Run(start, self._ticket)
        fleet = partial(Fleet, self._plan, self._parcel, setup)
        self._dispatcher = Dispatcher(errand, fleet, MAX_LOST)
        await self._dispatcher.start()

    async def run(self, task: Task) -> Finished:
        """Run one task on a worker; see `Executor.run`."""
        assert self._dispatcher is not None, "begin comes first"
        try:
            packed = pack_work(task, self._key)
        except OpenCodeError as error:
            return Finished(failed_result(error))
        receipt = await self._dispatcher.run(packed, task.key)
        if receipt.cut:
            raise CutError(receipt.finished or Finished(_nothing()))
        if receipt.finished is None:
            raise RuntimeError(receipt.fault)
        return receipt.finished

    def places(self) -> int:
        """Tell how many tasks at once are sensible now."""
        return 1 if self._dispatcher is None else self._dispatcher.places

    def waiting(self) -> str:
        """Tell people what the running tasks wait for; "": nothing but answers."""
        return "" if self._dispatcher is None else self._dispatcher.waiting

    def stats(self) -> ExecutorStats:
        """Tell how the workers do."""
        return ExecutorStats() if self._dispatcher is None else self._dispatcher.stats()

    def opencode_version(self) -> str:
        """Return the version of opencode that the workers use; "": that of each worker."""
        return self._version

    async def close(self) -> None:
        """End the workers, and what they do; from any event loop."""
        await background.Job(self._close()).join()

    def _connected(self) -> WorkerSetup:
        """Connect to the cluster, and return what the workers have to know."""
        self._connect()
        return self._set_up()

    def _require_key(self) -> None:
        """Refuse to start a cluster whose workers, being here, would find no key, either."""
        self._llm.settings.with_fresh_token().require_token()

    async def _close(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.close()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            # Its actor ends itself some day; whoever closes has results that count more.
            with suppress(ray.exceptions.RayError, RuntimeError, OSError, ValueError):
                await asyncio.to_thread(ticket.end)


class _Run:
    """What the workers of a batch work for."""

    def __init__(self, start: RunStart, ticket: BudgetTicket | None) -> None:
        self._start = start
        self._ticket = ticket

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        """Return what a new worker is begun with."""
        return self._start, self._ticket, name

    async def recover(self, link: Link, keys: Collection[Key]) -> Mapping[Key, Finished]:
        """Close the shard of a lost worker, and return what is durable in it of some tasks."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._forget, link), FORGET_SECONDS)
        return await asyncio.to_thread(durable, self._start.place, link.name, keys)

    def _forget(self, link: Link) -> None:
        """Have taken back at once what it held; where nobody hears that, its silence tells."""
        with suppress(ray.exceptions.RayError, RuntimeError, OSError, ValueError):
            if self._ticket is not None:
                self._ticket.forget(link.name)
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            if not any(node.id == link.node for node in alive(nodes)):
                forget_node(link.node)


def durable(place: str, name: str, keys: Collection[Key]) -> dict[Key, Finished]:
    """Close a shard, and return which of some tasks have their answer in it.

    Args:
        place: The run's folder or URL.
        name: The shard's.
        keys: Of the tasks.

    Raises:
        StoreError: It cannot be closed or read.
    """
    fence_shard(place, name)  # its writer may live on, out of our sight
    records = read_shard(place, name)
    return {record.key: counted(record) for record in records if record.key in keys}


def _nothing() -> QueryResult:
    return QueryResult(result="", returncode=-1, stderr="", stream_result="")
