"""A scheduler with a store in memory and an executor that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.running.executor import CutError, Finished
from chutes_opencode.batch.running.gates import Gates
from chutes_opencode.batch.running.progress import Meter, Snapshot
from chutes_opencode.batch.running.reading import TaskReader
from chutes_opencode.batch.running.reporting import Reporter
from chutes_opencode.batch.running.scheduler import Scheduler
from chutes_opencode.batch.running.stop import StopSwitch
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.results import QueryResult, Usage

COST_USD = 0.25
NOW = 1_000_000.0


def tasks(count: int, *models: str) -> list[Task]:
    """Return items × models, as a dataset has them."""
    items = [BatchItem(str(number), content_hash=f"hash {number}") for number in range(count)]
    return [Task(item, model) for item in items for model in models or ("",)]


def answer(text: str = "well") -> QueryResult:
    return QueryResult(
        result=text,
        returncode=0,
        stderr="",
        stream_result="",
        success=True,
        usage=Usage(input=3, output=1, num_requests=1),
        cost_usd=COST_USD,
    )


def failure(error: OpenCodeError, *, paid: bool = False) -> QueryResult:
    return QueryResult(
        result="",
        returncode=-1,
        stderr="",
        stream_result="",
        usage=Usage(input=3, num_requests=1) if paid else Usage(),
        cost_usd=COST_USD if paid else None,
        error=error,
    )


Act = Callable[[Task], Any]


class Actor:
    """An executor: each task comes to what `act` returns or raises, and may have to wait for it.

    `act` returns a QueryResult, an awaitable of one, or an exception to raise.
    """

    def __init__(self, act: Act, places: int = 4) -> None:
        self._act = act
        self.limit = places
        self.ran: list[str] = []
        self.running = 0
        self.most = 0
        self.words = ""

    async def run(self, task: Task) -> Finished:
        self.ran.append(task.item.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            outcome = self._act(task)
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
            if isinstance(outcome, BaseException):
                raise outcome
            return Finished(outcome)
        except asyncio.CancelledError:
            raise CutError(Finished(answer("half"))) from None
        finally:
            self.running -= 1

    def places(self) -> int:
        return self.limit

    def waiting(self) -> str:
        return self.words

    async def close(self) -> None:
        """Nothing is kept."""


class Shelf:
    """A store in memory; `hold` makes records wait, `refuse` is raised instead of taking one."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.transcripts: list[str] = []
        self.cuts: list[Record] = []
        self.taken: list[Record] = []
        self.refuse: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.waiting = 0
        self.most = 0

    async def append(self, record: Record, result: QueryResult | None) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.free.wait()
        self.waiting -= 1
        if self.refuse is not None:
            raise self.refuse
        self.records.append(record)
        if result is not None:
            self.transcripts.append(record.id)

    async def cut(self, record: Record) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.cuts.append(record)

    def note(self, record: Record) -> bool:
        new = record.key not in [each.key for each in self.records]
        self.records += [record] * new
        return new

    def take_back(self, predicate: Callable[[Record], bool]) -> int:
        self.taken = [record for record in self.records if predicate(record)]
        self.records = [record for record in self.records if not predicate(record)]
        return len(self.taken)

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]

    def standing(self, task: Task) -> str:
        found = (record for record in self.records if record.key == task.key)
        hash_ = task.item.content_hash
        return next((record.status for record in found if record.content_hash == hash_), "")

    def changed(self, task: Task) -> bool:
        has_one = any(record.key == task.key for record in self.records)
        return has_one and not self.standing(task)


class Log:
    """Keeps what was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str, **_fields: object) -> None:
        self.warnings.append(text)


@dataclass
class Room:
    """A batch and all that it works with."""

    actor: Actor
    given: Iterable[Task]
    folder: Path
    shelf: Shelf = field(default_factory=Shelf)
    stop: StopSwitch = field(default_factory=StopSwitch)
    log: Log = field(default_factory=Log)
    gates: Gates = field(default_factory=Gates)
    on_progress: Callable[[Snapshot], object] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    passes: int = 0
    now: float = NOW

    def __post_init__(self) -> None:
        self.given = list(self.given)
        self.meter = Meter(len(self.given), now=self.now)
        self.reporter = Reporter(self.folder, self.on_progress, self.log)
        self.reader = TaskReader(self.tasks, self.shelf.standing, self.shelf.changed)
        self.scheduler = Scheduler(
            reader=self.reader,
            store=self.shelf,
            executor=self.actor,
            gates=self.gates,
            meter=self.meter,
            reporter=self.reporter,
            stop=self.stop,
            clock=self.clock,
            **self.options,
        )

    def clock(self) -> float:
        """Tell the time: it goes on by itself a little, as clocks do."""
        self.now += 1e-6
        return self.now

    def tasks(self) -> Iterator[Task]:
        self.passes += 1
        for task in self.given:
            self.read.append(task.item.id)
            yield task

    async def run(self) -> Snapshot:
        try:
            await self.scheduler.run()
        finally:
            self.reader.close()
            last = self.scheduler.snapshot(ended=True)
            await self.reporter.last(last)
        return last


async def until(condition: Callable[[], object]) -> None:
    """Let the loop work until the condition holds; the test's own time limit ends a hang."""
    while not condition():
        await asyncio.sleep(0)


def well(_task: Task) -> QueryResult:
    return answer()


def only(bad: dict[str, OpenCodeError], *, paid: bool = False) -> Callable[[Task], QueryResult]:
    """Fail the items that are named."""

    def act(task: Task) -> QueryResult:
        error = bad.get(task.item.id)
        return answer() if error is None else failure(error, paid=paid)

    return act


class Doors:
    """Has each task wait until its door is opened."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}

    async def wait(self, task: Task) -> QueryResult:
        event = self.events[task.item.id] = asyncio.Event()
        await event.wait()
        return answer()

    def open(self, *names: str) -> None:
        for name in names or tuple(self.events):
            self.events[name].set()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 120))


Build = Callable[..., Room]
"""Builds a room: see the fixture `build`."""
