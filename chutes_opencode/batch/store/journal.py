"""A file of JSON lines that is only appended to, durable when `commit` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from chutes_opencode.batch.durable import (
    CHUNK,
    FILE_MODE,
    StoreError,
    adopt_draft,
    drop_draft,
    storing,
    sync,
    write_all,
    write_draft,
)

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT
_BLOCK = 64 * 1024


class Journal:
    """One file of lines and its one writer.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; its folder is synced by whoever opens it.

        Raises:
            StoreError: It cannot be opened.
        """
        self.path = path
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._dirty = False
        self._open()

    def _open(self) -> None:
        with storing(self.path):
            self._descriptor = os.open(self.path, _FLAGS, FILE_MODE)
            self._size = os.fstat(self._descriptor).st_size

    @property
    def size(self) -> int:
        """Bytes that it has with all that was added."""
        return self._size + self._buffered

    def repair(self) -> int:
        """Mend a last line that was being written when its writer died.

        A line that lacks only its end gets it; any other part of a line is cut off.

        Returns:
            How many bytes were cut off.

        Raises:
            StoreError: It cannot be mended.
        """
        with storing(self.path):
            start, tail = self._last_line()
            whole = bool(tail) and _is_object(tail)
            if whole:
                write_all(self._descriptor, b"\n")
            elif tail:
                os.ftruncate(self._descriptor, start)
            sync(self._descriptor)  # what a killed writer left may be in memory only
            self._size = os.fstat(self._descriptor).st_size
        return 0 if whole else len(tail)

    def _last_line(self) -> tuple[int, bytes]:
        """Return what follows the last line's end, and where it begins."""
        start = os.fstat(self._descriptor).st_size
        blocks: list[bytes] = []
        while start:
            length = min(_BLOCK, start)
            block = os.pread(self._descriptor, length, start - length)
            cut = block.rfind(b"\n") + 1
            blocks.append(block[cut:])
            start -= length - cut
            if cut:
                break
        return start, b"".join(reversed(blocks))

    def add(self, line: bytes) -> int:
        """Take a line, its end included; `commit` makes it durable.

        Returns:
            Where it will begin in the file.

        Raises:
            StoreError: Lines that were added before cannot be written.
        """
        begin = self.size
        self._buffer.append(line)
        self._buffered += len(line)
        if self._buffered >= CHUNK:
            self._flush()
        return begin

    def commit(self) -> None:
        """Write what was added, and wait until it is on the disk.

        Raises:
            StoreError: It cannot be written. Nothing half-written is left, as far as can be.
        """
        self._flush()
        if self._dirty:
            with storing(self.path):
                sync(self._descriptor)
            self._dirty = False

    def _flush(self) -> None:
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        self._dirty = True
        try:
            with storing(self.path):
                write_all(self._descriptor, data)
                self._size += len(data)
        except BaseException:
            with suppress(Exception):  # whoever opens it next mends what is left
                self.repair()
            raise

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that are in the file, their ends included."""
        return read_lines(self.path)

    def replace(self, lines: Iterable[bytes], *, before: Callable[[], bool] | None = None) -> None:
        """Put other lines in place of all: whoever looks, even after a crash, finds either.

        Args:
            lines: The new content; may be made of the old.
            before: Called when the new content is on the disk and the old is still in force; when
                it returns False, that stays so.

        Raises:
            StoreError: It cannot be written, or was closed; the old content stands.
        """
        if self._descriptor < 0:
            raise StoreError(raw_message=f"{self.path} is closed")
        with storing(self.path):
            write_draft(self.path, lines)
        try:
            wanted = before is None or before()
        except BaseException:
            drop_draft(self.path)
            raise
        if not wanted:
            drop_draft(self.path)
            return
        with storing(self.path):
            adopt_draft(self.path)
        self.close()
        self._open()

    def close(self) -> None:
        """Close the file; what was added and not committed is lost."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines, each with its end.

    A last line that is being written is left out.

    Raises:
        StoreError: The file cannot be read.
    """
    with storing(path), path.open("rb", buffering=1024 * 1024) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
            elif _is_object(line):
                yield line + b"\n"


def _is_object(line: bytes) -> bool:
    if not line.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
