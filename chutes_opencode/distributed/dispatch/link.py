"""A driver's side of one worker: orders go out in blocks, receipts come in by long poll."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.failures import one_line, original
from chutes_opencode.distributed.work.desk import POLL_SECONDS
from chutes_opencode.distributed.work.orders import Order, Report
from chutes_opencode.errors import OpenCodeError

# A worker that answers nothing for so long, although it has only to answer, is taken for lost.
SILENT_SECONDS = 60.0
BLOCK = 256  # orders in one message
CLOSE_SECONDS = 40.0
_AGAIN_SECONDS = 0.5
_ERROR_LINE = re.compile(r"^[\w.]+(?:Error|Exception): .+", re.MULTILINE)


class LostError(Exception):
    """The worker is gone, or answers nothing any more."""


class Link:
    """The way to one worker. Used on one event loop.

    Attributes:
        name: The worker's.
        node: Ray's id of its node.
    """

    def __init__(self, name: str, node: str, handle: Any) -> None:
        """Hold an actor."""
        self.name = name
        self.node = node
        self._handle = handle
        self._orders: list[Order] = []
        self._cancelled: list[int] = []
        self._unsent: set[int] = set()
        self._work = asyncio.Event()

    async def begin(self, *arguments: Any) -> Any:
        """Have the worker get ready, however long it takes to be placed; see `Station.begin`.

        Raises:
            OpenCodeError: It cannot work there.
            LostError: It, or its node, is gone.
        """
        return await self._call(lambda: self._handle.begin.remote(*arguments), None)

    def send(self, order: Order) -> None:
        """Have an order sent with the next block."""
        self._orders.append(order)
        self._unsent.add(order.number)
        self._work.set()

    def cancel(self, number: int) -> bool:
        """Have an order ended; True: it was not sent yet, and will not be."""
        if number in self._unsent:
            self._unsent.discard(number)
            return True
        self._cancelled.append(number)
        self._work.set()
        return False

    def was_sent(self, number: int) -> bool:
        """Tell whether an order has left, so that its prompt may have been asked."""
        return number not in self._unsent

    async def run(self, on_report: Callable[[Report], None]) -> None:
        """Send and receive until the worker is lost.

        Args:
            on_report: Is told what has come.

        Raises:
            LostError: It is.
        """
        sending = asyncio.ensure_future(self._send())
        try:
            heard = 0
            while True:
                report = await self._poll(heard, sending)
                heard = report.last
                on_report(report)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, LostError):
                await sending

    async def close(self) -> None:
        """Have the worker end everything, then end it; never waits for ever."""
        with suppress(LostError, OpenCodeError):
            await self._call(lambda: self._handle.close.remote(), CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the worker's process at once; one that is gone already stays so."""
        if ray.is_initialized():  # else Ray would connect, to whatever cluster it finds
            with suppress(Exception):
                ray.kill(self._handle, no_restart=True)

    async def _poll(self, heard: int, sending: asyncio.Future[None]) -> Report:
        """Ask for receipts; a sender that has lost the worker ends the wait."""
        polling = asyncio.ensure_future(
            self._call(
                lambda: self._handle.receipts.remote(heard, POLL_SECONDS),
                POLL_SECONDS + SILENT_SECONDS,
            )
        )
        try:
            await asyncio.wait([polling, sending], return_when=asyncio.FIRST_COMPLETED)
            if not polling.done():
                sending.result()
            report: Report = await polling
        finally:
            polling.cancel()
        return report

    async def _send(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._orders:
                block, self._orders = self._orders[:BLOCK], self._orders[BLOCK:]
                block = [order for order in block if order.number in self._unsent]
                self._unsent.difference_update(order.number for order in block)
                if block:
                    await self._call(partial(self._handle.submit.remote, block), SILENT_SECONDS)
            if self._cancelled:
                numbers, self._cancelled = self._cancelled, []
                await self._call(partial(self._handle.cancel.remote, numbers), SILENT_SECONDS)

    async def _call(self, call: Callable[[], Any], seconds: float | None) -> Any:
        """Call the worker; again if it could not be reached, as long as there is time.

        Every call may be made twice: orders that are known are not begun again, and receipts are
        told until they were heard.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                return await _answer(call(), until)
            except ray.exceptions.ActorUnavailableError as error:
                if until is not None and time.monotonic() >= until:
                    raise LostError(_reason(error)) from error
            except (ray.exceptions.RayError, OSError, RuntimeError) as error:
                cause = original(error)
                if isinstance(cause, OpenCodeError):
                    raise cause from cause.__cause__
                raise LostError(_reason(error)) from error
            await asyncio.sleep(_AGAIN_SECONDS)


async def _answer(ref: Any, until: float | None) -> Any:
    answer = asyncio.wrap_future(ref.future())
    answer.add_done_callback(_ignore)
    left = None if until is None else max(until - time.monotonic(), 0.0)
    done, _ = await asyncio.wait([answer], timeout=left)
    if not done:
        raise LostError("it gives no answer")
    return answer.result()


def _reason(error: BaseException) -> str:
    """Return why a worker is lost; of a traceback, with which Ray may tell it, the error's line."""
    errors = _ERROR_LINE.findall(str(error))
    return one_line(RuntimeError(errors[-1]) if errors else error)


def _ignore(answer: asyncio.Future[Any]) -> None:
    """Look at what came too late, so that nobody is warned of it."""
    if not answer.cancelled():
        answer.exception()
