"""Tasks that wait: their model is paused, or they were asked to come back later."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from chutes_opencode.batch.item import Task


@dataclass(slots=True)
class Work:
    """A task on its way.

    Attributes:
        task: What is asked.
        requeued: How often it was put back already.
        until: When it may run, seconds since the epoch.
        since: When it was begun for the first time; None: it was not.
    """

    task: Task
    requeued: int = 0
    until: float = 0.0
    since: float | None = None


@dataclass(order=True, slots=True)
class _Place:
    until: float
    number: int
    work: Work = field(compare=False)


class Parking:
    """Waiting tasks, a queue for each model: what waits longest goes first."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queues: dict[str, list[_Place]] = {}
        self._arrived = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._queues.values()))

    def put(self, work: Work) -> None:
        """Have a task wait."""
        self._arrived += 1
        queue = self._queues.setdefault(work.task.model, [])
        heapq.heappush(queue, _Place(work.until, self._arrived, work))

    def take(self, now: float, admits: Callable[[str], bool]) -> Work | None:
        """Return a task that waits no longer; None: all do.

        Args:
            now: Seconds since the epoch.
            admits: Tells whether a model takes a task now; asked only about models with a task.
        """
        for model, queue in self._queues.items():
            if queue[0].until <= now and admits(model):
                work = heapq.heappop(queue).work
                if not queue:
                    del self._queues[model]
                return work
        return None

    def drop(self, model: str) -> int:
        """Forget the tasks of a model; return how many there were."""
        return len(self._queues.pop(model, ()))
