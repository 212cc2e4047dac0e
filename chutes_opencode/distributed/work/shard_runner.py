"""Runs the tasks of a batch on a worker, and has each answer durable before it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.repositories.worktrees import Worktrees
from chutes_opencode.batch.running.executor import (
    CutError,
    Executor,
    Finished,
    LlmExecutor,
    RunStart,
)
from chutes_opencode.batch.store.record_json import record_of
from chutes_opencode.batch.store.shards import ShardWriter
from chutes_opencode.distributed.work.orders import Load, Receipt, counted
from chutes_opencode.limits import Budget
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.results import QueryResult

Observe = Callable[[QueryResult], object]


class ShardRunner:
    """Runs tasks of one run; used on one event loop.

    An answer is written into the worker's shard, and only counted on the driver. What failed or
    was cut goes to the driver whole: it decides what becomes of it.
    """

    def __init__(
        self,
        executor: Executor,
        shard: ShardWriter,
        *,
        transcripts: str = "all",
        observe: Observe = lambda _result: None,
        settled: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what it works with; `close` closes it.

        Args:
            executor: Runs a prompt.
            shard: Takes the answers.
            transcripts: Of which tasks a transcript is kept: "all", "failed" or "none".
            observe: Is told of every result.
            settled: Called when a prompt has ended and its answer is about to be written.
            clock: Seconds since the epoch.
        """
        self._executor = executor
        self._shard = shard
        self._transcripts = transcripts
        self._observe = observe
        self._settled = settled
        self._clock = clock
        self._settling = 0

    async def run(self, number: int, task: Task) -> Receipt:
        """Run one task.

        Args:
            number: The order's.
            task: What to run.

        Returns:
            What it came to; cancelled, with what was paid for. An answer that cannot be stored
            here is in it whole, for the driver to store.
        """
        started_at = self._clock()
        try:
            finished = await self._executor.run(task)
        except CutError as cut:
            self._observe(cut.finished.result)
            return Receipt(number, cut.finished, cut=True)
        self._observe(finished.result)
        if finished.result.error is not None:
            return Receipt(number, finished)
        return Receipt(number, await self._store(task, finished, started_at))

    def load(self) -> Load:
        """Tell how it does."""
        return Load(self._executor.places(), self._settling, self._executor.waiting())

    async def close(self) -> None:
        """End what still runs, and write what is on its way."""
        await self._executor.close()
        await asyncio.to_thread(self._shard.close)

    async def _store(self, task: Task, finished: Finished, started_at: float) -> Finished:
        result = finished.result
        record = record_of(task, result, started_at=started_at, diff=finished.diff)
        self._settling += 1
        self._settled()
        # Not to be cancelled any more: it was paid for, and it counts.
        writing = asyncio.ensure_future(
            self._shard.append(record, result if self._transcripts == "all" else None)
        )
        try:
            return counted(await _to_its_end(writing))
        except Exception:  # noqa: BLE001 - it was paid for: whatever it is, the driver may do better
            return finished
        finally:
            self._settling -= 1


async def _to_its_end(writing: asyncio.Future[Record]) -> Record:
    """Wait until it has ended, also when this task is told to end."""
    while not writing.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([writing])
    return writing.result()


def make_executor(
    llm: ChutesOpenCodeLLM, start: RunStart, concurrency: int, budget: Budget | None
) -> LlmExecutor:
    """Return what runs prompts of a run with an instance.

    Args:
        llm: The instance.
        start: The run.
        concurrency: Prompts at once where the run does not say.
        budget: Dollars of the whole run; None: no limit.
    """
    return LlmExecutor(
        llm,
        start.concurrency or concurrency,
        budget=budget,
        defaults=start.defaults,
        worktrees=Worktrees(llm.settings.home / "repositories", llm.settings.temp_dir),
    )
