"""Shards to write and read, and an executor whose workers write into real ones."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.running.executor import (
    LOST,
    CutError,
    ExecutorStats,
    Finished,
    RunStart,
    WorkerView,
)
from chutes_opencode.batch.store.record_json import record_of
from chutes_opencode.batch.store.shards import ShardWriter, fence_shard, read_shard
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import answer


def bring(
    writer: ShardWriter, *records: Record, result: QueryResult | None = None
) -> list[Record | BaseException]:
    """Bring records all at once; return what each came to."""

    async def work() -> list[Record | BaseException]:
        calls = (writer.append(each, result) for each in records)
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(work())


def write_shard(place: Path | str, name: str, *records: Record) -> None:
    """Write a shard, which is then without a writer."""
    with ShardWriter.open(str(place), name) as writer:
        for each in records:
            assert bring(writer, each) == [each]


def ids(records: Iterator[Record]) -> list[str]:
    return [record.id for record in records]


@dataclass
class _Worker:
    writer: ShardWriter
    in_flight: int = 0
    done: int = 0
    lost: bool = False


class Workers:
    """An executor as a cluster has one: each task goes to a worker, whose shard takes the answer.

    `act` returns what a task comes to, or an awaitable of it. `places` is for each worker.
    """

    def __init__(
        self,
        act: Callable[[Task], object] = lambda task: answer(task.item.prompt),
        *,
        workers: int = 2,
        places: int = 4,
    ) -> None:
        self._act = act
        self._count = workers
        self._places = places
        self._workers: list[_Worker] = []
        self._place = ""
        self.starts: list[RunStart] = []
        self.ran: list[str] = []
        self.resent = 0
        self.closed = False

    # --- as a run sees it ------------------------------------------------------------------------

    def opencode_version(self) -> str:
        return "1.2.3"

    async def begin(self, start: RunStart) -> None:
        self.starts.append(start)
        self._place, self.resent = start.place, 0
        await self.end()
        self._workers = [await self._new() for _ in range(self._count)]

    async def run(self, task: Task) -> Finished:
        self.ran.append(task.item.id)
        while True:
            worker = min(self._alive(), key=lambda each: each.in_flight)
            worker.in_flight += 1
            try:
                finished = await self._on(worker, task)
            except asyncio.CancelledError:
                raise CutError(Finished(answer("half"))) from None
            finally:
                worker.in_flight -= 1
            if finished is None:
                self.resent += 1
                continue
            worker.done += 1
            return finished

    def places(self) -> int:
        return self._places * max(1, len(self._alive()))

    def waiting(self) -> str:
        return ""

    def stats(self) -> ExecutorStats:
        views = (
            WorkerView(each.writer.name, "here", each.in_flight, each.done)
            if not each.lost
            else WorkerView(each.writer.name, "here", state=LOST)
            for each in self._workers
        )
        return ExecutorStats(tuple(views), self.resent)

    async def close(self) -> None:
        self.closed = True
        await self.end()

    # --- what a test does with it ----------------------------------------------------------------

    async def end(self) -> None:
        """Close the shards' files."""
        for worker in self._workers:
            await asyncio.to_thread(worker.writer.close)
        self._workers = []

    async def lose(self, number: int) -> None:
        """Give a worker up for lost, though it goes on; another one takes its place."""
        self._workers.append(await self._new())
        self._workers[number].lost = True
        name = self._workers[number].writer.name
        await asyncio.to_thread(fence_shard, self._place, name)

    async def _new(self) -> _Worker:
        name = f"worker-{secrets.token_hex(4)}"
        return _Worker(await asyncio.to_thread(ShardWriter.open, self._place, name))

    def _alive(self) -> list[_Worker]:
        return [each for each in self._workers if not each.lost]

    async def _on(self, worker: _Worker, task: Task) -> Finished | None:
        """Run a task on a worker; None: it was lost before the answer was durable."""
        result = self._act(task)
        if asyncio.iscoroutine(result):
            result = await result
        assert isinstance(result, QueryResult)
        if result.error is not None:
            return Finished(result)
        record = record_of(task, result, started_at=time.time())
        with suppress(StoreError):
            stored = await worker.writer.append(record, result)
            return Finished(replace(result, result=""), stored=replace(stored, result=""))
        found = await asyncio.to_thread(lambda: [*read_shard(self._place, worker.writer.name)])
        stored_before = next((each for each in found if each.key == task.key), None)
        return None if stored_before is None else Finished(result, stored=stored_before)
