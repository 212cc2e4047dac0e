"""Runs to write and read, and a disk that fails or a process that dies at a chosen moment."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from chutes_opencode.batch.record import CUT, FAILED, OK, Record, RecordedError
from chutes_opencode.batch.store.manifest import Manifest
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.results import Message, QueryResult, TextPart, Transcript, Usage

MANIFEST = Manifest("20260101-000000-abcdef", 1_767_225_600.0)
CHANGES_FILES = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "mkdir")


def record(name: str, status: str = OK, at: float = 1.0, **fields: Any) -> Record:
    """Make a record; a failed one has an error."""
    error = RecordedError("ServerError", "broke") if status == FAILED else None
    values: dict[str, Any] = {
        "content_hash": "ab" * 16,
        "cost_usd": 0.25,
        "usage": Usage(input=10, num_requests=1),
    }
    given = {"error": error} | values | fields
    return Record(name, "m", status=status, started_at=at, **given)


def answer(text: str = "42") -> QueryResult:
    """Make a result with a transcript."""
    turn = Message("assistant", (TextPart(text),), finish_reason="stop")
    return QueryResult(text, 0, "", "", True, transcript=Transcript("ses_1", (turn,)))


def open_run(folder: Path) -> RunStore:
    """Open a folder for the run of `MANIFEST`."""
    return RunStore.open(folder, manifest=MANIFEST)


def append(store: RunStore, *records: Record, result: QueryResult | None = None) -> list[Record]:
    """Bring records all at once; cut ones go where they belong."""

    async def bring() -> list[Record]:
        calls = [(store.cut if each.status == CUT else store.append) for each in records]
        return await asyncio.gather(
            *(call(each, result) for call, each in zip(calls, records, strict=True))
        )

    return asyncio.run(bring())


def write_lines(path: Path, lines: Iterable[Record | bytes]) -> None:
    """Write a file as it stands, from records and raw bytes."""
    path.write_bytes(
        b"".join(each if isinstance(each, bytes) else record_line(each) for each in lines)
    )


def names(path: Path) -> list[str]:
    """Return the ids in a file's whole lines, as any other program reads them."""
    text = path.read_bytes() if path.exists() else b""
    return [orjson.loads(line)["id"] for line in text.split(b"\n")[:-1]]


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts the calls that change files; at a chosen one, and at all after it, it acts."""

    def __init__(self, at: int, act: Callable[[str, tuple[Any, ...]], None]) -> None:
        self.at = at
        self.done = 0
        self._act = act

    def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.done += 1
        if self.done > self.at:
            self._act(name, arguments)

    @property
    def reached(self) -> bool:
        return self.done > self.at


@contextmanager
def acting(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[str, tuple[Any, ...]], None],
    at: int = 0,
    calls: Iterable[str] = CHANGES_FILES,
) -> Iterator[Steps]:
    """Let `act` happen instead of a system call, from the call numbered `at` on."""
    steps = Steps(at, act)
    with monkeypatch.context() as patch:
        for name in calls:
            patch.setattr(os, name, _instead(name, getattr(os, name), steps))
        yield steps


def _instead(name: str, real: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        steps.step(name, arguments)
        return real(*arguments, **options)

    return call


def die(_name: str, _arguments: tuple[Any, ...]) -> None:
    """End the process before the call: nothing after it happens any more."""
    raise Killed


class DiesInItsMidst:
    """Ends the process when the call has written half of what it should."""

    def __init__(self) -> None:
        self._dead = False
        self._write = os.write

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "write" and not self._dead:
            self._write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        self._dead = True
        raise Killed


def fail(number: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Let the system refuse."""

    def refuse(_name: str, _arguments: tuple[Any, ...]) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


class FullDisk:
    """Takes half of what is written, then nothing more."""

    def __init__(self) -> None:
        self._write = os.write

    def __call__(self, _name: str, arguments: tuple[Any, ...]) -> None:
        self._write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
