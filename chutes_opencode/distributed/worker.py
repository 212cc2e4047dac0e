"""PromptWorker: a Ray actor with one warm engine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chutes_opencode import background
from chutes_opencode.arguments import PromptArguments
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import Finished, RunStart
from chutes_opencode.batch.store.shards import ShardWriter, require_run
from chutes_opencode.batching import failed_result
from chutes_opencode.distributed.drain import DRAIN_SECONDS, on_sigterm, overtime, refusal
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.metrics import PromptMetrics
from chutes_opencode.distributed.setup.parcel import Parcel, placed
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, enter
from chutes_opencode.distributed.work.desk import POLL_SECONDS, Desk
from chutes_opencode.distributed.work.orders import Ask, Load, Order, Receipt, Report, Work
from chutes_opencode.distributed.work.shard_runner import ShardRunner, make_executor
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.events import Event, PromptCancelled
from chutes_opencode.results import QueryResult

if TYPE_CHECKING:
    from chutes_opencode.distributed.budget import BudgetTicket
    from chutes_opencode.llm import ChutesOpenCodeLLM

T = TypeVar("T")

CONCURRENCY = 16
"""Prompts of a worker at once, where nobody says another number."""
MEMORY_BYTES = 1536 << 20
"""What an actor with its warm server and 16 sessions needs; see docs/scale.md."""
# Calls at once: each is a wait on the one loop that does the work.
_PROMPTS, _CONTROL = 1000, 100


@dataclass(frozen=True, slots=True)
class Health:
    """How a worker is.

    Attributes:
        node: Ray's id of its node.
        pid: Its process.
        in_flight: Orders and prompts under way.
        load: How it does.
        servers: Warm opencode servers.
        up_seconds: How long it has been there.
    """

    node: str
    pid: int
    in_flight: int
    load: Load
    servers: int
    up_seconds: float


class Station:
    """What a worker is, but for Ray's calls: one instance, one desk. On the background loop."""

    def __init__(self, parcel: Parcel, setup: WorkerSetup, concurrency: int) -> None:
        """Hold what is needed; nothing is looked for or started yet."""
        self._parcel = parcel
        self._setup = setup
        self._concurrency = concurrency
        self._began = time.monotonic()
        self._llm: ChutesOpenCodeLLM | None = None
        self._entering = asyncio.Lock()
        self._beginning = asyncio.Lock()
        self._tasks: ShardRunner | None = None
        self._budget: Any = None
        self._metrics = PromptMetrics()
        self._prompts: set[asyncio.Task[Any]] = set()
        self._places = asyncio.Semaphore(concurrency)
        self._overtime = False
        self.desk = Desk(self._run, self._load)

    async def llm(self) -> ChutesOpenCodeLLM:
        """Return the instance, set up for this machine.

        Raises:
            OpenCodeError: It cannot work here.
        """
        async with self._entering:
            if self._llm is None:
                await asyncio.to_thread(enter, self._setup)
                self._llm = await asyncio.to_thread(self._parcel.open, self._setup)
        return self._llm

    async def begin(self, start: RunStart | None, ticket: BudgetTicket | None, name: str) -> Health:
        """Get ready; with a run, for its tasks.

        Args:
            start: The run; None: for prompts of a pool.
            ticket: The run's budget; None: it has none.
            name: The worker's: its shard is called so.

        Raises:
            OpenCodeError: It cannot work here.
        """
        llm = await self.llm()
        await llm._runtime()  # no key, no catalogue: better now than in the first prompt
        async with self._beginning:  # a call whose answer was lost is made again
            if start is not None and self._tasks is None:
                self._tasks = await self._runner(llm, start, ticket, name)
        return self.health()

    async def prompt(self, prompt: str, arguments: PromptArguments) -> QueryResult:
        """Run one prompt.

        Raises:
            WorkerLostError: The worker was told to end, and the prompt was refused or ended.
            OpenCodeError: As `ChutesOpenCodeLLM.prompt`.
        """
        if self.desk.draining:
            raise refusal()
        me, paid = asyncio.current_task(), list[QueryResult]()
        assert me is not None
        self._prompts.add(me)
        try:
            async with self._places:  # whoever calls by itself may call a thousand times at once
                if self.desk.draining:
                    raise refusal()
                return await self._prompted(prompt, arguments, paid)
        except asyncio.CancelledError:
            if not self._overtime:
                raise
            raise placed(overtime(paid[-1] if paid else None, DRAIN_SECONDS)) from None
        finally:
            self._prompts.discard(me)

    @property
    def busy(self) -> bool:
        """Whether there is something to lose: prompts, or what was not told yet."""
        return self.desk.owes or bool(self._prompts)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Begin nothing new, let what runs end, and end what takes longer.

        Args:
            seconds: How long it may take.
        """
        self.desk.drain()
        ending = [asyncio.ensure_future(self.desk.emptied()), *self._prompts]
        await asyncio.wait(ending, timeout=seconds)
        self._overtime = True
        for task in [*self._prompts]:
            task.cancel()
        self.desk.cancel_all()
        await self.desk.emptied()

    def health(self) -> Health:
        """Tell how it is."""
        servers = 0 if self._llm is None else self._llm.engine_stats().servers
        in_flight, up = self.desk.in_flight + len(self._prompts), time.monotonic() - self._began
        node = ray.get_runtime_context().get_node_id()
        return Health(node, os.getpid(), in_flight, self.desk.load(), servers, up)

    async def close(self) -> None:
        """End what runs, write what is on its way, and end the engine."""
        await self.desk.close()
        if self._tasks is not None:
            await self._tasks.close()
        if self._budget is not None:
            await self._budget.aclose()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.close)

    async def _prompted(
        self, prompt: str, arguments: PromptArguments, paid: list[QueryResult]
    ) -> QueryResult:
        try:
            llm = await self.llm()
            result = await llm._ask({"prompt": prompt, **arguments}, _payer(paid), single=False)
        except OpenCodeError as error:
            self._metrics.observe(error.result or failed_result(error))
            raise placed(error) from error.__cause__
        self._metrics.observe(result)
        return result

    async def _runner(
        self, llm: ChutesOpenCodeLLM, start: RunStart, ticket: BudgetTicket | None, name: str
    ) -> ShardRunner:
        await asyncio.to_thread(require_run, start.place, start.run_id)
        shard = await asyncio.to_thread(ShardWriter.open, start.place, name)
        if ticket is not None:
            self._budget = await asyncio.to_thread(ticket.open, name)
        return ShardRunner(
            make_executor(llm, start, self._concurrency, self._budget),
            shard,
            transcripts=start.transcripts,
            observe=self._metrics.observe,
            settled=self.desk.changed,
        )

    async def _run(self, number: int, work: Work) -> Receipt:
        if isinstance(work, Task):
            assert self._tasks is not None, "no run was begun"
            return await self._tasks.run(number, work)
        return await self._answer(number, work)

    async def _answer(self, number: int, ask: Ask) -> Receipt:
        try:
            result = await self.prompt(ask.prompt, ask.arguments)  # type: ignore[arg-type]
        except OpenCodeError as error:
            return Receipt(number, Finished(error.result or failed_result(error)), error)
        return Receipt(number, Finished(result))

    def _load(self) -> Load:
        return Load(self._concurrency) if self._tasks is None else self._tasks.load()


# A prompt that was under way is never run again by Ray: it may have been paid for.
@ray.remote(  # type: ignore[call-overload]
    num_cpus=1,
    memory=MEMORY_BYTES,
    max_restarts=-1,
    max_task_retries=0,
    concurrency_groups={"prompts": _PROMPTS, "control": _CONTROL},
)
class PromptWorker:
    """One warm engine on one node.

    By itself: `PromptWorker.options(…).remote(Parcel.of(llm), WorkerSetup.of_driver(llm))`, then
    `worker.prompt.remote("…")`. `PromptPool` and `RayExecutor` see to workers themselves.
    """

    _station: Any = None  # the Station

    def __new__(cls, *_arguments: Any) -> Self:
        """Have SIGTERM drain the worker: only this runs where Python takes signals."""
        self = object.__new__(cls)  # Ray puts another class in the place of this one: no super()
        on_sigterm(self._is_busy, self._end)
        return self

    def __init__(self, parcel: Parcel, setup: WorkerSetup, concurrency: int = CONCURRENCY) -> None:
        """Hold what is needed.

        Nothing that can fail happens here: of an actor that could not be made, Ray tells the
        error as a text alone.

        Args:
            parcel: The instance.
            setup: What the driver says.
            concurrency: Prompts at once at most; further ones wait.
        """
        self._station = background.Job(_made(parcel, setup, concurrency)).result()

    @ray.method(concurrency_group="prompts")
    async def prompt(self, prompt: str = "", **arguments: Any) -> QueryResult:
        """Run one prompt; as `ChutesOpenCodeLLM.aprompt`."""
        return await _on_loop(self._station.prompt(prompt, arguments))

    @ray.method(concurrency_group="control")
    async def begin(
        self, start: RunStart | None = None, ticket: BudgetTicket | None = None, name: str = ""
    ) -> Health:
        """Get ready; see `Station.begin`."""
        try:
            return await _on_loop(self._station.begin(start, ticket, name))
        except OpenCodeError as error:
            raise placed(error) from error.__cause__

    @ray.method(concurrency_group="control")
    async def submit(self, block: Sequence[Order]) -> None:
        """Begin orders; see `Desk.submit`."""
        await _on_loop(_called(self._station.desk.submit, block))

    @ray.method(concurrency_group="control")
    async def receipts(self, heard: int = 0, seconds: float = POLL_SECONDS) -> Report:
        """Wait for what there is to tell; see `Desk.receipts`."""
        return await _on_loop(self._station.desk.receipts(heard, seconds))

    @ray.method(concurrency_group="control")
    async def cancel(self, numbers: Sequence[int]) -> None:
        """End orders; see `Desk.cancel`."""
        await _on_loop(_called(self._station.desk.cancel, numbers))

    @ray.method(concurrency_group="control")
    async def health(self) -> Health:
        """Tell how it is."""
        return await _on_loop(_called(self._station.health))

    @ray.method(concurrency_group="control")
    async def drain(self) -> None:
        """Begin nothing new; return when what runs has ended, or had to be ended."""
        await _on_loop(self._station.drain())

    @ray.method(concurrency_group="control")
    async def close(self) -> None:
        """End everything; the actor itself is ended by `ray.kill`, or with its last handle."""
        await _on_loop(self._station.close())

    def _is_busy(self) -> bool:
        return self._station is not None and self._station.busy

    def _end(self) -> None:
        background.Job(self._station.drain()).result()


async def _made(parcel: Parcel, setup: WorkerSetup, concurrency: int) -> Station:
    return Station(parcel, setup, concurrency)


def _payer(paid: list[QueryResult]) -> Callable[[Event], None]:
    """Return an observer that keeps what a prompt that is cancelled has cost."""

    def observe(event: Event) -> None:
        if isinstance(event, PromptCancelled):
            paid.append(event.result)

    return observe


async def _called(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


async def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run something where all work of this process runs, whichever loop Ray calls on."""
    return await background.Job(work).join()
