"""The scheduler: carries the tasks of a batch out, and has each result durable before it counts.

A task takes a place while its prompt runs, and gives it back before its record is written: a slow
disk keeps no prompt waiting until many records wait for it. Nothing is read further ahead than one
task for each place.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import CUT, FAILED, Record
from chutes_opencode.batch.running.executor import CutError, Executor, Finished, stats_of
from chutes_opencode.batch.running.gates import Gates, Keep, Leave, Requeue, Stop, Ticket
from chutes_opencode.batch.running.parking import Parking, Work
from chutes_opencode.batch.running.progress import (
    FINISHED,
    RUNNING,
    STOPPED,
    STOPPING,
    Meter,
    Snapshot,
)
from chutes_opencode.batch.running.reading import TaskReader
from chutes_opencode.batch.running.record_store import RecordStore
from chutes_opencode.batch.running.reporting import Reporter
from chutes_opencode.batch.running.stop import FINISH, GO, NOW, StopSwitch
from chutes_opencode.batch.store.record_json import record_of
from chutes_opencode.batching import failed_result
from chutes_opencode.errors import OpenCodeError, UnknownOpenCodeError

TICK_S = 0.5  # how often places, paused models and the progress are looked at anew
# Records that may wait for the disk: enough that one write takes many, where answers are quick.
SETTLING = 256
PARKED = 1_000  # tasks of paused models in memory; further ones are read once more at the end
CUTS = 20  # a task whose machine had to end so often is left for the next resume
BUGS = 10  # an executor that fails in its own way so often in a row will go on doing so
# A stop that lets prompts finish counts what is left, for so many seconds and so many tasks a look.
COUNT_S = 5.0
COUNTED = 1_000


class Scheduler:
    """Carries one batch out. Used once, on one event loop.

    Attributes:
        stopped_by: Why it stopped before its end; "": it did not.
        stop_error: The error that stopped it, if one did.
    """

    def __init__(
        self,
        *,
        reader: TaskReader,
        store: RecordStore,
        executor: Executor,
        gates: Gates,
        meter: Meter,
        reporter: Reporter,
        stop: StopSwitch,
        cut_at_budget: bool = False,
        transcripts: str = "all",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what it works with; nothing is begun.

        Args:
            reader: Yields the tasks that have no result yet.
            store: Takes what they come to.
            executor: Runs one.
            gates: Tells what may run now, and what becomes of a failure.
            meter: Counts.
            reporter: Tells how far it is.
            stop: Ends it early.
            cut_at_budget: Whether prompts in flight are cut when the batch's dollars are used up.
            transcripts: Of which tasks a transcript is kept: "all", "failed" or "none".
            clock: Seconds since the epoch.
        """
        self._reader = reader
        self._store = store
        self._executor = executor
        self._gates = gates
        self._meter = meter
        self._reporter = reporter
        self._stop = stop
        self._cut_at_budget = cut_at_budget
        self._transcripts = transcripts
        self._clock = clock
        self._level = GO
        self._count_until = 0.0
        self._bugs = 0
        self._broken: BaseException | None = None
        self._wake = asyncio.Event()
        self._read: deque[Task] = deque()
        self._reading: asyncio.Task[list[Task]] | None = None
        self._parking = Parking()
        self._put_off = False
        self._models: set[str] = set()
        self._running: dict[asyncio.Task[None], Work] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._left_by: tuple[str, OpenCodeError | None] = "", None
        self.stopped_by = ""
        self.stop_error: OpenCodeError | None = None

    async def run(self) -> None:
        """Carry the batch out, until its end or until something stops it.

        Raises:
            StoreError: Records cannot be written.
            Exception: What the source of the tasks raises.
        """
        loop = asyncio.get_running_loop()
        unlisten = self._stop.add_listener(lambda: loop.call_soon_threadsafe(self._wake.set))
        ticker = loop.create_task(self._tick())
        ticker.add_done_callback(self._look_after)
        try:
            while not self._over():
                self._wake.clear()
                self._obey()
                self._fill()
                if not self._over():
                    await self._wake.wait()
        finally:
            unlisten()
            await self._end(ticker)
        if self._broken is not None:
            raise self._broken
        if not self._meter.left:  # stopped, but with nothing more to do
            self.stopped_by, self.stop_error = "", None
        elif not self.stopped_by:
            self.stopped_by, self.stop_error = self._left_by

    def snapshot(self, *, ended: bool = False) -> Snapshot:
        """Return how far it is.

        Args:
            ended: Whether `run` has returned.
        """
        state = RUNNING if self._level == GO else STOPPING
        if ended:
            state = STOPPED if self._meter.left else FINISHED
        stats = stats_of(self._executor)
        return self._meter.snapshot(
            self._clock(),
            in_flight=len(self._running),
            waiting="" if ended else self._executor.waiting() or self._gates.waiting(self._clock()),
            state=state,
            stopped_by=self.stopped_by,
            workers=stats.working,
            resent=stats.resent,
        )

    async def _end(self, ticker: asyncio.Task[None]) -> None:
        """End what still runs, and return when it is gone; what is being written is written."""
        running = [*self._running]
        # Told a second time, a prompt would go without saying what it has cost.
        for task in [ticker] if self._level == NOW else [ticker, *running]:
            task.cancel()
        # What takes results back, in a thread, must not be left alone with a store that closes.
        reading = [self._reading] if self._reading else []
        await asyncio.gather(ticker, *reading, *running, *self._settling, return_exceptions=True)

    # --- what runs next --------------------------------------------------------------------------

    def _over(self) -> bool:
        if self._running or self._settling or self._reading:
            return False
        if self._level > GO:
            return not self._counts_on()
        return self._reader.ended and not (self._again() or self._read or self._parking)

    def _counts_on(self) -> bool:
        """Tell whether what is left is still to be counted, once nothing more is begun."""
        stopping = self._level == FINISH and self._broken is None
        return stopping and not self._reader.ended and self._clock() < self._count_until

    def _obey(self) -> None:
        """Do what the switch says."""
        if self._stop.level > self._level:
            self._halt("interrupt", None, now=self._stop.level == NOW)

    def _halt(self, reason: str, error: OpenCodeError | None, *, now: bool = False) -> None:
        """Begin nothing new; `now`: end what runs."""
        if self._level == GO:
            self._count_until = self._clock() + COUNT_S
        if now and self._level < NOW:  # once: see `_end`
            for running in self._running:
                running.cancel()
        self._level = max(self._level, NOW if now else FINISH)
        if not self.stopped_by:
            self.stopped_by, self.stop_error = reason, error
        self._wake.set()

    def _break(self, error: BaseException) -> None:
        """Stop at once: going on is useless."""
        self._broken = self._broken or error
        reason = "store" if isinstance(error, StoreError) else "fault"
        self._halt(reason, error if isinstance(error, OpenCodeError) else None, now=True)

    def _fill(self) -> None:
        """Give free places to tasks, and read ahead for those that will be free."""
        now = self._clock()
        places = max(self._executor.places(), 1)
        while self._level == GO and len(self._running) < places and len(self._settling) < SETTLING:
            work = self._next(now)
            if work is None:
                break
            self._start(work, self._gates.enter(work.task.model, now, work.since))
        if self._reading is not None:
            return
        if self._level == GO and len(self._read) <= places // 2:
            self._read_ahead(places - len(self._read))
        elif self._counts_on():
            self._read_with(self._reader.read(COUNTED))

    def _next(self, now: float) -> Work | None:
        """Return the task that runs next; None: there is none now."""
        work = self._parking.take(now, lambda model: self._gates.admits(model, now))
        while work is None and self._read:
            task = self._read[0]
            if self._gates.admits(task.model, now):
                work = Work(self._read.popleft())
            elif not self._put_aside(task, now):
                break
        return work

    def _put_aside(self, task: Task, now: float) -> bool:
        """Have the task that was read first wait elsewhere; False: it stays where it is."""
        if self._gates.closed(task.model):
            pass  # left for the next resume
        elif len(self._parking) < PARKED:
            self._parking.put(Work(task))
        elif any(self._gates.admits(other, now) for other in self._models - {task.model}):
            self._put_off = True  # for a second pass, so that the other models go on
        else:
            return False
        self._read.popleft()
        return True

    def _read_ahead(self, count: int) -> None:
        if not self._reader.ended:
            reading = self._reader.read(count)
        elif self._again() and not (self._read or self._parking or self._running or self._settling):
            reading = self._next_pass(count)
        else:
            return
        self._read_with(reading)

    def _read_with(self, reading: Coroutine[Any, Any, list[Task]]) -> None:
        self._reading = asyncio.get_running_loop().create_task(reading)
        self._reading.add_done_callback(self._take_read)

    def _again(self) -> bool:
        """Tell whether the source has to be read once more when all the rest is at its end."""
        return self._put_off or bool(self._reader.changed)

    async def _next_pass(self, count: int) -> list[Task]:
        """Read from the beginning, for what was put off and what has changed."""
        if self._reader.changed and not await asyncio.to_thread(
            self._store.take_back, self._reader.has_changed
        ):
            raise RuntimeError("results of changed items could not be taken back")
        self._put_off = False
        self._reader.again()
        return await self._reader.read(count)

    def _take_read(self, reading: asyncio.Task[list[Task]]) -> None:
        self._reading = None
        self._wake.set()
        if reading.cancelled():
            return
        error = reading.exception()
        if isinstance(error, StoreError):
            self._break(error)
        elif error is not None:
            self._broken = self._broken or error
            self._halt("source", error if isinstance(error, OpenCodeError) else None)
        else:
            if self._level == GO:
                self._read.extend(reading.result())
            self._models.update(task.model for task in self._read)
            self._meter.skipped = self._reader.skipped
            self._meter.failed_before = self._reader.failed

    async def _tick(self) -> None:
        """Have places, pauses and the progress looked at now and then, whatever happens."""
        while True:
            self._reporter.offer(self.snapshot())
            await asyncio.sleep(TICK_S)
            self._wake.set()

    def _look_after(self, ticker: asyncio.Task[None]) -> None:
        """Stop where nothing would look at pauses any more: the batch would wait for ever."""
        if not ticker.cancelled() and (error := ticker.exception()) is not None:
            self._break(error)

    # --- one task --------------------------------------------------------------------------------

    def _start(self, work: Work, ticket: Ticket) -> None:
        running = asyncio.get_running_loop().create_task(self._carry_out(work, ticket))
        self._running[running] = work
        self._reporter.under_way(len(self._running) + len(self._settling))
        running.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._settling.discard(task)
        self._reporter.under_way(len(self._running) + len(self._settling))
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    async def _carry_out(self, work: Work, ticket: Ticket) -> None:
        """Run a task, then settle what came of it; its place is free in between."""
        started_at = self._clock()
        try:
            finished = await self._finished(work.task)
        except CutError as cut:
            self._gates.dropped(ticket)
            await self._cut(record_of(work.task, cut.finished.result, started_at=started_at))
            if self._level == GO and work.requeued < CUTS:  # nobody asked: its machine had to end
                now, count = self._clock(), work.requeued + 1
                self._parking.put(Work(work.task, count, now, ticket.since))
            return
        me = asyncio.current_task()
        assert me is not None
        del self._running[me]
        self._settling.add(me)
        self._wake.set()
        await self._settle(work, ticket, finished, started_at)

    async def _finished(self, task: Task) -> Finished:
        try:
            finished = await self._executor.run(task)
        except CutError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug costs its task, not the batch
            self._bugs += 1
            unknown = UnknownOpenCodeError(
                raw_message=f"the executor failed: {error!r}", stderr=traceback.format_exc()
            )
            if self._bugs >= BUGS:
                self._halt("executor", unknown)
            return Finished(failed_result(unknown))
        self._bugs = 0
        return finished

    async def _settle(
        self, work: Work, ticket: Ticket, finished: Finished, started_at: float
    ) -> None:
        """Record what a task came to, or have it run again."""
        if (stored := finished.stored) is not None:
            self._gates.succeeded(ticket)
            counted = stored if self._store.note(stored) else replace(stored, status=CUT)
            self._meter.add(counted, self._clock())
            return
        error = finished.result.error
        record = record_of(work.task, finished.result, started_at=started_at, diff=finished.diff)
        if error is None:
            self._gates.succeeded(ticket)
        elif not self._counts(work, ticket, error):
            await self._cut(record)
            return
        wanted = self._transcripts == "all" or (
            self._transcripts == "failed" and record.status == FAILED
        )
        await self._store.append(record, finished.result if wanted else None)
        self._meter.add(record, self._clock())

    def _counts(self, work: Work, ticket: Ticket, error: OpenCodeError) -> bool:
        """Tell whether a failure is the task's own; if not, do what the gates say."""
        decision = self._gates.decide(ticket, error, work.requeued, self._clock())
        if isinstance(decision, Stop):
            cut = decision.reason == "budget" and self._cut_at_budget
            self._halt(decision.reason, decision.error, now=cut)
        elif isinstance(decision, Leave):
            self._left_by = decision.reason, error
        elif isinstance(decision, Requeue):
            again = Work(work.task, work.requeued + 1, decision.until, ticket.since)
            self._parking.put(again)
        if self._gates.closed(ticket.model):
            self._parking.drop(ticket.model)
        return isinstance(decision, Keep)

    async def _cut(self, record: Record) -> None:
        """Book what a try has cost that does not count."""
        cut = replace(record, status=CUT)
        if cut.cost_usd or cut.usage.num_requests:
            await self._store.cut(cut)
            self._meter.add(cut, self._clock())
