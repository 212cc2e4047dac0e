"""One writer for a run's folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from chutes_opencode.batch.durable import FILE_MODE, StoreError, storage_error, write_all

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
HOLDER = ".holder"
# Whoever only looks (`batch status`) holds the lock for microseconds.
WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who writes to a run's folder.

    Attributes:
        pid: Its process; 0: it has not told yet.
        host: Its machine.
    """

    pid: int = 0
    host: str = ""

    def __str__(self) -> str:
        """Return what a message calls it."""
        if not self.pid:
            return "another process"
        where = "" if self.host in ("", platform.node()) else f" on {self.host}"
        return f"process {self.pid}{where}"


class RunLock:
    """The right to write to a run's folder."""

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            StoreError: Another process has it, or the folder cannot be written or locked.
        """
        from filelock import FileLock, Timeout  # with asyncio behind it: only who runs pays

        self._folder = folder
        lock = FileLock(folder / LOCK, mode=FILE_MODE, thread_local=False)
        try:
            lock.acquire(timeout=WAIT_SECONDS, poll_interval=WAIT_SECONDS / 10)
        except Timeout as error:  # an OSError too, so it comes first
            raise StoreError(
                raw_message=f"{folder} is in use: {_told(folder)} runs a batch there",
                hint="Wait for its end, stop it, or name another folder.",
            ) from error
        except NotImplementedError as error:
            raise StoreError(
                raw_message=f"{folder}: this file system has no locks",
                hint="Use a folder on a local disk.",
            ) from error
        except OSError as error:
            raise storage_error(error, folder) from error
        self._lock: BaseFileLock = lock
        try:
            self._tell()
        except BaseException:
            lock.release()
            raise

    def release(self) -> None:
        """Let others write."""
        try:
            with suppress(OSError):
                os.unlink(self._folder / HOLDER)  # noqa: PTH108 - as all system calls of a run
        finally:
            self._lock.release()

    def _tell(self) -> None:
        """Say who has it; a full disk keeps that to itself."""
        data = orjson.dumps({"pid": os.getpid(), "host": platform.node()})
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = os.open(self._folder / HOLDER, flags, FILE_MODE)
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)


def holder_of(folder: Path) -> Holder | None:
    """Return who writes to a run's folder now; None: nobody does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _told(folder)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _told(folder: Path) -> Holder:
    try:
        values = orjson.loads((folder / HOLDER).read_bytes())
        return Holder(int(values["pid"]), str(values["host"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Holder()
