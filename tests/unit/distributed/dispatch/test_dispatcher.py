"""Orders and workers that come, go and are told to end: each order has one end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.running.executor import READY, Finished
from chutes_opencode.distributed.dispatch.dispatcher import Dispatcher, Key
from chutes_opencode.distributed.dispatch.link import Link
from chutes_opencode.distributed.work.orders import (
    Load,
    Receipt,
    Report,
    pack_receipt,
)
from chutes_opencode.errors import NoWorkerError, WorkerLostError
from tests.unit.batch.room import answer


class FakeLink(Link):
    """Keeps what it is given, until it is told to send it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"node of {name}", None)
        self.told_to_end: list[int] = []

    def leave(self) -> None:
        """Send what there is, as the real one does in its own time."""
        self._unsent.clear()

    def cancel(self, number: int) -> bool:
        unsent = super().cancel(number)
        if not unsent:
            self.told_to_end.append(number)
        return unsent

    @property
    def has(self) -> list[int]:
        return [order.number for order in self._orders]


class Room:
    """A dispatcher, whose workers come and go as the test says."""

    def __init__(self, max_lost: int = 2) -> None:
        self.links: dict[Link, str] = {}
        self.durable: dict[Key, Finished] = {}
        self.looked_for: list[Collection[Key]] = []
        self.failure: Exception | None = None
        self.dispatcher = Dispatcher(self, lambda _crew: self, max_lost)

    async def start(self) -> None:
        """Nothing is started."""

    async def close(self) -> None:
        """Nothing is ended."""

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        return (name,)

    async def recover(self, link: Link, keys: Collection[Key]) -> Mapping[Key, Finished]:
        self.looked_for.append(keys)
        if self.failure is not None:
            raise self.failure
        return self.durable

    def join(self, name: str, places: int = 4) -> FakeLink:
        link = FakeLink(name)
        self.links[link] = READY
        self.dispatcher.joined(link, Load(places=places))
        return link

    def tell(self, link: FakeLink, *receipts: Receipt, draining: bool = False) -> None:
        link.leave()
        packed = tuple(map(pack_receipt, receipts))
        load = Load(places=4, draining=draining)
        self.dispatcher.reported(link, Report(packed, len(packed), load))

    async def lose(self, link: FakeLink, *, sent: bool = True) -> None:
        if sent:
            link.leave()
        del self.links[link]
        await self.dispatcher.left(link, "it was killed")

    async def ask(self, *names: str) -> list[asyncio.Task[Receipt]]:
        asked = [
            asyncio.ensure_future(self.dispatcher.run(name.encode(), (name, "", 0)))
            for name in names
        ]
        await asyncio.sleep(0)
        return asked


def run(work: Callable[[Room], Awaitable[None]], **arguments: Any) -> None:
    async def carry_out() -> None:
        await work(Room(**arguments))

    asyncio.run(asyncio.wait_for(carry_out(), 60))


def done(number: int, text: str) -> Receipt:
    return Receipt(number, Finished(answer(text)))


def text(receipt: Receipt) -> str:
    assert receipt.finished is not None
    return receipt.finished.result.result


def test_orders_wait_for_a_worker_and_are_told_their_own_end() -> None:
    async def work(room: Room) -> None:
        one, two = await room.ask("one", "two")
        assert room.dispatcher.waiting == "a worker of the cluster"

        link = room.join("a")
        room.tell(link, done(2, "second"), done(1, "first"))

        assert (text(await one), text(await two)) == ("first", "second")
        assert room.dispatcher.open == 0

    run(work)


def test_no_worker_gets_more_than_it_has_places_for() -> None:
    async def work(room: Room) -> None:
        asked = await room.ask(*"12345678")
        one, two = room.join("a", 2), room.join("b", 3)
        assert (len(one.has), len(two.has)) == (2, 3)

        room.tell(one, done(one.has[0], ""))
        assert len(one.has) == 5, "it has told of four places now, three of them free"
        for task in asked:
            task.cancel()

    run(work)


def test_what_a_lost_worker_had_goes_to_another_and_is_counted() -> None:
    async def work(room: Room) -> None:
        lost = room.join("lost")
        one, two = await room.ask("one", "two")
        await room.lose(lost)
        assert room.dispatcher.resent == 2

        other = room.join("other")
        assert other.has == [1, 2]
        room.tell(other, done(1, "1"), done(2, "2"))
        assert (text(await one), text(await two)) == ("1", "2")

    run(work)


def test_what_had_not_left_yet_is_not_counted_as_sent_twice() -> None:
    async def work(room: Room) -> None:
        lost = room.join("lost")
        (one,) = await room.ask("one")
        await room.lose(lost, sent=False)
        room.tell(room.join("other"), done(1, "1"))

        assert text(await one) == "1"
        assert room.dispatcher.resent == 0

    run(work)


def test_what_is_durable_of_a_lost_worker_is_not_asked_again() -> None:
    async def work(room: Room) -> None:
        lost, other = room.join("lost", 2), room.join("other", 0)
        one, two = await room.ask("one", "two")
        room.durable["one", "", 0] = Finished(answer("stored"))
        await room.lose(lost)
        room.tell(other)
        room.tell(other, done(2, "again"))

        assert (text(await one), text(await two)) == ("stored", "again")
        assert other.has == [2]
        assert room.dispatcher.resent == 1
        assert room.looked_for == [{("one", "", 0), ("two", "", 0)}]

    run(work)


