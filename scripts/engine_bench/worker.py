"""A process of its own that carries out one task after the other, told over a pipe.

Each measured way lives in one, so that the CPU time and memory of its process tree are its own; so
does the simulator. A worker whose parent is gone sees the pipe's end and ends itself.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

READY_SECONDS = 120.0
STOP_SECONDS = 60.0

_spawning = multiprocessing.get_context("spawn")


class Worker:
    """Runs `target(connection, *arguments)`; made ready, asked, and stopped."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        """Start the process and wait for its first word.

        Args:
            target: A function of a module; sends a first object when it is ready, then one for each
                that it receives, and returns at the pipe's end.
            *arguments: What else it is given; can be pickled.
        """
        self._connection, theirs = _spawning.Pipe()
        self._process = _spawning.Process(target=target, args=(theirs, *arguments))
        self._process.start()
        theirs.close()
        try:
            self.greeting = self._receive(READY_SECONDS)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, task: object, seconds: float) -> Any:
        """Have a task carried out and return what the process answers.

        Raises:
            RuntimeError: It has ended, or does not answer in this many seconds.
        """
        self._connection.send(task)
        return self._receive(seconds)

    def stop(self) -> None:
        """Close the pipe and wait for the process's end; kill it if that takes too long."""
        self._connection.close()
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop it."""
        self.stop()

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise RuntimeError(f"{self._process.name} has not answered in {seconds:.0f} s")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join(STOP_SECONDS)
            raise RuntimeError(f"{self._process.name} ended: {self._process.exitcode}") from None


def receive(connection: Connection) -> Any:
    """Return the next task; None: there is none any more."""
    try:
        return connection.recv()
    except EOFError:
        return None
