"""The switch that ends a batch early: once for "finish what runs", twice for "now"."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

GO, FINISH, NOW = 0, 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSwitch:
    """Tells a running batch to stop; from any thread, from signal handlers too.

    A switch that was used stays used: a batch that is given it does not begin.

    Attributes:
        level: `GO`, `FINISH` (no new tasks, those in flight end) or `NOW` (those in flight are
            cut). It only rises.
    """

    def __init__(self) -> None:
        """Stop nothing yet."""
        self.level = GO
        self._listeners: tuple[Callable[[], object], ...] = ()

    def finish(self) -> None:
        """Begin no new task, and end when those in flight have."""
        self._rise(FINISH)

    def now(self) -> None:
        """Cut what is in flight; it runs again with the next resume."""
        self._rise(NOW)

    def press(self) -> None:
        """Do as Ctrl-C does: the first time `finish`, from then on `now`."""
        self._rise(self.level + 1)

    def add_listener(self, wake: Callable[[], object]) -> Callable[[], None]:
        """Have a function called whenever the level rises.

        Args:
            wake: Called on the thread (or in the signal handler) that uses the switch; must be
                quick and must not raise.

        Returns:
            A function that ends it.
        """
        self._listeners = (*self._listeners, wake)

        def remove() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not wake)

        return remove

    def _rise(self, level: int) -> None:
        # No lock: a signal handler may interrupt the very thread that would hold it.
        self.level = max(self.level, min(level, NOW))
        for wake in self._listeners:
            wake()


async def unless_stopped(work: Coroutine[Any, Any, object], switch: StopSwitch) -> None:
    """Wait for something that may take long; whoever uses the switch ends it.

    Args:
        work: It.
        switch: The switch; used before, nothing is begun.

    Raises:
        Exception: What `work` raises, if it is not ended.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    unlisten = switch.add_listener(lambda: loop.call_soon_threadsafe(task.cancel))
    try:
        if switch.level > GO:
            task.cancel()
        await asyncio.wait([task])
    finally:
        unlisten()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()


@contextmanager
def pressed_by_signals(switch: StopSwitch) -> Iterator[None]:
    """Have SIGINT and SIGTERM press the switch as long as the block runs.

    Outside the main thread, where Python handles no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def press(_number: int, _frame: FrameType | None) -> None:
        switch.press()

    before = {number: signal.signal(number, press) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # None: it was not set from Python, and cannot be set back
                signal.signal(number, handler)