def test_where_nobody_knows_what_is_durable_nothing_is_asked_twice() -> None:
    async def work(room: Room) -> None:
        lost, other = room.join("lost", 2), room.join("other", 0)
        (one,) = await room.ask("one")
        room.failure = StoreError(raw_message="the share is gone")
        await room.lose(lost)
        receipt = await one

        assert isinstance(receipt.error, NoWorkerError), "it stops the batch, and is no result"
        assert "(lost) had stored cannot be read: store" in receipt.error.raw_message
        assert "the share is gone" in receipt.error.raw_message
        assert (other.has, room.dispatcher.resent) == ([], 0)

    run(work)


def test_an_order_that_ends_its_workers_fails_at_last() -> None:
    async def work(room: Room) -> None:
        (one,) = await room.ask("one")
        for name in ("a", "b"):
            await room.lose(room.join(name))
        receipt = await one

        assert isinstance(receipt.error, WorkerLostError)
        assert "2 workers were lost while the prompt ran: it was killed" in str(receipt.error)
        assert receipt.error.node_id == "node of b"
        assert receipt.finished is not None
        assert receipt.finished.result.error is receipt.error
        assert room.dispatcher.resent == 1

    run(work, max_lost=2)


def test_what_a_draining_worker_refuses_goes_to_another_and_was_never_sent() -> None:
    async def work(room: Room) -> None:
        draining = room.join("draining")
        (one,) = await room.ask("one")
        room.tell(draining, Receipt(1, refused=True), draining=True)
        room.tell(room.join("other"), done(1, "1"))

        assert text(await one) == "1"
        assert room.dispatcher.resent == 0

    run(work)


def test_what_a_draining_worker_refuses_is_cut_if_nobody_wants_it_any_more() -> None:
    async def work(room: Room) -> None:
        draining = room.join("draining")
        (one,) = await room.ask("one")
        draining.leave()
        one.cancel()
        await asyncio.sleep(0)
        room.tell(draining, Receipt(1, refused=True), draining=True)

        assert await one == Receipt(1, cut=True)

    run(work)


def test_what_is_asked_when_the_workers_were_ended_fails_at_once() -> None:
    async def work(room: Room) -> None:
        link = room.join("a")
        (one,) = await room.ask("one")
        del room.links[link]
        await room.dispatcher.close()
        assert (await one).cut

        room.join("it was about to be ready")
        (two,) = await room.ask("two")
        error = (await two).error
        assert isinstance(error, NoWorkerError)
        assert error.raw_message == "the workers were ended"

    run(work)


def test_what_a_worker_had_to_cut_is_told_with_what_it_had_cost() -> None:
    async def work(room: Room) -> None:
        (one,) = await room.ask("one")
        cut = Receipt(1, Finished(answer("half")), cut=True)
        room.tell(room.join("draining"), cut, draining=True)
        receipt = await one

        assert receipt.cut
        assert text(receipt) == "half"
        assert room.dispatcher.resent == 1, "whoever asked asks again"

    run(work)


def test_a_cancelled_order_waits_for_what_was_paid() -> None:
    async def work(room: Room) -> None:
        link = room.join("a")
        (one,) = await room.ask("one")
        link.leave()
        one.cancel()
        await asyncio.sleep(0)
        assert link.told_to_end == [1]
        room.tell(link, Receipt(1, Finished(answer("half")), cut=True))
        receipt = await one

        assert (receipt.cut, text(receipt)) == (True, "half")
        assert room.dispatcher.resent == 0

    run(work)


@pytest.mark.parametrize("given", [True, False])
def test_a_cancelled_order_that_had_not_left_ends_at_once(given: bool) -> None:
    async def work(room: Room) -> None:
        if given:
            room.join("a")
        (one,) = await room.ask("one")
        one.cancel()
        receipt = await one

        assert (receipt.cut, receipt.finished) == (True, None)
        assert room.dispatcher.open == 0

    run(work)


def test_a_cancelled_order_whose_worker_is_lost_ends() -> None:
    async def work(room: Room) -> None:
        link = room.join("a")
        (one,) = await room.ask("one")
        link.leave()
        one.cancel()
        await asyncio.sleep(0)
        await room.lose(link)
        receipt = await one

        assert (receipt.cut, receipt.finished) == (True, None)
        assert room.dispatcher.resent == 0

    run(work)


def test_without_a_worker_and_without_hope_all_fails_at_once_until_one_comes() -> None:
    async def work(room: Room) -> None:
        error = NoWorkerError(raw_message="all are gone")
        (one,) = await room.ask("one")
        room.dispatcher.hopeless(error)
        (two,) = await room.ask("two")
        assert [(await each).error for each in (one, two)] == [error, error]

        link = room.join("a")
        (three,) = await room.ask("three")
        room.tell(link, done(link.has[0], "3"))
        assert text(await three) == "3"

    run(work)


def test_whoever_wants_room_waits_until_enough_has_ended() -> None:
    async def work(room: Room) -> None:
        link = room.join("a", 1)
        one, two = await room.ask("one", "two")
        waiting = asyncio.ensure_future(room.dispatcher.room(2))
        await asyncio.sleep(0)
        assert not waiting.done()

        room.tell(link, done(1, "1"))
        await waiting
        await one
        two.cancel()

    run(work)


def test_each_worker_is_shown_with_what_it_does() -> None:
    async def work(room: Room) -> None:
        link = room.join("a")
        asked = await room.ask("one", "two")
        room.tell(link, done(1, "1"), draining=True)

        (view,) = room.dispatcher.stats().workers
        assert (view.name, view.node) == ("a", "node of a")
        assert (view.in_flight, view.done, view.state) == (1, 1, "draining")
        asked[1].cancel()

    run(work)
