"""The tool outputs that opencode has cut: it keeps each whole in a file, for the agent to read.

opencode deletes them after a week; by then they would fill a warm server's disk. So they last as
long as their prompt: what its sessions name goes with it, the rest (at times opencode writes one
twice, and names one of them, seen) when the server has no prompt in flight, or when it is replaced.
Until then every agent of the server may read them, also another prompt's: opencode has one folder
for all of them, and says whose each is only afterwards.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chutes_opencode.engines.off_loop import off_loop
from chutes_opencode.opencode.api import ApiError, ServeApi, ServerGoneError
from chutes_opencode.opencode.workspace import Workspace

READ_SECONDS = 10.0
_PREFIX = "tool_"
_MIB = 1 << 20


def outputs_folder(workspace: Workspace) -> Path:
    """Return where opencode keeps them; there is none before the first."""
    return workspace.data / "tool-output"


async def delete_outputs(workspace: Workspace, api: ServeApi, session_ids: Iterable[str]) -> None:
    """Delete the cut outputs of a prompt that has ended.

    Bounded; what it misses goes with the server's other leftovers. Where there is none, nothing is
    asked.

    Args:
        workspace: Of the server on which it ran.
        api: Of the same.
        session_ids: Its session and its sub-agents'; those that are there.
    """
    folder = outputs_folder(workspace)
    if not _names(folder):
        return
    named: set[str] = set()
    with suppress(ServerGoneError, TimeoutError):
        async with asyncio.timeout(READ_SECONDS):
            for session_id in session_ids:
                with suppress(ApiError):
                    named |= named_outputs(await api.messages(session_id))
    # Only files of that folder: a tool may have named any other.
    await off_loop(_unlink, [folder / name for name in named.intersection(_names(folder))])


def named_outputs(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the files that a session's tools have left.

    Args:
        rows: Messages as a server returns them, `{"info": …, "parts": […]}` each.
    """
    found = set()
    for row in rows:
        for part in row.get("parts", ()):
            metadata = (part.get("state") or {}).get("metadata") or {}
            path = metadata.get("outputPath")
            if isinstance(path, str):
                found.add(os.path.basename(path))  # noqa: PTH119 - it need not be a path
    return found


def data_mib(workspace: Workspace) -> float:
    """Tell how much room opencode's data takes, in MiB: its database, and the cut outputs."""
    folders = (workspace.data, outputs_folder(workspace))
    return sum(_size(folder) for folder in folders) / _MIB


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # it may go meanwhile
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if name.startswith(_PREFIX)}  # noqa: PTH208 - iterdir makes a Path of each
    except OSError:
        return set()


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
