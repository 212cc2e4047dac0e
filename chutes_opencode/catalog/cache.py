"""Keep a provider's model list on disk, for many processes at once.

A record per provider and base URL holds the rows as they came. It is replaced as a whole, so no
reader sees half of one. The lock is on the folder itself: there is no lock file that a killed
process could leave behind. What cannot be read counts as not there; what cannot be written is
kept in memory, and told.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chutes_opencode.addresses import is_loopback
from chutes_opencode.errors import ConfigurationError

SCHEMA = 1
RECORD = "models.json"
FAILURE = "failure.json"
TOTALS = "totals.json"
POLL_SECONDS = 0.05
# A file of that age next to the record was left by a killed writer.
LEFTOVER_SECONDS = 60.0
# Servers on this machine come and go with their ports (simulators do); their lists go in the end.
LOCAL_SECONDS = 7 * 86400.0

Rows = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A list as it was fetched.

    Attributes:
        rows: The provider's rows, as they came.
        fetched_at: When, in seconds since 1970.
        expires_at: When it was to be fetched again, by the settings of who fetched it.
        etag: The server's mark of this version.
        problems: What went wrong while it was read, a sentence each.
        previous: The last list that was different, with the time of its fetch; None: there is none.
    """

    rows: Rows
    fetched_at: float
    expires_at: float
    etag: str | None = None
    problems: tuple[str, ...] = ()
    previous: tuple[Rows, float] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A fetch that brought no list.

    Attributes:
        failed_at: When, in seconds since 1970.
        problems: Why, a sentence each.
    """

    failed_at: float
    problems: tuple[str, ...]


class Cache:
    """The record of one provider at one base URL."""

    def __init__(self, home: Path, provider_id: str, base_url: str) -> None:
        """Name the folder; nothing is read or made yet.

        Args:
            home: `CHUTES_OPENCODE_HOME`.
            provider_id: The registry's name.
            base_url: Where the list is from.
        """
        mark = hashlib.sha256(f"{provider_id}\n{base_url}".encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", provider_id)[:40]
        where = "local-" if is_loopback(base_url) else ""
        self.folder = home / "catalog" / f"{readable}-{where}{mark}"
        self.totals = self.folder / TOTALS
        self.problem = ""
        self._origin = {"provider": provider_id, "base_url": base_url}
        self._seen: tuple[int, ...] | None = None
        self._record: Record | None = None
        self._failure: Failure | None = None

    def read(self) -> Record | None:
        """Return the record, None if there is no usable one; read only when it has changed."""
        if self.problem:  # it could not be written: memory knows better
            return self._record
        try:
            stat = os.stat(self.folder / RECORD)  # noqa: PTH116 - a Path takes five times as long
            seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if seen != self._seen:
                self._record = _record(self._load(RECORD))
                self._seen = seen
        except OSError:
            self._record = self._seen = None
        return self._record

    def write(self, record: Record) -> None:
        """Replace the record, for all processes; a failure before it is forgotten."""
        content = {
            "schema": SCHEMA,
            **self._origin,
            "fetched_at": record.fetched_at,
            "expires_at": record.expires_at,
            "etag": record.etag,
            "problems": record.problems,
            "rows": record.rows,
            "previous": record.previous
            and {"rows": record.previous[0], "fetched_at": record.previous[1]},
        }
        self._record, self._failure, self._seen = record, None, None
        self._store(RECORD, content)
        with suppress(OSError):
            (self.folder / FAILURE).unlink(missing_ok=True)

    def read_failure(self) -> Failure | None:
        """Return the failure since the record was written, None if there was none."""
        if self.problem:
            return self._failure
        with suppress(OSError):
            return _failure(self._load(FAILURE))
        return None

    def write_failure(self, failure: Failure) -> None:
        """Tell all processes that a fetch has failed; the record stays."""
        self._failure = failure
        content = {"failed_at": failure.failed_at, "problems": failure.problems}
        self._store(FAILURE, {"schema": SCHEMA, **self._origin, **content})

    def clear(self) -> bool:
        """Forget everything; return whether there was a list.

        Raises:
            ConfigurationError: A file cannot be removed.
        """
        there = self.read() is not None
        self._record = self._failure = self._seen = None
        self.problem = ""
        try:
            for name in (RECORD, FAILURE, TOTALS):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            reason = f"the model list in {self.folder} cannot be removed: {error.strerror}"
            raise ConfigurationError(raw_message=reason) from error
        with suppress(OSError):  # somebody may be writing into it
            self.folder.rmdir()
        return there

    @asynccontextmanager
    async def lock(self, seconds: float, done: Callable[[], bool]) -> AsyncIterator[bool]:
        """Be the only one who fetches, as far as that can be had.

        Args:
            seconds: How long to wait for it; a holder that hangs must not stop the others.
            done: Asked before each try; when it says yes the lock is no longer waited for.

        Yields:
            Whether there is something left to do. Where the folder cannot be locked, or not in
            time, that is so without the lock: writing is safe all the same.
        """
        descriptor = self._open_folder()
        deadline = time.monotonic() + seconds
        try:
            while not (settled := done()):
                if descriptor is None or _locked(descriptor) or time.monotonic() >= deadline:
                    # Between the question and the lock another process may have finished.
                    settled = done()
                    break
                await asyncio.sleep(POLL_SECONDS)
            yield not settled
        finally:
            if descriptor is not None:
                _close(descriptor)

    def _open_folder(self) -> int | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError:
            return None
        _descriptors.add(descriptor)
        return descriptor

    def _load(self, name: str) -> Mapping[str, Any] | None:
        """Return a file's content if it is of this schema and about this provider."""
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (ValueError, RecursionError):
            return None
        wanted = {"schema": SCHEMA, **self._origin}
        if isinstance(content, dict) and all(content.get(key) == wanted[key] for key in wanted):
            return content
        return None

    def _store(self, name: str, content: Mapping[str, Any]) -> None:
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(".new", f"{name}.", self.folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(content))
            os.replace(temporary, self.folder / name)  # noqa: PTH105 - both are strings here
            self.problem = ""
            self._sweep()
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.problem = f"the model list cannot be kept in {self.folder}: {reason}"
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)  # noqa: PTH108 - it is a string

    def _sweep(self) -> None:
        """Remove what nobody will ask for again."""
        for path in self.folder.glob("*.new"):
            if _is_older(path, LEFTOVER_SECONDS):
                path.unlink(missing_ok=True)
        for folder in self.folder.parent.glob("*-local-*"):
            if _is_older(folder, LOCAL_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)


