"""Tasks are read in a thread of their own, some at a time: what has a result is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from chutes_opencode.batch.fingerprints import Fingerprints, fingerprint
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import OK, Record

# What one look at the source passes over at most, so that a long resume is seen to go on.
SCANNED = 5_000


class TaskReader:
    """Reads the tasks of a batch that have no result yet; never more than it is asked for.

    Attributes:
        skipped: Answers that stand from earlier sessions, as far as it has read.
        failed: Failures that do.
        changed: Tasks that were passed over in this pass because their result is of another
            content: it has to be taken back first.
        ended: Whether it has come to the end.
    """

    def __init__(
        self,
        tasks: Callable[[], Iterator[Task]],
        standing: Callable[[Task], str],
        is_changed: Callable[[Task], bool] = lambda _task: False,
    ) -> None:
        """Read nothing yet.

        Args:
            tasks: Begins to read the batch's tasks.
            standing: Tells the status ("ok", "failed") of the result that a task has; "": none.
            is_changed: Tells whether a task has a result, but of another content.
        """
        self._tasks = tasks
        self._standing = standing
        self._is_changed = is_changed
        self._iterator: Iterator[Task] | None = None
        self._first = True
        self._changed = Fingerprints()
        self._ahead: list[Task] = []
        self._pool = ThreadPoolExecutor(1, "chutes-opencode-items")
        self.skipped = 0
        self.failed = 0
        self.ended = False

    @property
    def changed(self) -> int:
        """How many tasks were passed over in this pass because their content has changed."""
        return len(self._changed)

    def has_changed(self, record: Record) -> bool:
        """Tell whether a result is one of a task whose content has changed."""
        return _mark(record.key) in self._changed

    def again(self) -> None:
        """Begin from the first task once more, for those that were passed over or put off."""
        self._iterator, self._first, self.ended = None, False, False
        self._changed = Fingerprints()

    async def look_ahead(self) -> bool:
        """Tell whether there is anything to run; what was read for it comes with the next `read`.

        To be asked before the first `read`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._look_ahead)

    async def read(self, count: int) -> list[Task]:
        """Return up to `count` tasks without a result; maybe none before the end, too."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, count)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _look_ahead(self) -> bool:
        exhausted = False
        while not (self._ahead or exhausted):
            self._ahead, exhausted = self._scan(1)
        return bool(self._ahead or self._changed)

    def _read(self, count: int) -> list[Task]:
        ahead, self._ahead = self._ahead, []
        if len(ahead) >= count:
            return ahead
        found, self.ended = self._scan(count - len(ahead))
        return ahead + found

    def _scan(self, count: int) -> tuple[list[Task], bool]:
        """Return up to `count` tasks without a result, and whether there are no more."""
        if self._iterator is None:
            self._iterator = self._tasks()
        found: list[Task] = []
        for _ in range(SCANNED):
            task = next(self._iterator, None)
            if task is None:
                return found, True
            if status := self._standing(task):
                self._count(status)
            elif self._is_changed(task):
                self._changed.add(_mark(task.key))
            else:
                found.append(task)
                if len(found) == count:
                    break
        return found, False

    def _count(self, status: str) -> None:
        if not self._first:  # it may have got its result a moment ago
            return
        if status == OK:
            self.skipped += 1
        else:
            self.failed += 1


def _mark(key: tuple[str, str, int]) -> int:
    return fingerprint(key[0], key[1], str(key[2]))
