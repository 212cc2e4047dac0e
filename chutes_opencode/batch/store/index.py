"""Which tasks have a result, in 48 bytes each at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chutes_opencode.batch.fingerprints import Fingerprints, fingerprint
from chutes_opencode.batch.record import FAILED, OK
from chutes_opencode.batch.store.record_json import written

Key = tuple[str, str, int]

_MAX = 2**64 - 1


class Index:
    """The keys and contents of results.jsonl."""

    def __init__(self) -> None:
        """Begin empty."""
        self._keys = Fingerprints()
        self._contents = Fingerprints()
        self._failed = Fingerprints()

    def __len__(self) -> int:
        """Return how many results there are."""
        return len(self._keys)

    def add(self, key: Key, content_hash: str, status: str) -> bool:
        """Put a result in.

        Args:
            key: Of its task.
            content_hash: Of its item.
            status: "ok" or "failed".

        Returns:
            False if its key has a result already; then nothing changes.
        """
        task = task_mark(key)
        if not self._keys.add(task):
            return False
        content = _content(task, content_hash)
        self._contents.add(content)
        if status == FAILED:
            self._failed.add(content)
        return True

    def standing(self, key: Key, content_hash: str) -> str:
        """Return the status of the result that a task has: "ok", "failed"; "": it has none."""
        content = _content(task_mark(key), content_hash)
        if content not in self._contents:
            return ""
        return FAILED if content in self._failed else OK

    def changed(self, key: Key, content_hash: str) -> bool:
        """Tell whether a key has a result, but of another content."""
        task = task_mark(key)
        return task in self._keys and _content(task, content_hash) not in self._contents


def task_mark(key: Key) -> int:
    """Return what tells a task from others."""
    return fingerprint(written(key[0]), written(key[1]), str(key[2]))


def _content(task: int, content_hash: str) -> int:
    """Return what tells a task with this content from others; a hash need not be hashed again."""
    try:
        number = int(content_hash[:16], 16)
    except ValueError:
        number = fingerprint(content_hash)
    return (task ^ number) & _MAX or 1


def try_mark(fields: Mapping[str, Any]) -> int:
    """Return what tells one try of a task from others, given its JSON fields."""
    return fingerprint(
        fields["id"], fields["model"], str(fields["sample"]), repr(fields["started_at"])
    )
