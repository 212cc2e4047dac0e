"""Records, their transcripts first, at the end of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.record_json import line_of, to_json
from chutes_opencode.batch.store.transcripts import TranscriptShards, transcript_line
from chutes_opencode.results import QueryResult


@dataclass(frozen=True, slots=True)
class Entry:
    """What is brought to be stored.

    Attributes:
        record: Of a task.
        result: Its transcript is kept; None: it is not.
    """

    record: Record
    result: QueryResult | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What was made durable.

    Attributes:
        record: As it is stored: with the place of its transcript.
        fields: The same as its line has it.
    """

    record: Record
    fields: dict[str, Any]


class Appender(Protocol):
    """Where records are made durable; used by one thread at a time."""

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make records durable: transcripts first, tries next, results last.

        Raises:
            StoreError: It cannot be done.
        """
        ...


class JournalAppender:
    """Appends to files of a folder on this machine, or on one that looks so."""

    def __init__(
        self,
        results: Journal,
        attempts: Journal | None,
        transcripts: TranscriptShards,
        prefix: str = "",
    ) -> None:
        """Take the files, which stay their owner's to close.

        Args:
            results: For results.
            attempts: For tries that do not count; None: none is brought.
            transcripts: For transcripts.
            prefix: Goes before the places of transcripts.
        """
        self._results = results
        self._attempts = attempts
        self._transcripts = transcripts
        self._prefix = prefix

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make records durable; see `Appender.write`."""
        stored = [stored_as(entry, self._place) for entry in entries]
        self._transcripts.commit()
        for each in stored:
            self._journal(each.fields["status"]).add(line_of(each.fields))
        if self._attempts is not None:
            self._attempts.commit()
        self._results.commit()
        return stored

    def _place(self, line: bytes) -> str:
        return f"{self._prefix}{self._transcripts.add(line)}"

    def _journal(self, status: str) -> Journal:
        if status != CUT:
            return self._results
        assert self._attempts is not None, "no tries are brought here"
        return self._attempts


def stored_as(entry: Entry, add_transcript: Callable[[bytes], str]) -> Stored:
    """Return what an entry is stored as, when its transcript has been added.

    Args:
        entry: What was brought.
        add_transcript: Takes the line of a transcript, returns its place.
    """
    record = entry.record
    if entry.result is not None:
        line = transcript_line(record, entry.result)
        record = replace(record, transcript=add_transcript(line))
    return Stored(record, to_json(record))