def _is_older(path: Path, seconds: float) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > seconds
    return False


# --- what a file says ----------------------------------------------------------------------------


def _record(content: Mapping[str, Any] | None) -> Record | None:
    if content is None:
        return None
    rows, fetched_at = _rows(content.get("rows")), _moment(content.get("fetched_at"))
    if not rows or fetched_at is None:
        return None
    etag = content.get("etag")
    return Record(
        rows=rows,
        fetched_at=fetched_at,
        expires_at=_moment(content.get("expires_at")) or fetched_at,
        etag=etag if isinstance(etag, str) else None,
        problems=_texts(content.get("problems")),
        previous=_previous(content.get("previous")),
    )


def _previous(content: Any) -> tuple[Rows, float] | None:
    if not isinstance(content, dict):
        return None
    rows, fetched_at = _rows(content.get("rows")), _moment(content.get("fetched_at"))
    return (rows, fetched_at) if rows and fetched_at is not None else None


def _failure(content: Mapping[str, Any] | None) -> Failure | None:
    failed_at = None if content is None else _moment(content.get("failed_at"))
    if content is None or failed_at is None:
        return None
    return Failure(failed_at, _texts(content.get("problems")))


def _rows(value: Any) -> Rows:
    return tuple(row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()


def _moment(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


# --- the lock ------------------------------------------------------------------------------------

# A forked child shares the lock as long as it has the descriptor, even when the parent is killed.
_descriptors: set[int] = set()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can have it
        return True
    return True


def _close(descriptor: int) -> None:
    if descriptor in _descriptors:
        _descriptors.remove(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _after_fork() -> None:
    """Let go of the parent's locks: closing a copy does not free the original."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_after_fork)
