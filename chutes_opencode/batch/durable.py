"""Files that are still there after a crash: what is said to be written is on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chutes_opencode.errors import ConfigurationError

# What holds prompts and answers is its owner's alone.
FILE_MODE = 0o600
FOLDER_MODE = 0o700
# Drafts are hidden files: they are no part of a run, and whoever lists it does not take them so.
DRAFT_SUFFIX = ".new"
CHUNK = 8 * 1024 * 1024

_AGAIN = "run the same command again: what is done stays done."
_TROUBLES = {
    errno.ENOSPC: ("the disk is full", f"Free space on it, then {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"Free space, then {_AGAIN}"),
    errno.EFBIG: (
        "a file may not grow any further here",
        f"Raise the limit (`ulimit -f`) or use another disk, then {_AGAIN}",
    ),
    errno.EROFS: ("the file system is read-only", "Use a folder that can be written."),
    errno.EACCES: ("permission denied", "Use a folder that you may write to."),
    errno.EPERM: ("operation not permitted", "Use a folder that you may write to."),
    errno.EIO: ("the disk does not work", f"Look at the system's log, mend it, then {_AGAIN}"),
    errno.ESTALE: ("the file server has lost the file", f"Mount it again, then {_AGAIN}"),
    errno.ENOTDIR: ("a file stands where a folder should be", "Name another folder."),
    errno.EEXIST: ("a file stands where a folder should be", "Name another folder."),
}


class StoreError(ConfigurationError):
    """A run's folder cannot be written or read; what was done before stays done."""

    default_error_type = "store"
    default_hint = f"Mend what is named, then {_AGAIN}"


def storage_error(error: OSError, path: Path) -> StoreError:
    """Return what an operating system's error means to whoever started the run.

    Args:
        error: The system's.
        path: The file or folder that it happened to.
    """
    words, hint = _TROUBLES.get(error.errno or 0, (error.strerror or str(error), ""))
    return StoreError(raw_message=f"{words}: {path}", hint=hint)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise a `StoreError` that names `path` instead of an OSError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def sync(descriptor: int) -> None:
    """Wait until a file's content is on the disk itself.

    Raises:
        OSError: It does not get there.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync leaves it in the disk's cache
    if full_sync is not None:
        with suppress(OSError):  # a file system that does not know it
            fcntl.fcntl(descriptor, full_sync)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: They do not get there.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some shares have no such thing
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durably; one that is there is left as it is.

    Raises:
        StoreError: It cannot be made.
    """
    with storing(folder):
        missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
        if missing:
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for made in reversed(missing):
            sync_folder(made.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however little the system takes at once.

    Raises:
        OSError: A part, or nothing, was written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def draft_of(path: Path) -> Path:
    """Return where a file's next version is written until it is whole."""
    return path.with_name(f".{path.name}{DRAFT_SUFFIX}")


def write_draft(path: Path, parts: Iterable[bytes]) -> None:
    """Write the next version of a file, durably, beside it; nothing is left of one that fails.

    Raises:
        OSError: It cannot be written.
    """
    draft = draft_of(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    descriptor = os.open(draft, flags, FILE_MODE)
    try:
        _write_buffered(descriptor, parts)
        sync(descriptor)
    except BaseException:
        drop_draft(path)
        raise
    finally:
        os.close(descriptor)


def _write_buffered(descriptor: int, parts: Iterable[bytes]) -> None:
    buffer = bytearray()
    for part in parts:
        buffer += part
        if len(buffer) >= CHUNK:
            write_all(descriptor, bytes(buffer))
            buffer.clear()
    write_all(descriptor, bytes(buffer))


def adopt_draft(path: Path) -> None:
    """Put the draft in the file's place: whoever looks finds the old one or the new.

    Raises:
        OSError: It cannot be done.
    """
    os.replace(draft_of(path), path)  # noqa: PTH105 - one system call, as all in this file
    sync_folder(path.parent)


def drop_draft(path: Path) -> None:
    """Remove a draft that is not wanted, if there is one."""
    with suppress(OSError):
        os.unlink(draft_of(path))  # noqa: PTH108 - one system call, as all in this file


def write_whole(path: Path, data: bytes) -> None:
    """Write a file durably: after a crash it is the old one or the new.

    Raises:
        StoreError: It cannot be written; the old one stands.
    """
    with storing(path):
        write_draft(path, (data,))
        adopt_draft(path)
