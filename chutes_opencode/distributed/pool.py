"""PromptPool: warm workers on a Ray cluster, for drivers that call prompt by prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar, Unpack

from chutes_opencode import background
from chutes_opencode.arguments import PromptArguments, check_names
from chutes_opencode.batch.running.executor import ExecutorStats
from chutes_opencode.batching import check_batch, completed
from chutes_opencode.distributed.connect import connect
from chutes_opencode.distributed.dispatch.dispatcher import Dispatcher, Pooled
from chutes_opencode.distributed.dispatch.fleet import PATIENCE_SECONDS, Fleet, WorkerPlan
from chutes_opencode.distributed.setup.parcel import Parcel
from chutes_opencode.distributed.setup.secrets import key_of
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
from chutes_opencode.distributed.work.orders import Ask, Receipt, pack_work
from chutes_opencode.distributed.worker import CONCURRENCY, MEMORY_BYTES
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.results import QueryResult

T = TypeVar("T")
Item = str | Mapping[str, Any]

# So many prompts may wait for each place before `submit` does.
AHEAD = 2


class PromptPool:
    """Workers with a warm engine each, on all nodes of a cluster.

    A prompt goes to the worker with the least to do. May be used from many threads and event loops
    at once::

        with PromptPool(llm) as pool:
            futures = [pool.submit(text) for text in texts]

    A lost worker is replaced; a prompt that it was at fails with `WorkerLostError`, because it may
    have been paid for, unless `resends` allows more tries.
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
        resends: int = 0,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Connect to the cluster and start workers; returns when the first is ready.

        Args:
            llm: What answers; each worker has a copy with a warm engine, and reads its own key.
            workers: How many in all; None: one on every node that can hold one.
            concurrency: Prompts of each at once at most.
            num_cpus: Cores that Ray sets aside for each.
            memory: Bytes that it does.
            resources: Resources of the cluster's own that it does: {"opencode_creds": 0.01}.
            address: Of the cluster; None: RAY_ADDRESS, one that runs here, or one of our own.
            install: Whether a worker may fetch opencode from npm when it has no other way.
            limiter: Whether the whole cluster shares one limiter for each account.
            resends: How often a prompt whose worker was lost is sent to another one.
            patience_seconds: How long a cluster without any worker is waited for.

        Raises:
            ConfigurationError: There is no such cluster, or the key would be shown in it.
            OpenCodeError: No worker can work.
        """
        connect(address)
        plan = WorkerPlan(
            workers, concurrency, num_cpus, memory, dict(resources or {}), patience_seconds
        )
        setup = WorkerSetup.of_driver(llm, install=install, limiter=limiter)
        self._key = key_of(llm.settings)
        fleet = partial(Fleet, plan, Parcel.of(llm), setup)
        self._dispatcher = Dispatcher(Pooled(), fleet, resends + 1)
        try:
            background.Job(self._dispatcher.start()).result()
        except BaseException:
            self.close()
            raise

    def prompt(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> QueryResult:
        """Run one prompt on a worker and wait for its end; as `ChutesOpenCodeLLM.prompt`.

        Raises:
            WorkerLostError: Its worker was lost.
            OpenCodeError: As `ChutesOpenCodeLLM.prompt`.
        """
        return background.Job(self._ask(self._pack(prompt, arguments))).result()

    async def aprompt(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> QueryResult:
        """Run one prompt from any event loop; as `prompt`. A cancelled one is ended."""
        return await background.Job(self._ask(self._pack(prompt, arguments))).join()

    def submit(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> Future[QueryResult]:
        """Have one prompt run, and return at once; waits where too many wait already.

        Returns:
            Its result, or what `prompt` would raise; cancelled, the prompt is ended.
        """
        packed, future = self._pack(prompt, arguments), Future[QueryResult]()
        background.Job(self._enter(packed, future)).result()
        return future

    def map(self, items: Iterable[Item]) -> Iterator[QueryResult]:
        """Yield the results of prompts as they complete, reading no further ahead than needed.

        Each carries its item's position in `index`, and its failure, if it failed, in `error`;
        after an account error (authentication, billing) the rest is not sent.

        Args:
            items: Prompts, or mappings of `prompt`'s arguments.
        """
        results = self._completed(items)
        try:
            while (result := background.Job(anext(results, None)).result()) is not None:
                yield result
        finally:
            background.Job(results.aclose()).result()

    async def amap(self, items: Iterable[Item]) -> AsyncIterator[QueryResult]:
        """Yield the results of `map` on any event loop."""
        results = self._completed(items)
        try:
            while (result := await background.Job(anext(results, None)).join()) is not None:
                yield result
        finally:
            await background.Job(results.aclose()).join()

    def stats(self) -> ExecutorStats:
        """Tell how the workers do."""
        return background.Job(_called(self._dispatcher.stats)).result()

    def close(self) -> None:
        """End the workers, and the prompts that still run."""
        background.Job(self._dispatcher.close()).result()

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the pool."""
        self.close()

    def _pack(self, prompt: str, arguments: Mapping[str, Any]) -> bytes:
        check_names(arguments)
        if arguments.get("budget") is not None:
            raise ConfigurationError(
                raw_message="a Budget counts what one process spends; a pool has many",
                hint="Use limits= of the instance, or a batch with max_cost_usd.",
            )
        return pack_work(Ask(prompt, dict(arguments)), self._key)

    async def _ask(self, packed: bytes) -> QueryResult:
        return _outcome(await self._dispatcher.run(packed))

    async def _ask_item(self, item: Mapping[str, Any]) -> QueryResult:
        arguments = dict(item)
        return await self._ask(self._pack(arguments.pop("prompt", ""), arguments))

    async def _enter(self, packed: bytes, future: Future[QueryResult]) -> None:
        """Have a prompt run for a future, once not too many wait."""
        await self._dispatcher.room(AHEAD)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._ask(packed))
        task.add_done_callback(lambda done: _tell(done, future))
        future.add_done_callback(
            lambda told: told.cancelled() and loop.call_soon_threadsafe(task.cancel)
        )

    def _completed(self, items: Iterable[Item]) -> AsyncGenerator[QueryResult, None]:
        places = AHEAD * self._dispatcher.places
        check_batch(items, places)
        return completed(items, self._ask_item, places)


def _outcome(receipt: Receipt) -> QueryResult:
    """Return what a prompt came to, or raise what `ChutesOpenCodeLLM.prompt` would."""
    if receipt.error is not None:
        raise receipt.error
    if receipt.cut:
        raise asyncio.CancelledError
    if receipt.finished is None:
        raise UnknownOpenCodeError(raw_message="the worker failed", stderr=receipt.fault)
    return receipt.finished.result


def _tell(done: asyncio.Task[QueryResult], future: Future[QueryResult]) -> None:
    with suppress(InvalidStateError):  # it was cancelled a moment ago
        if done.cancelled():
            future.cancel()
        elif (error := done.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


async def _called(function: Callable[[], T]) -> T:
    return function()
