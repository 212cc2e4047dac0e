"""What the scheduler needs of a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chutes_opencode.batch.record import Record
from chutes_opencode.results import QueryResult


class RecordStore(Protocol):
    """Where records become durable."""

    async def append(self, record: Record, result: QueryResult | None) -> object:
        """Return once the record, and the transcript of the result, are durable."""
        ...

    async def cut(self, record: Record) -> object:
        """Return once the record of a try that does not count is durable."""
        ...

    def note(self, record: Record) -> bool:
        """Count a result that is durable already; False: its task has one, and it is a second."""
        ...

    def take_back(self, predicate: Callable[[Record], bool]) -> int:
        """Make results void, so that their tasks may run again; return how many."""
        ...
