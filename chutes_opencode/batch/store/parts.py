"""A shard at a URL: each commit is a part of its own, an object that is never written again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chutes_opencode.batch.record import CUT
from chutes_opencode.batch.store.appending import Entry, Stored, stored_as
from chutes_opencode.batch.store.record_json import line_of
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.shard_files import (
    CLOSED,
    OPENED,
    attempts_name,
    results_name,
    shard_path,
    used_error,
)
from chutes_opencode.batch.store.transcripts import FOLDER

# Each commit is an object: no more of them than one in this time.
PART_SECONDS = 0.5


class PartAppender:
    """The one writer of a shard at a URL."""

    def __init__(
        self, remote: Remote, name: str, check: Callable[[], object] = lambda: None
    ) -> None:
        """Begin the shard.

        Args:
            remote: The run's URL.
            name: The shard's; no other has had it.
            check: Called before each commit; may raise.

        Raises:
            StoreError: There is a shard of that name, or it cannot be made.
        """
        self._remote = remote
        self._name = name
        self._path = shard_path(name)
        self._check = check
        self._number = 0
        if remote.sizes(self._path):
            raise used_error(name)
        remote.put(f"{self._path}/{OPENED}", b"")

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make records durable; see `Appender.write`."""
        self._check()
        self._number += 1
        transcripts, results, attempts = bytearray(), bytearray(), bytearray()
        file = f"{self._number:06}.jsonl"

        def place(line: bytes) -> str:
            offset = len(transcripts)
            transcripts.extend(line)
            return f"{self._name}/{file}:{offset}"

        stored = [stored_as(entry, place) for entry in entries]
        for each in stored:
            lines = attempts if each.fields["status"] == CUT else results
            lines += line_of(each.fields)
        for name, data in (
            (f"{FOLDER}/{file}", transcripts),
            (attempts_name(self._number), attempts),
            (results_name(self._number), results),
        ):
            if data:
                self._remote.put(f"{self._path}/{name}", bytes(data))
        return stored

    def is_closed(self) -> bool:
        """Tell whether the shard takes nothing more.

        Raises:
            StoreError: That cannot be found out.
        """
        return self._remote.exists(f"{self._path}/{CLOSED}")

    def close(self) -> None:
        """Nothing is open between commits."""
