"""The file `status.json`: the last snapshot of a run, for whoever looks from another terminal."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson

from chutes_opencode.batch.running.progress import Snapshot

NAME = "status.json"
_FIELDS = frozenset(each.name for each in fields(Snapshot))


@dataclass(frozen=True, slots=True)
class Status:
    """What a run's folder tells of it.

    Attributes:
        pid: The process that wrote it.
        snapshot: The batch as it was then.
    """

    pid: int
    snapshot: Snapshot


def write_status(folder: Path, snapshot: Snapshot) -> None:
    """Write the file: whole, or not at all.

    Raises:
        OSError: It cannot be written.
    """
    data = orjson.dumps({"pid": os.getpid(), **asdict(snapshot)}, option=orjson.OPT_INDENT_2)
    handle, name = tempfile.mkstemp(prefix=f".{NAME}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(folder / NAME)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def read_status(folder: Path) -> Status | None:
    """Read the file; None: there is none, or none that can be read."""
    try:
        data = orjson.loads((folder / NAME).read_bytes())
        known = {name: value for name, value in data.items() if name in _FIELDS}
        return Status(int(data["pid"]), Snapshot(**known))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
