"""The scheduler's plain course: places, order, durability, and who watches."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from chutes_opencode.batch.running import scheduler
from chutes_opencode.batch.running.progress import FINISHED, Snapshot
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.errors import (
    InvalidRequestError,
    ServerError,
)
from tests.unit.batch.room import (
    COST_USD,
    Build,
    Doors,
    only,
    run,
    tasks,
    until,
    well,
)


def test_every_task_gets_one_record_and_the_counts_are_exact(build: Build, tmp_path: Path) -> None:
    async def work() -> None:
        room = build(only({"3": InvalidRequestError(raw_message="no")}), tasks(50, "a", "b"))
        shown = await room.run()

        assert Counter(record.key for record in room.shelf.records) == Counter(
            task.key for task in room.given
        )
        assert (shown.done, shown.failed, shown.skipped, shown.left) == (98, 2, 0, 0)
        assert (shown.state, shown.stopped_by) == (FINISHED, "")
        assert shown.errors == {"InvalidRequestError": 2}
        assert shown.spent_usd == pytest.approx(98 * COST_USD)
        assert room.scheduler.stop_error is None
        status = read_status(tmp_path)
        assert status is not None
        assert status.snapshot == shown

    run(work)


def test_a_batch_without_tasks_is_finished(build: Build) -> None:
    async def work() -> None:
        assert (await build(well, []).run()).state == FINISHED

    run(work)


def test_no_more_run_at_once_than_there_are_places_and_all_places_are_used(build: Build) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(9), places=3)
        running = asyncio.create_task(room.run())

        await until(lambda: room.actor.running == 3)
        assert len(room.read) <= 3 + 3, "read no further ahead than a place each"
        room.actor.limit = 5
        await until(lambda: room.actor.running == 5)
        room.actor.limit = 2
        doors.open("0", "1", "2")
        await until(lambda: len(room.shelf.records) == 3)
        assert room.actor.running == 2
        while not running.done():
            doors.open()
            await asyncio.sleep(0)

        assert room.actor.most == 5
        assert (await running).done == 9

    run(work)


def test_a_place_is_free_while_its_record_waits_for_the_disk_but_not_without_end(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "SETTLING", 5)

    async def work() -> None:
        room = build(well, tasks(20), places=3)
        room.shelf.free.clear()
        running = asyncio.create_task(room.run())

        await until(lambda: room.shelf.waiting >= 5 and not room.actor.running)
        assert room.scheduler.snapshot().done == 0, "nothing counts before it is durable"
        assert 5 <= len(room.actor.ran) <= 5 + 3
        room.shelf.free.set()

        assert (await running).done == 20
        assert room.shelf.most <= 5 + 3

    run(work)


def test_what_has_a_result_is_passed_over(build: Build) -> None:
    async def work() -> None:
        first = build(only({"1": InvalidRequestError(raw_message="no")}), tasks(4))
        await first.run()
        second = build(well, tasks(6))
        second.shelf.records = first.shelf.records

        shown = await second.run()

        assert (shown.done, shown.failed, shown.skipped) == (2, 1, 3)
        assert second.actor.ran == ["4", "5"]
        assert shown.state == FINISHED

    run(work)


def test_what_has_changed_is_taken_back_before_it_runs_again(build: Build) -> None:
    async def work() -> None:
        first = build(well, tasks(6))
        await first.run()
        given = [
            replace(task, item=replace(task.item, content_hash="new"))
            if task.item.id in "14"
            else task
            for task in tasks(8)
        ]
        second = build(well, given)
        second.shelf.records = first.shelf.records

        shown = await second.run()

        assert sorted(record.id for record in second.shelf.taken) == ["1", "4"]
        assert (shown.done, shown.skipped, shown.left, shown.state) == (4, 4, 0, FINISHED)
        assert sorted(second.actor.ran) == ["1", "4", "6", "7"]
        assert len(set(second.shelf.ids)) == len(second.shelf.ids) == 8

    run(work)


@pytest.mark.parametrize(
    ("transcripts", "kept"), [("all", ["0", "1", "2"]), ("failed", ["1"]), ("none", [])]
)
def test_transcripts_are_kept_of_the_tasks_that_were_asked_for(
    build: Build, transcripts: str, kept: list[str]
) -> None:
    async def work() -> None:
        act = only({"1": InvalidRequestError(raw_message="no")})
        room = build(act, tasks(3), places=1, options={"transcripts": transcripts})
        await room.run()
        assert room.shelf.transcripts == kept

    run(work)


def test_an_observer_that_fails_ends_nothing_and_is_told_of_once(build: Build) -> None:
    async def work() -> None:
        seen: list[Snapshot] = []

        def watch(snapshot: Snapshot) -> None:
            seen.append(snapshot)
            raise ValueError("a bug of the caller's")

        doors = Doors()
        room = build(doors.wait, tasks(2), on_progress=watch)
        running = asyncio.create_task(room.run())
        await until(lambda: len(seen) >= 2)
        doors.open()
        shown = await running

        assert seen[-1] == shown
        assert room.log.warnings == ["on_progress failed"]

    run(work)


def test_a_status_that_cannot_be_written_ends_nothing(build: Build, tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()

    async def work() -> None:
        room = build(well, tasks(2))
        assert (await room.run()).done == 2
        assert room.log.warnings == ["status.json cannot be written"]

    run(work)


def test_what_is_waited_for_is_shown(build: Build) -> None:
    async def work() -> None:
        doors = Doors()
        room = build(doors.wait, tasks(1))
        room.actor.words = "rate limit until 12:03:20"
        running = asyncio.create_task(room.run())
        await until(lambda: room.actor.running)
        shown = room.scheduler.snapshot()
        assert (shown.in_flight, shown.waiting) == (1, "rate limit until 12:03:20")
        doors.open()
        assert (await running).waiting == ""

    run(work)


def test_a_transient_failure_is_recorded_as_what_it_is(build: Build) -> None:
    async def work() -> None:
        room = build(only({"0": ServerError(raw_message="down", status=500)}), tasks(2))
        shown = await room.run()
        error = next(record.error for record in room.shelf.records if record.id == "0")
        assert error is not None
        assert (error.type, error.status) == ("ServerError", 500)
        assert (shown.done, shown.failed) == (1, 1)

    run(work)
