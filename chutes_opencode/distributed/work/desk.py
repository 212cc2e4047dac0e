"""A worker's desk: orders come in blocks, receipts go out by long poll. It knows no Ray.

Whoever asks for receipts waits until there is one (or something else to tell), so nothing is
polled at a beat, and what comes while an answer is on its way goes with the next one: under load
it batches itself. A receipt is kept until it was acknowledged, and an order that comes twice is
begun once: a call whose answer was lost is simply made again.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from chutes_opencode.distributed.work.orders import (
    Load,
    Order,
    Receipt,
    Report,
    Work,
    pack_receipt,
    unpack_work,
)

# One answer holds no more, so that none is too large to be moved in one piece.
BLOCK_BYTES = 32 << 20
# So long an answer may be kept back while there is nothing to tell.
POLL_SECONDS = 5.0

Run = Callable[[int, Work], Coroutine[Any, Any, Receipt]]


class Desk:
    """Carries orders out. Used on one event loop."""

    def __init__(self, run: Run, load: Callable[[], Load]) -> None:
        """Begin with nothing.

        Args:
            run: Carries one order out: its number and its work. Cancelled, it returns a receipt of
                what was cut, or raises CancelledError if nothing was begun.
            load: Tells how the worker does, but for `draining`.
        """
        self._run = run
        self._load = load
        self._running: dict[int, asyncio.Task[Receipt]] = {}
        self._made: deque[tuple[int, int, bytes]] = deque()  # (count, order, packed receipt)
        self._known: set[int] = set()
        self._count = 0
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Orders under way."""
        return len(self._running)

    @property
    def owes(self) -> bool:
        """Whether there is something under way, or to tell."""
        return bool(self._known)

    def submit(self, block: Iterable[Order]) -> None:
        """Begin orders; those that are known already go on as they are."""
        for order in block:
            if order.number in self._known:
                continue
            self._known.add(order.number)
            if self.draining:
                self._tell(Receipt(order.number, refused=True))
                continue
            self._idle.clear()
            task = asyncio.get_running_loop().create_task(self._carry_out(order))
            self._running[order.number] = task
            task.add_done_callback(partial(self._carried_out, order.number))

    async def receipts(self, heard: int, seconds: float = POLL_SECONDS) -> Report:
        """Return what there is to tell; waits for it, but not for ever.

        Args:
            heard: Number of the last receipt that has arrived; 0: none has.
            seconds: How long to wait at most.
        """
        while self._made and self._made[0][0] <= heard:
            self._known.discard(self._made.popleft()[1])
        if not self._made and not self._changed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        self._changed.clear()
        receipts, last, size = list[bytes](), heard, 0
        for count, _, packed in self._made:
            size += len(packed)
            if receipts and size > BLOCK_BYTES:
                break
            receipts.append(packed)
            last = count
        return Report(tuple(receipts), last, self.load())

    def load(self) -> Load:
        """Tell how the worker does."""
        load = self._load()
        return Load(load.places, load.settling, load.waiting, self.draining)

    def changed(self) -> None:
        """Have whoever waits for receipts told how the worker does."""
        self._changed.set()

    def cancel(self, numbers: Iterable[int]) -> None:
        """End orders; their receipts tell what was paid for."""
        for number in numbers:
            task = self._running.get(number)
            if task is not None and not task.cancelling():  # told twice, it would not wait
                task.cancel()

    def cancel_all(self) -> None:
        """End all orders."""
        self.cancel(tuple(self._running))

    def drain(self) -> None:
        """Begin nothing new: what comes from now on is refused, what runs goes on."""
        self.draining = True
        self.changed()

    async def emptied(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    async def close(self) -> None:
        """End what runs, and return when it is gone."""
        self.drain()
        self.cancel_all()
        await self.emptied()

    async def _carry_out(self, order: Order) -> Receipt:
        try:
            return await self._run(order.number, unpack_work(order.packed))
        except Exception:  # noqa: BLE001 - a fault of ours must not leave the driver waiting
            return Receipt(order.number, fault=traceback.format_exc())

    def _carried_out(self, number: int, task: asyncio.Task[Receipt]) -> None:
        """Tell what an order came to; not in its own task, which may end before it has begun."""
        del self._running[number]
        if not self._running:
            self._idle.set()
        self._tell(Receipt(number, cut=True) if task.cancelled() else task.result())

    def _tell(self, receipt: Receipt) -> None:
        self._count += 1
        self._made.append((self._count, receipt.number, pack_receipt(receipt)))
        self._changed.set()
