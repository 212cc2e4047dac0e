"""A worker's desk: each order is begun once, and its receipt told until it was heard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chutes_opencode.batch.running.executor import Finished
from chutes_opencode.distributed.work import desk as desk_module
from chutes_opencode.distributed.work.desk import Desk
from chutes_opencode.distributed.work.orders import (
    Ask,
    Load,
    Order,
    Receipt,
    Report,
    Work,
    pack_work,
    unpack_receipt,
)
from tests.unit.batch.room import answer


class Worker:
    """Runs orders; each waits until its prompt is let go."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.doors: dict[str, asyncio.Event] = {}
        self.desk = Desk(self.run, lambda: Load(places=4, waiting="nothing"))

    async def run(self, number: int, work: Work) -> Receipt:
        assert isinstance(work, Ask)
        self.began.append(work.prompt)
        door = self.doors.setdefault(work.prompt, asyncio.Event())
        if work.prompt == "fault":
            raise ValueError("a fault of ours")
        try:
            await door.wait()
        except asyncio.CancelledError:
            return Receipt(number, Finished(answer("half")), cut=True)
        return Receipt(number, Finished(answer(work.prompt)))

    def open(self, *prompts: str) -> None:
        for prompt in prompts:
            self.doors.setdefault(prompt, asyncio.Event()).set()


def order(number: int, prompt: str) -> Order:
    return Order(number, pack_work(Ask(prompt)))


def told(report: Report) -> list[tuple[int, str]]:
    receipts = [unpack_receipt(packed) for packed in report.receipts]
    return [(each.number, each.finished.result.result) for each in receipts if each.finished]


def run(work: Callable[[Worker], Awaitable[None]]) -> None:
    async def carry_out() -> None:
        worker = Worker()
        await work(worker)
        await worker.desk.close()

    asyncio.run(asyncio.wait_for(carry_out(), 60))


def test_receipts_are_told_until_they_were_heard() -> None:
    async def work(worker: Worker) -> None:
        worker.open("one", "two")
        worker.desk.submit([order(1, "one"), order(2, "two")])
        await worker.desk.emptied()

        first = await worker.desk.receipts(0)
        again = await worker.desk.receipts(0)
        assert told(first) == told(again) == [(1, "one"), (2, "two")]
        assert first.load == Load(places=4, waiting="nothing")
        assert worker.desk.owes

        silent = await worker.desk.receipts(first.last, 0.0)
        assert told(silent) == []
        assert not worker.desk.owes

    run(work)


def test_an_order_that_comes_twice_is_begun_once() -> None:
    async def work(worker: Worker) -> None:
        worker.open("one")
        worker.desk.submit([order(1, "one")])
        worker.desk.submit([order(1, "one")])
        await worker.desk.emptied()
        worker.desk.submit([order(1, "one")])
        await worker.desk.emptied()

        assert worker.began == ["one"]
        assert told(await worker.desk.receipts(0)) == [(1, "one")]

    run(work)


def test_whoever_asks_for_receipts_waits_until_there_is_one() -> None:
    async def work(worker: Worker) -> None:
        worker.desk.submit([order(1, "one")])
        asking = asyncio.ensure_future(worker.desk.receipts(0, 60.0))
        await asyncio.sleep(0)
        assert not asking.done()

        worker.open("one")

        assert told(await asking) == [(1, "one")]

    run(work)


def test_a_change_of_its_load_is_told_at_once() -> None:
    async def work(worker: Worker) -> None:
        asking = asyncio.ensure_future(worker.desk.receipts(0, 60.0))
        await asyncio.sleep(0)

        worker.desk.changed()

        assert told(await asking) == []

    run(work)


def test_a_long_list_of_receipts_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "BLOCK_BYTES", 10)

    async def work(worker: Worker) -> None:
        worker.open("one", "two")
        worker.desk.submit([order(1, "one"), order(2, "two")])
        await worker.desk.emptied()

        first = await worker.desk.receipts(0)
        second = await worker.desk.receipts(first.last)

        assert (told(first), told(second)) == ([(1, "one")], [(2, "two")])

    run(work)


def test_a_cancelled_order_tells_what_it_had_cost() -> None:
    async def work(worker: Worker) -> None:
        worker.desk.submit([order(1, "one")])
        await asyncio.sleep(0)
        worker.desk.cancel([1, 99])
        worker.desk.cancel([1])
        await worker.desk.emptied()

        (packed,) = (await worker.desk.receipts(0)).receipts
        receipt = unpack_receipt(packed)
        assert receipt.cut
        assert receipt.finished is not None
        assert receipt.finished.result.result == "half"

    run(work)


def test_a_draining_desk_refuses_what_is_new_and_ends_what_runs() -> None:
    async def work(worker: Worker) -> None:
        worker.desk.submit([order(1, "one")])
        await asyncio.sleep(0)
        worker.desk.drain()
        worker.desk.submit([order(2, "two")])
        worker.open("one")
        await worker.desk.emptied()

        report = await worker.desk.receipts(0)
        refused = [unpack_receipt(packed).refused for packed in report.receipts]
        assert refused == [True, False]
        assert report.load.draining
        assert worker.began == ["one"]

    run(work)


def test_a_fault_or_an_order_that_cannot_be_read_is_told_with_its_reason() -> None:
    async def work(worker: Worker) -> None:
        worker.desk.submit([order(1, "fault"), Order(2, b"no pickle")])
        await worker.desk.emptied()

        report = await worker.desk.receipts(0)
        faults = {each.number: each.fault for each in map(unpack_receipt, report.receipts)}
        assert "a fault of ours" in faults[1]
        assert "UnpicklingError" in faults[2]

    run(work)


def test_an_order_that_is_ended_before_it_has_begun_is_told_too() -> None:
    async def work(worker: Worker) -> None:
        worker.desk.submit([order(1, "one")])
        worker.desk.cancel([1])
        await worker.desk.emptied()

        (packed,) = (await worker.desk.receipts(0)).receipts
        assert unpack_receipt(packed) == Receipt(1, cut=True)
        assert worker.began == []

    run(work)
