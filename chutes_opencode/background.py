"""One event loop in a thread of its own, on which all work of this process runs.

Whatever loop, thread or notebook a caller is in, its call becomes a job here, so that there is one
core and no second one for synchronous callers. A forked child makes a loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Ending a process tree is bounded by the supervisor; a caller never waits longer than this.
END_SECONDS = 25.0

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _after_fork() -> None:
    """Forget the parent's lock: its holder, if any, does not exist in the child."""
    global _lock
    _lock = threading.Lock()
    _loops.clear()


os.register_at_fork(after_in_child=_after_fork)


def loop() -> asyncio.AbstractEventLoop:
    """Return this process's background loop; started when first asked for."""
    with _lock:
        pid = os.getpid()
        if pid not in _loops:
            _loops[pid] = asyncio.new_event_loop()
            threading.Thread(
                target=_loops[pid].run_forever, name="chutes-opencode", daemon=True
            ).start()
            atexit.register(_cancel_all, pid)
        return _loops[pid]


class Job(Generic[T]):
    """A coroutine at work on the background loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Start it."""
        # Set when the task is gone, not when it was told to go: callers wait for that.
        self._outcome: Future[T] = Future()
        self._loop = loop()
        self._loop.call_soon_threadsafe(self._start, coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._finish)

    def _stop(self) -> None:
        self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._outcome.cancel()
            self._outcome.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(task.result())

    def result(self) -> T:
        """Wait for it in this thread; an interrupt ends it first and is then raised.

        Raises:
            RuntimeError: This is the background loop's own thread (an observer's call), which
                would wait for itself for ever.
        """
        if _running_loop() is self._loop:
            self._loop.call_soon(self._stop)
            raise RuntimeError(
                "an on_event observer cannot wait for a prompt; use a thread of its own"
            )
        try:
            return self._outcome.result()
        except BaseException:
            self.cancel()
            raise

    async def join(self) -> T:
        """Wait for it on the caller's own loop; a cancellation ends it first."""
        outcome = asyncio.wrap_future(self._outcome)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            self._loop.call_soon_threadsafe(self._stop)
            await asyncio.wait([outcome], timeout=END_SECONDS)
            raise

    def cancel(self) -> None:
        """End it, and return when all that it had started is gone."""
        if not self._outcome.done():
            self._loop.call_soon_threadsafe(self._stop)
            wait([self._outcome], timeout=END_SECONDS)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _cancel_all(pid: int) -> None:
    """At exit: end what still runs, so that no process outlives the interpreter."""
    running = _loops.pop(pid, None)
    if running is None or pid != os.getpid():
        return
    try:
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), running).result(END_SECONDS)
    except TimeoutError:
        return
    running.call_soon_threadsafe(running.stop)


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
