"""What ends a batch early: errors that all would meet, faults, and the switch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.running.gates import BATCH_BUDGET, GONE_AFTER
from chutes_opencode.batch.running.progress import STOPPED, STOPPING
from chutes_opencode.batch.running.scheduler import BUGS
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    LimitExceededError,
    ModelNotFoundError,
    OpenCodeError,
)
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import (
    COST_USD,
    Build,
    Doors,
    answer,
    failure,
    only,
    run,
    tasks,
    until,
    well,
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AuthenticationError(raw_message="no"), "authentication"),
        (BillingError(raw_message="no"), "billing"),
        (LimitExceededError(raw_message="no", limit=BATCH_BUDGET), "budget"),
    ],
)
def test_an_error_that_all_would_meet_stops_the_batch_and_fails_nothing(
    build: Build, error: OpenCodeError, reason: str
) -> None:
    async def work() -> None:
        room = build(only({"2": error}, paid=True), tasks(100), places=1)
        shown = await room.run()

        assert room.shelf.ids == ["0", "1"]
        assert [cut.id for cut in room.shelf.cuts] == ["2"]
        assert [cut.status for cut in room.shelf.cuts] == ["cut"]
        assert (shown.done, shown.failed, shown.left) == (2, 0, 98)
        assert (shown.state, shown.stopped_by) == (STOPPED, reason)
        assert shown.spent_usd == pytest.approx(3 * COST_USD)
        assert room.scheduler.stop_error is error

    run(work)


def test_the_only_model_that_is_gone_stops_the_batch(build: Build) -> None:
    async def work() -> None:
        error = ModelNotFoundError(raw_message="no", suggestions=("other",))
        room = build(lambda _task: failure(error), tasks(100), places=2)
        shown = await room.run()

        assert (shown.failed, shown.left, shown.stopped_by) == (0, 100, "models")
        assert room.scheduler.stop_error is error
        assert len(room.actor.ran) <= GONE_AFTER + 1, "the third that is told ends it"

    run(work)


def test_what_cost_nothing_leaves_no_trace_of_a_cut(build: Build) -> None:
    async def work() -> None:
        room = build(only({"0": AuthenticationError(raw_message="no")}), tasks(3), places=1)
        await room.run()
        assert room.shelf.cuts == []

    run(work)


@pytest.mark.parametrize(("cut", "done"), [(False, 2), (True, 0)])
def test_at_the_end_of_the_budget_what_runs_is_finished_or_cut_as_asked(
    build: Build, cut: bool, done: int
) -> None:
    async def work() -> None:
        doors = Doors()
        error = LimitExceededError(raw_message="no", limit=BATCH_BUDGET)

        async def act(task: Task) -> QueryResult:
            if task.item.id != "2":
                return await doors.wait(task)
            await until(lambda: len(doors.events) == 2)
            return failure(error)

        room = build(act, tasks(9), places=3, options={"cut_at_budget": cut})
        running = asyncio.create_task(room.run())
        await until(lambda: room.scheduler.snapshot().state == STOPPING)
        doors.open()
        shown = await running

        assert (shown.done, shown.failed, shown.left) == (done, 0, 9 - done)
        assert len(room.shelf.cuts) == 2 - done
        assert shown.stopped_by == "budget"

    run(work)


def test_a_store_that_cannot_write_stops_all_at_once(build: Build) -> None:
    async def work() -> None:
        doors = Doors()

        async def act(task: Task) -> QueryResult:
            return answer() if task.item.id == "2" else await doors.wait(task)

        room = build(act, tasks(9), places=3)
        room.shelf.refuse = StoreError(raw_message="the disk is full")
        with pytest.raises(StoreError, match="disk is full"):
            await room.run()

        assert len(room.actor.ran) <= 4
        assert room.actor.running == 0
        shown = room.scheduler.snapshot(ended=True)
        assert (shown.done, shown.left, shown.stopped_by) == (0, 9, "store")

    run(work)


def test_a_source_that_breaks_lets_what_runs_end_and_is_raised(build: Build) -> None:
    async def work() -> None:
        room = build(well, tasks(5), places=1)

        def broken() -> Any:
            yield room.given[0]  # type: ignore[index]
            raise OSError("the file is gone")

        room.reader._tasks = broken
        with pytest.raises(OSError, match="the file is gone"):
            await room.run()
        assert room.shelf.ids in ([], ["0"])
        assert room.actor.ran == room.shelf.ids

    run(work)


def test_a_fault_of_the_executor_fails_its_task_and_many_in_a_row_stop_the_batch(
    build: Build,
) -> None:
    async def work() -> None:
        def act(task: Task) -> Any:
            return answer() if task.item.id == "5" else RuntimeError("a bug")

        room = build(act, tasks(100), places=1)
        shown = await room.run()

        assert (shown.done, shown.failed) == (1, 5 + BUGS)
        assert shown.errors == {"UnknownOpenCodeError": 5 + BUGS}
        assert shown.stopped_by == "executor"
        error = room.shelf.records[0].error
        assert error is not None
        assert "a bug" in error.message

    run(work)


def test_finish_begins_nothing_new_and_lets_what_runs_end(build: Build) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(9), places=3)
        running = asyncio.create_task(room.run())
        await until(lambda: room.actor.running == 3)

        room.stop.finish()
        await until(lambda: room.scheduler.snapshot().state == STOPPING)
        doors.open()
        shown = await running

        assert (shown.done, shown.left, len(room.actor.ran)) == (3, 6, 3)
        assert (shown.state, shown.stopped_by) == (STOPPED, "interrupt")
        assert room.shelf.cuts == []

    run(work)


@pytest.mark.parametrize("first", [True, False], ids=["after finish", "at once"])
def test_now_cuts_what_runs_and_books_what_it_has_cost(build: Build, first: bool) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(9), places=3)
        running = asyncio.create_task(room.run())
        await until(lambda: room.actor.running == 3)
        if first:
            room.stop.finish()
            await until(lambda: room.scheduler.snapshot().state == STOPPING)

        room.stop.now()
        shown = await running

        assert (shown.done, shown.left) == (0, 9)
        assert sorted(cut.id for cut in room.shelf.cuts) == ["0", "1", "2"]
        assert shown.spent_usd == pytest.approx(3 * COST_USD)

    run(work)


def test_a_switch_that_was_used_before_lets_nothing_begin(build: Build) -> None:
    async def work() -> None:
        room = build(well, tasks(3))
        room.stop.finish()
        shown = await room.run()
        assert (room.actor.ran, shown.stopped_by) == ([], "interrupt")

    run(work)


def test_a_caller_that_is_cancelled_leaves_no_task_and_no_cost_behind(build: Build) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(9), places=3)
        running = asyncio.create_task(room.run())
        await until(lambda: room.actor.running == 3)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert room.actor.running == 0
        assert len(room.shelf.cuts) == 3

    run(work)


def test_what_is_cut_is_told_once(build: Build) -> None:
    """Told twice, it would go without saying what it has cost."""

    async def work() -> None:
        doors = Doors()
        error = LimitExceededError(raw_message="no", limit=BATCH_BUDGET)

        async def act(task: Task) -> QueryResult:
            if task.item.id == "0":
                return await doors.wait(task)
            await until(lambda: len(doors.events) == 1)
            return failure(error)

        room = build(act, tasks(3), places=3, options={"cut_at_budget": True})
        shown = await room.run()

        assert [cut.id for cut in room.shelf.cuts] == ["0"]
        assert shown.left == 3

    run(work)


def test_a_stop_after_which_nothing_is_left_is_none(build: Build) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(2), places=2)
        running = asyncio.create_task(room.run())
        await until(lambda: len(doors.events) == 2)
        room.stop.finish()
        doors.open()
        shown = await running

        assert (shown.done, shown.left, room.scheduler.stopped_by) == (2, 0, "")

    run(work)


def test_a_stop_still_counts_what_was_done_before(build: Build) -> None:
    async def work() -> None:
        room = build(only({"0": AuthenticationError(raw_message="no")}), tasks(600), places=1)
        before = [Record(str(n), "", content_hash=f"hash {n}") for n in range(10, 600)]
        room.shelf.records.extend(before)
        shown = await room.run()

        assert (shown.skipped, shown.left) == (590, 10)

    run(work)


def test_a_fault_of_what_looks_at_pauses_stops_the_batch(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        room = build(Doors().wait, tasks(2), places=2)
        waiting = iter([""])
        monkeypatch.setattr(room.actor, "waiting", lambda: next(waiting))

        with pytest.raises(RuntimeError):
            await room.scheduler.run()

    run(work)
