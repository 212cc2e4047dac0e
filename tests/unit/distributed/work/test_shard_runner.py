"""Tasks on a worker: an answer is durable before it is told, and what was paid is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.store import appending
from chutes_opencode.batch.store.shards import ShardWriter, fence_shard, read_shard
from chutes_opencode.distributed.work.orders import Receipt
from chutes_opencode.distributed.work.shard_runner import ShardRunner
from chutes_opencode.errors import ContentFilterError
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import COST_USD, Actor, answer, failure, tasks

(TASK,) = tasks(1)


class Room:
    """A runner with a shard in a folder."""

    def __init__(self, folder: Path, act: Callable[[Task], Any], **options: Any) -> None:
        self.place = str(folder)
        self.actor = Actor(act)
        self.observed: list[QueryResult] = []
        self.settled = 0
        self.runner = ShardRunner(
            self.actor,
            ShardWriter.open(self.place, "w1"),
            observe=self.observed.append,
            settled=self.settle,
            **options,
        )

    def settle(self) -> None:
        self.settled += 1
        self.load = self.runner.load()

    def stored(self) -> list[str]:
        return [record.id for record in read_shard(self.place, "w1")]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Room]:
    """Run something in a room with an executor that does as it is told."""

    def carry_out(
        act: Callable[[Task], Any], work: Callable[[Room], Awaitable[None]], **options: Any
    ) -> Room:
        async def inside() -> Room:
            room = Room(tmp_path, act, **options)
            try:
                await work(room)
            finally:
                await room.runner.close()
            return room

        return asyncio.run(asyncio.wait_for(inside(), 60))

    return carry_out


def test_an_answer_is_stored_and_only_its_numbers_are_told(run: Callable[..., Room]) -> None:
    told: list[Receipt] = []

    async def work(room: Room) -> None:
        told.append(await room.runner.run(7, TASK))

    room = run(lambda _task: answer("a long answer"), work)

    (receipt,) = told
    assert receipt.number == 7
    assert receipt.finished is not None
    assert receipt.finished.stored is not None
    assert receipt.finished.stored.cost_usd == COST_USD
    assert "a long answer" not in repr(receipt)
    assert room.stored() == ["0"]
    assert room.load.settling == 1, "it took no place while it was written"
    assert room.runner.load().settling == 0
    assert [result.result for result in room.observed] == ["a long answer"]


def test_a_failure_goes_to_the_driver_whole(run: Callable[..., Room]) -> None:
    error = ContentFilterError(raw_message="no")

    async def work(room: Room) -> None:
        receipt = await room.runner.run(7, TASK)
        assert receipt.finished is not None
        assert receipt.finished.result.error is error
        assert receipt.finished.result.cost_usd == COST_USD
        assert receipt.finished.stored is None

    room = run(lambda _task: failure(error, paid=True), work)

    assert room.stored() == []


def test_a_cancelled_task_tells_what_it_had_cost(run: Callable[..., Room]) -> None:
    async def work(room: Room) -> None:
        running = asyncio.ensure_future(room.runner.run(7, TASK))
        while not room.actor.running:
            await asyncio.sleep(0)
        running.cancel()
        receipt = await running
        assert receipt.cut
        assert receipt.finished is not None
        assert receipt.finished.result.result == "half"

    async def never(_task: Task) -> None:
        await asyncio.Event().wait()

    room = run(never, work)

    assert [result.result for result in room.observed] == ["half"]
    assert room.stored() == []


def no_line(_record: object) -> dict[str, Any]:
    raise TypeError("no JSON can be made of it")


@pytest.mark.parametrize("fault", ["the shard is closed", "a fault of ours"])
def test_an_answer_that_cannot_be_stored_here_goes_to_the_driver_whole(
    run: Callable[..., Room], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(room: Room) -> None:
        if fault == "the shard is closed":
            fence_shard(room.place, "w1")
        else:
            monkeypatch.setattr(appending, "to_json", no_line)
        receipt = await room.runner.run(7, TASK)
        assert receipt.finished is not None
        assert receipt.finished.stored is None
        assert receipt.finished.result.result == "well"

    room = run(lambda _task: answer(), work)

    assert room.stored() == []


def test_to_be_cancelled_while_an_answer_is_written_changes_nothing(
    run: Callable[..., Room],
) -> None:
    async def work(room: Room) -> None:
        running = asyncio.ensure_future(room.runner.run(7, TASK))
        while not room.settled:
            await asyncio.sleep(0)
        running.cancel()
        receipt = await running
        assert not receipt.cut
        assert receipt.finished is not None
        assert receipt.finished.stored is not None

    assert run(lambda _task: answer(), work).stored() == ["0"]
