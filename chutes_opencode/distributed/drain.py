"""SIGTERM, as a preempted machine sends it: what runs may end, nothing new begins.

Ray's own way is to leave at once, and what was paid for is lost. Here a process that has nothing to
do leaves as it did; another first lets its prompts end, for so long as machines usually wait before
they pull the plug, and then ends them, with what they have cost by then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chutes_opencode.errors import WorkerLostError
from chutes_opencode.results import QueryResult

DRAIN_SECONDS = 25.0
"""Clouds and Kubernetes give 30 s."""
# How often a drained process looks whether it can leave.
LEAVE_SECONDS = 0.2


def on_sigterm(busy: Callable[[], bool], begin: Callable[[], object]) -> bool:
    """Have SIGTERM begin a drain instead of an end, as long as there is something to lose.

    Python takes signals in its main thread alone. Ray runs tasks there; of an asynchronous actor
    only what comes before `__init__`: its class' `__new__`.

    Args:
        busy: Whether there is something to lose, asked in the main thread; if not, SIGTERM does
            what it did before.
        begin: Called once, in a thread of its own; the process is ended when it returns and
            nothing is to lose any more.

    Returns:
        Whether it is so; False: this is another thread, and nothing has changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    before = signal.getsignal(signal.SIGTERM)
    begun: list[threading.Thread] = []

    def drain() -> None:
        begin()
        # Until nothing is to lose: what was done is on its way to the driver.
        while signal.getsignal(signal.SIGTERM) is take:
            os.kill(os.getpid(), signal.SIGTERM)
            pause.wait(LEAVE_SECONDS)

    def take(number: int, frame: Any) -> None:
        if not busy():
            _pass_on(before, number, frame)
        elif not begun:
            begun.append(threading.Thread(target=drain, name="drain", daemon=True))
            begun[0].start()

    pause = threading.Event()
    signal.signal(signal.SIGTERM, take)
    return True


def _pass_on(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler is not signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@dataclass(slots=True, eq=False)
class Place:
    """A prompt under way.

    Attributes:
        end: Ends it; returns when it is gone.
        ended: Whether the drain has ended it.
    """

    end: Callable[[], object]
    ended: bool = False


class Drain:
    """The prompts of a process, until it is told to end."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._running: set[Place] = set()
        self._empty = threading.Condition(self._lock)
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether nothing new begins any more."""
        return self._begun

    @property
    def busy(self) -> bool:
        """Whether a prompt runs."""
        return bool(self._running)

    @contextmanager
    def admit(self, end: Callable[[], object]) -> Iterator[Place]:
        """Let a prompt run.

        Args:
            end: Ends it; called from another thread.

        Raises:
            WorkerLostError: Nothing begins here any more.
        """
        place = Place(end)
        with self._lock:
            if self._begun:
                raise refusal()
            self._running.add(place)
        try:
            yield place
        finally:
            with self._empty:
                self._running.discard(place)
                self._empty.notify_all()

    def begin(self, seconds: float = DRAIN_SECONDS) -> None:
        """Refuse what is new, wait for what runs, and end what takes longer.

        Args:
            seconds: How long to wait.

        Returns:
            When nothing runs any more.
        """
        with self._empty:
            self._begun = True
            self._empty.wait_for(lambda: not self._running, seconds)
            late = tuple(self._running)
            for place in late:
                place.ended = True
        for place in late:
            place.end()


def refusal() -> WorkerLostError:
    """Return the error of a prompt that came too late: it has cost nothing."""
    return WorkerLostError(
        raw_message="this worker was told to end (SIGTERM) and begins no prompt any more",
        hint="Send it again: it was not begun, and another worker takes it.",
    )


def overtime(result: QueryResult | None, seconds: float) -> WorkerLostError:
    """Return the error of a prompt that had to be ended.

    Args:
        result: What it had come to and cost.
        seconds: How long it was given.
    """
    return WorkerLostError(
        raw_message=f"this worker was told to end (SIGTERM), and the prompt not done {seconds:g} s "
        "later",
        hint="Send it again; what it had cost by then is in `.result`.",
        result=result,
    )
