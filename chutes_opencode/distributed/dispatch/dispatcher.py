"""Gives orders to the workers of a fleet, and each receipt to whoever waits for it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chutes_opencode.batch.running.executor import DRAINING, ExecutorStats, Finished, WorkerView
from chutes_opencode.batching import failed_result
from chutes_opencode.distributed.dispatch.board import Board
from chutes_opencode.distributed.dispatch.fleet import Crew
from chutes_opencode.distributed.dispatch.link import Link
from chutes_opencode.distributed.failures import one_line
from chutes_opencode.distributed.work.orders import Load, Order, Receipt, Report, unpack_receipt
from chutes_opencode.errors import NoWorkerError, OpenCodeError, WorkerLostError

Key = tuple[str, str, int]
_CLOSED_HINT = "Ask before the pool, or the executor, is closed; or make another one."


class Workers(Protocol):
    """A fleet."""

    @property
    def links(self) -> Mapping[Link, str]:
        """The workers that there are, each with its state."""

    async def start(self) -> None:
        """Start workers, and return when the first is ready."""

    async def close(self) -> None:
        """End all workers."""


class Errand(Protocol):
    """What the workers work for: a run, or a pool."""

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        """Return what a new worker is begun with."""

    async def recover(self, link: Link, keys: Collection[Key]) -> Mapping[Key, Finished]:
        """Close the books of a lost worker; return which of its orders are durable, by their keys.

        Args:
            link: The worker.
            keys: Of the orders that it had.
        """


class Pooled:
    """Work of a pool: nothing is kept."""

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        """Return what a new worker is begun with."""
        return None, None, name

    async def recover(self, link: Link, keys: Collection[Key]) -> Mapping[Key, Finished]:
        """Find nothing."""
        return {}


@dataclass(slots=True, eq=False)
class _Open:
    """An order whose end is not told yet.

    Attributes:
        order: It.
        key: What tells its answer from others in a shard; None: nobody stores it.
        outcome: What it comes to.
        link: The worker that has it; None: it waits for one.
        lost: How many workers were lost with it.
        cancelled: Whether it is to be ended.
    """

    order: Order
    key: Key | None
    outcome: asyncio.Future[Receipt]
    link: Link | None = None
    lost: int = 0
    cancelled: bool = False


@dataclass(slots=True)
class Dispatcher:
    """Has orders carried out by a fleet. Used on one event loop; it is the fleet's crew.

    Attributes:
        errand: What the workers work for.
        make_fleet: Makes the fleet, whose crew it is; nothing is started then.
        max_lost: An order that has lost so many workers fails: it may be what ends them.
        resent: Orders that were sent once more, because their worker was lost.
    """

    errand: Errand
    make_fleet: Callable[[Crew], Workers]
    max_lost: int
    resent: int = 0
    _board: Board = field(default_factory=Board)
    _open: dict[int, _Open] = field(default_factory=dict)
    _backlog: deque[_Open] = field(default_factory=deque)
    _numbers: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    _hopeless: OpenCodeError | None = None
    _closed: OpenCodeError | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _fleet: Workers = field(init=False)

    def __post_init__(self) -> None:
        """Make the fleet; nothing is started."""
        self._fleet = self.make_fleet(self)

    async def start(self) -> None:
        """Start workers, and return when the first is ready.

        Raises:
            OpenCodeError: None can work.
        """
        await self._fleet.start()

    async def run(self, packed: bytes, key: Key | None = None) -> Receipt:
        """Have something done by the least loaded worker, as soon as one has a free place.

        Cancelled once, it has the order ended, and returns its receipt; cancelled again, it
        raises CancelledError at once.

        Args:
            packed: The work; from `pack_work`.
            key: What tells its answer from others in a shard.
        """
        if self._hopeless is not None:
            return _failure(0, self._hopeless)
        outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        opened = _Open(Order(self._numbers(), packed), key, outcome)
        self._open[opened.order.number] = opened
        self._backlog.append(opened)
        self._give()
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            self._cancel(opened)
            await asyncio.wait([outcome])
            return outcome.result()

    async def room(self, ahead: int) -> None:
        """Wait until fewer orders are open than `ahead` for each place."""
        while len(self._open) >= ahead * self.places and self._hopeless is None:
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """End all workers, and what they do; what is asked from now on fails."""
        self._closed = NoWorkerError(raw_message="the workers were ended", hint=_CLOSED_HINT)
        self._hopeless = self._closed
        await self._fleet.close()
        for opened in [*self._open.values()]:
            self._end(opened, Receipt(opened.order.number, cut=True))

    # --- how they do -----------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Orders whose end is not told yet."""
        return len(self._open)

    @property
    def places(self) -> int:
        """How many orders at once are sensible now; at least 1."""
        return max(self._board.places, 1)

    @property
    def waiting(self) -> str:
        """What is waited for, in words for people; "": nothing but answers."""
        if self._backlog and not self._board.places:
            return "a worker of the cluster"
        return ", ".join(self._board.waiting)

    def stats(self) -> ExecutorStats:
        """Tell how the workers do."""
        views = tuple(
            WorkerView(
                link.name,
                link.node,
                self._board.in_flight(link.name),
                self._board.done(link.name),
                DRAINING if self._board.drains(link.name) else state,
            )
            for link, state in self._fleet.links.items()
        )
        return ExecutorStats(views, self.resent)

    # --- what the fleet tells --------------------------------------------------------------------

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        """Return what a new worker is begun with."""
        return self.errand.begin_arguments(name)

    def joined(self, link: Link, load: Load) -> None:
        """Give a new worker something to do."""
        self._hopeless = self._closed
        self._board.join(link.name, load)
        self._moved.set()
        self._give()

    def reported(self, link: Link, report: Report) -> None:
        """Hand receipts out, and give what is free something to do."""
        self._board.report(link.name, report.load)
        for packed in report.receipts:
            receipt = unpack_receipt(packed)
            if not self._board.end(link.name, receipt.number):
                continue
            opened = self._open[receipt.number]
            if receipt.refused and opened.cancelled:
                self._end(opened, Receipt(receipt.number, cut=True))
            elif receipt.refused:
                self._put_back(opened)
            else:  # cut without our asking: its worker was told to end; whoever asked asks again
                self.resent += receipt.cut and not opened.cancelled
                self._end(opened, receipt)
        self._give()

    async def left(self, link: Link, reason: str) -> None:
        """Have another worker do what a lost one had, but for what is durable."""
        had = [self._open[number] for number in self._board.leave(link.name)]
        keys = {opened.key for opened in had if opened.key is not None}
        try:
            durable = await self.errand.recover(link, keys)
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing may be asked twice
            text = f"what a lost worker ({link.name}) had stored cannot be read: {one_line(error)}"
            for opened in had:
                self._end(opened, _failure(opened.order.number, NoWorkerError(raw_message=text)))
            return
        for opened in reversed(had):  # each goes before those that wait: the first stays the first
            self._after_loss(opened, link, reason, durable)
        self._give()

    def hopeless(self, error: OpenCodeError) -> None:
        """Have all orders fail: there is nobody to carry them out."""
        self._hopeless = error
        self._moved.set()
        self._backlog.clear()
        for opened in [*self._open.values()]:
            if opened.link is None:
                self._end(opened, _failure(opened.order.number, error))

    # --- orders ----------------------------------------------------------------------------------

    def _give(self) -> None:
        """Give orders to workers, as long as some have free places."""
        while self._backlog and (name := self._board.choose()) is not None:
            opened = self._backlog.popleft()
            if opened.outcome.done():
                continue
            link = next(each for each in self._fleet.links if each.name == name)
            opened.link = link
            self._board.give(name, opened.order.number)
            link.send(opened.order)

    def _put_back(self, opened: _Open) -> None:
        opened.link = None
        self._backlog.appendleft(opened)

    def _after_loss(
        self, opened: _Open, link: Link, reason: str, durable: Mapping[Key, Finished]
    ) -> None:
        number, sent = opened.order.number, link.was_sent(opened.order.number)
        opened.lost += sent
        if opened.key is not None and opened.key in durable:
            self._end(opened, Receipt(number, durable[opened.key]))
        elif opened.cancelled:
            self._end(opened, Receipt(number, cut=True))
        elif opened.lost >= self.max_lost:
            times = f"{opened.lost} workers were" if opened.lost > 1 else "the worker was"
            text = f"{times} lost while the prompt ran: {reason}"
            self._end(opened, _failure(number, WorkerLostError(link.node, raw_message=text)))
        else:
            self.resent += sent
            self._put_back(opened)

    def _cancel(self, opened: _Open) -> None:
        """Have an order ended; where nothing was begun, at once."""
        opened.cancelled = True
        number, link = opened.order.number, opened.link
        if link is None or link.cancel(number):
            if link is not None:
                self._board.end(link.name, number)
            self._end(opened, Receipt(number, cut=True))

    def _end(self, opened: _Open, receipt: Receipt) -> None:
        self._open.pop(opened.order.number, None)
        self._moved.set()
        if not opened.outcome.done():
            opened.outcome.set_result(receipt)


def _failure(number: int, error: OpenCodeError) -> Receipt:
    return Receipt(number, Finished(failed_result(error)), error)
