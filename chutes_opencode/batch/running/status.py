"""The file `status.json`: the last snapshot of a run, for whoever looks from another terminal."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson

from chutes_opencode.batch.durable import FILE_MODE, draft_of, drop_draft
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
    """Write the file: whole, or not at all. One writer at a time.

    Raises:
        OSError: It cannot be written.
    """
    data = orjson.dumps({"pid": os.getpid(), **asdict(snapshot)}, option=orjson.OPT_INDENT_2)
    path = folder / NAME
    draft = draft_of(path)  # of a fixed name: what a killed process has left is written over
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(draft, flags, FILE_MODE), "wb") as file:
            file.write(data)
        draft.replace(path)
    except BaseException:
        drop_draft(path)
        raise


def read_status(folder: Path) -> Status | None:
    """Read the file; None: there is none, or none that can be read."""
    try:
        data = orjson.loads((folder / NAME).read_bytes())
        known = {name: value for name, value in data.items() if name in _FIELDS}
        return Status(int(data["pid"]), Snapshot(**known))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
