"""Group commit: what many callers bring while one write runs goes into the next, all at once."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from chutes_opencode.batch.durable import StoreError

Entry = TypeVar("Entry")
Stored = TypeVar("Stored")

# A commit holds no more than this many, so that its memory is bounded.
MOST = 4096


@dataclass(frozen=True, slots=True)
class _Waiter(Generic[Entry, Stored]):
    entry: Entry
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Stored]


class GroupCommit(Generic[Entry, Stored]):
    """One thread that writes what callers of any event loop bring.

    A caller waits until its entry is durable: that is the back-pressure, and the queue is never
    longer than there are callers.
    """

    def __init__(
        self, commit: Callable[[list[Entry]], Sequence[Stored]], *, interval_s: float = 0.0
    ) -> None:
        """Start the thread.

        Args:
            commit: Makes entries durable and returns what they were stored as, in their order.
                When it raises, nothing more is written: all who wait, and all who come later, get
                the error.
            interval_s: A commit begins no sooner after the one before: each may be dear.
        """
        self._commit = commit
        self._interval_s = interval_s
        self._begun = -math.inf
        self._condition = threading.Condition()
        self._waiting: deque[_Waiter[Entry, Stored]] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=self._serve, name="chutes-opencode-store", daemon=True
        )
        self._thread.start()

    async def put(self, entry: Entry) -> Stored:
        """Write an entry, and return when it is durable.

        A caller that is cancelled no longer waits for it; it is written all the same.

        Raises:
            StoreError: It cannot be written, or the thread has ended.
        """
        loop = asyncio.get_running_loop()
        waiter: _Waiter[Entry, Stored] = _Waiter(entry, loop, loop.create_future())
        with self._condition:
            self.check()
            self._waiting.append(waiter)
            self._condition.notify()
        return await waiter.future

    def check(self) -> None:
        """Raise the error that ended the writing, if there was one.

        Raises:
            StoreError: There was one, or it was closed.
        """
        if self._error is not None:
            raise _copy(self._error)
        if self._closed:
            raise StoreError(raw_message="the run is closed")

    def fail(self, error: BaseException) -> None:
        """Write nothing more: all who wait, and all who come later, get the error."""
        with self._condition:
            self._error = self._error or error
            waiting = list(self._waiting)
            self._waiting.clear()
        self._answer([(waiter, _copy(error)) for waiter in waiting])

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            try:
                stored = self._commit([waiter.entry for waiter in batch])
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                self.fail(error)
                self._answer([(waiter, _copy(error)) for waiter in batch])
            else:
                self._answer(list(zip(batch, stored, strict=True)))

    def _take(self) -> list[_Waiter[Entry, Stored]]:
        """Wait for entries; none: it was closed and all are written."""
        with self._condition:
            while not self._waiting and not self._closed:
                self._condition.wait()
            rest = self._begun + self._interval_s - time.monotonic()
            if rest > 0:
                self._condition.wait_for(lambda: self._closed, rest)
            self._begun = time.monotonic()
            count = min(MOST, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _answer(self, answers: list[tuple[_Waiter[Entry, Stored], Stored | BaseException]]) -> None:
        """Wake the callers: once for each event loop, which costs more than all else here."""
        loops = {id(waiter.loop): waiter.loop for waiter, _ in answers}
        for mark, loop in loops.items():
            own = [(waiter.future, value) for waiter, value in answers if id(waiter.loop) == mark]
            with suppress(RuntimeError):  # it was closed: nobody waits there any more
                loop.call_soon_threadsafe(_settle, own)


def _settle(answers: list[tuple[asyncio.Future[Stored], Stored | BaseException]]) -> None:
    for future, value in answers:
        if future.done():
            continue
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)


def _copy(error: BaseException) -> BaseException:
    """Return an error of the same kind, for one caller: a traceback is not for many to share."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign class may not be made to be copied
        return error
