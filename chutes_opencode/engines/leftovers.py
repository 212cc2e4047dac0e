"""End what an agent's tools left running on a warm server, and nothing of its neighbours.

A plugin of the server's (`opencode/assets/shell.js`) puts the session's id into the environment of
each shell; a process that has it belongs to that session, wherever it has moved to. One that has
emptied its environment is found only when the server ends. Linux; elsewhere all of them wait for
the server's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from chutes_opencode.engines.off_loop import off_loop
from chutes_opencode.process import end_marked

SESSION_MARKER = "CHUTES_OPENCODE_SESSION"
PASSWORD_VARIABLE = "OPENCODE_SERVER_PASSWORD"


def write_shell_plugin(folder: Path) -> Path:
    """Put the plugin into a folder.

    Returns:
        Its file, for the config's `plugin`.
    """
    source = resources.files("chutes_opencode.opencode").joinpath("assets", "shell.js")
    plugin = folder / "shell.js"
    plugin.write_text(source.read_text())
    return plugin


async def end_leftovers(session_ids: Iterable[str]) -> int:
    """Kill what the shells of these sessions have left.

    Bounded, and not cut short by cancellation, which is raised afterwards: the folder is emptied
    next, and nothing may write into it then.

    Args:
        session_ids: The prompt's session and its sub-agents'.

    Returns:
        How many processes were killed.
    """
    return await end_all_marked(SESSION_MARKER, session_ids)


async def end_all_marked(name: str, values: Iterable[str]) -> int:
    """Kill the processes with one of these values in a variable; see `end_leftovers`."""
    wanted = tuple(dict.fromkeys(value for value in values if value))
    ending = asyncio.create_task(off_loop(_end, name, wanted))
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return ending.result()


def _end(name: str, values: tuple[str, ...]) -> int:
    return sum(end_marked(name, value) for value in values)
