"""What cannot be told to end runs aside, in a thread that nothing waits for.

It is one thread, and lives as long as the process: the system ends what Ray has started when the
thread that started it ends (`PR_SET_PDEATHSIG`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_queues: dict[int, SimpleQueue[Callable[[], None]]] = {}


def _after_fork() -> None:
    """Forget the parent's lock and thread, which do not exist in the child."""
    global _lock
    _lock = threading.Lock()
    _queues.clear()


os.register_at_fork(after_in_child=_after_fork)


async def aside(work: Callable[[], T]) -> T:
    """Wait for something that blocks; cancelled, it goes on alone, and the process may end.

    Raises:
        Exception: What it raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[..., None], what: object) -> None:
        def unless_cancelled() -> None:
            if not outcome.done():
                settle(what)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(unless_cancelled)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            tell(outcome.set_exception, error)
        else:
            tell(outcome.set_result, result)

    _queue().put(run)
    return await outcome


def _queue() -> SimpleQueue[Callable[[], None]]:
    """Return what this process's thread takes its work from; started when first asked for."""
    with _lock:
        pid = os.getpid()
        if pid not in _queues:
            queue = _queues[pid] = SimpleQueue()
            threading.Thread(
                target=_serve, args=(queue,), name="chutes-opencode-aside", daemon=True
            ).start()
        return _queues[pid]


def _serve(queue: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        queue.get()()
