"""Tasks that wait: of a cold model, of a limited account, of a model that is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running import scheduler
from chutes_opencode.batch.running.gates import Gates
from chutes_opencode.batch.running.progress import STOPPED
from chutes_opencode.errors import (
    ColdModelError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
)
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import (
    COST_USD,
    NOW,
    Build,
    answer,
    failure,
    run,
    tasks,
    until,
)


def test_a_cold_model_pauses_and_the_others_go_on(build: Build) -> None:
    async def work() -> None:
        def act(task: Task) -> QueryResult:
            cold = task.model == "cold" and room.now < NOW + 30
            return failure(ColdModelError(raw_message="no")) if cold else answer()

        given = tasks(20, "cold", "warm")
        room = build(act, given, places=2, gates=Gates(("cold", "warm")))
        running = asyncio.create_task(room.run())
        await until(lambda: len(room.shelf.records) == 20)
        assert {record.model for record in room.shelf.records} == {"warm"}
        assert "cold" in room.scheduler.snapshot().waiting
        asked = len(room.actor.ran)

        room.now += 31
        shown = await running

        assert (shown.done, shown.failed, shown.left) == (40, 0, 0)
        assert len(room.actor.ran) == asked + 20

    run(work)


@pytest.mark.parametrize(
    "error", [ColdModelError(raw_message="no"), ModelNotFoundError(raw_message="no")]
)
def test_an_item_for_which_alone_its_model_is_not_there_stops_no_batch(
    build: Build, error: OpenCodeError
) -> None:
    async def work() -> None:
        room = build(lambda task: failure(error) if task.item.id == "0" else answer(), tasks(20))
        running = asyncio.create_task(room.run())
        await until(lambda: len(room.shelf.records) == 19)

        room.now += 31
        shown = await running

        assert (shown.done, shown.failed, shown.left, shown.stopped_by) == (19, 1, 0, "")
        assert [record.id for record in room.shelf.records if record.error] == ["0"]
        assert room.actor.ran.count("0") == 2

    run(work)


def test_tasks_of_a_paused_model_that_memory_does_not_hold_are_read_once_more(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PARKED", 3)

    async def work() -> None:
        def act(task: Task) -> QueryResult:
            cold = task.model == "cold" and room.now < NOW + 30
            return failure(ColdModelError(raw_message="no")) if cold else answer()

        async def slow(task: Task) -> QueryResult:
            await asyncio.sleep(0)
            return act(task)

        given = tasks(40, "cold", "warm")
        room = build(slow, given, places=4, gates=Gates(("cold", "warm")))
        running = asyncio.create_task(room.run())
        await until(lambda: sum(r.model == "warm" for r in room.shelf.records) == 40)

        room.now += 31
        shown = await running

        assert room.passes > 1
        assert (shown.done, shown.skipped, shown.left) == (80, 0, 0)
        assert len({record.key for record in room.shelf.records}) == 80
        assert len(room.shelf.records) == 80

    run(work)


def test_a_paused_batch_reads_no_further(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PARKED", 3)

    async def work() -> None:
        def act(_task: Task) -> QueryResult:
            cold = room.now < NOW + 30
            return failure(ColdModelError(raw_message="no")) if cold else answer()

        room = build(act, tasks(100), places=2)
        running = asyncio.create_task(room.run())
        await until(lambda: room.scheduler.snapshot().waiting)
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(room.read) <= 3 + 2 * 4
        room.now += 31
        assert (await running).done == 100

    run(work)


def test_a_rate_limit_pauses_all_until_its_reset(build: Build) -> None:
    async def work() -> None:
        reset = datetime.fromtimestamp(NOW + 50, UTC)

        def act(task: Task) -> QueryResult:
            limited = task.item.id == "1" and room.now < NOW + 50
            return failure(RateLimitError(reset_time=reset), paid=True) if limited else answer()

        room = build(act, tasks(4), places=1)
        running = asyncio.create_task(room.run())
        await until(lambda: "rate limit" in room.scheduler.snapshot().waiting)
        assert room.actor.ran == ["0", "1"]

        room.now += 51
        shown = await running

        assert sorted(room.shelf.ids) == ["0", "1", "2", "3"]
        assert shown.done == 4
        assert [cut.id for cut in room.shelf.cuts] == ["1"], "its first try was paid for"
        assert shown.spent_usd == pytest.approx(5 * COST_USD)

    run(work)


def test_a_model_that_is_gone_leaves_its_tasks_and_the_others_go_on(build: Build) -> None:
    async def work() -> None:
        error = ModelNotFoundError(raw_message="no", suggestions=("other",))

        def act(task: Task) -> QueryResult:
            return failure(error) if task.model == "gone" else answer()

        room = build(act, tasks(10, "gone", "here"), gates=Gates(("gone", "here")))
        shown = await room.run()

        assert {record.model for record in room.shelf.records} == {"here"}
        assert (shown.done, shown.failed, shown.left) == (10, 0, 10)
        assert (shown.state, room.scheduler.stopped_by) == (STOPPED, "model")
        assert room.scheduler.stop_error is error

    run(work)
