"""Rows that cannot be read again, kept in a file of JSON lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import orjson

from chutes_opencode.batch.durable import (
    FILE_MODE,
    adopt_draft,
    draft_of,
    drop_draft,
    storing,
    sync,
)
from chutes_opencode.batch.items.formats import Row
from chutes_opencode.batch.items.lines import BadRowError


class Spool:
    """Keeps rows, each on the line of its number; the file is there, whole, after a clean end."""

    def __init__(self, path: Path) -> None:
        """Write nothing yet.

        Args:
            path: The file; one that is there is replaced.
        """
        self._path = path
        self._lines = 0

    def __enter__(self) -> Spool:
        """Open it.

        Raises:
            StoreError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with storing(self._path):
            self._file = os.fdopen(os.open(draft_of(self._path), flags, FILE_MODE), "wb")
        return self

    def write(self, number: int, row: Row) -> None:
        """Keep a row; its number is greater than that of the one before.

        Raises:
            BadRowError: It is no JSON.
            StoreError: It cannot be written.
        """
        try:
            line = orjson.dumps(row)
        except TypeError as error:
            raise BadRowError(number, f"the row is no JSON: {error}") from None
        with storing(self._path):
            for _ in range(self._lines + 1, number):  # blank lines for those in between
                self._file.write(b"\n")
            self._file.write(line + b"\n")
        self._lines = number

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in its place; after an error, leave none.

        Raises:
            StoreError: It cannot be written.
        """
        if kind is not None:
            with suppress(OSError):
                self._file.close()
            drop_draft(self._path)
            return
        try:
            with storing(self._path):
                with self._file:
                    self._file.flush()
                    sync(self._file.fileno())
                adopt_draft(self._path)
        finally:
            drop_draft(self._path)
