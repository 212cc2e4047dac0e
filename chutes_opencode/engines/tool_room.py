"""A folder of a running server, and the tool servers (MCP) that are in it at the moment.

opencode adds tool servers to a folder, not to a session: whoever works in the folder sees them. So
prompts with the same tool servers use them together, and one with others waits for its turn.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from chutes_opencode.engines.leftovers import PASSWORD_VARIABLE, end_all_marked
from chutes_opencode.opencode.config import KEY_VARIABLE

# One value a turn: finds a tool server's processes, however many others of its name there are.
TOOLS_MARKER = "CHUTES_OPENCODE_TOOLS"
# opencode ends a local tool server within some seconds; a hung one must not hold the folder.
REMOVE_SECONDS = 15.0

Tools = Mapping[str, Mapping[str, Any]]
"""Tool servers by name, each as opencode's config knows it."""


class ToolServers(Protocol):
    """What of the server's client is needed here."""

    async def add_tool_server(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        """Add one to a folder, or put it in the place of its namesake."""
        ...

    async def remove_tool_server(self, directory: Path, name: str) -> None:
        """Disconnect one; nothing happens when it is not there."""
        ...


class ToolRoom:
    """Lets prompts into a folder, those with the same tool servers together.

    First come, first served: a newcomer does not overtake those who wait, even if it would fit.
    Belongs to one event loop.
    """

    def __init__(self, api: ToolServers, folder: Path) -> None:
        """Begin with an empty room."""
        self._api = api
        self._folder = folder
        self._tools: Tools = {}
        self._marker = ""
        self._visitors = 0
        self._line: deque[tuple[Tools, asyncio.Future[None]]] = deque()
        self._ready: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._added: set[str] = set()

    @property
    def unused(self) -> bool:
        """Whether nobody is here or waits, and no tool server is left."""
        return not (self._visitors or self._line or self._closing or self._added)

    @asynccontextmanager
    async def visit(self, tools: Tools) -> AsyncIterator[None]:
        """Work in the folder with these tool servers and no others.

        A tool server that does not come up is no error here: its tools are missing. On the normal
        way out the tool servers are gone; after an error they go while the caller goes on.

        Args:
            tools: By name, each as opencode's config knows it.

        Raises:
            ServerGoneError: The opencode server has ended.
            ApiError: It has refused a tool server.
        """
        await self._enter(tools)
        try:
            if self._ready is not None:
                await asyncio.shield(self._ready)
            yield
        except BaseException:
            self._leave()
            raise
        self._leave()
        await self.closed()

    async def closed(self) -> None:
        """Wait while tool servers are being removed."""
        while self._closing is not None:
            await asyncio.wait([self._closing])

    async def _enter(self, tools: Tools) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((tools, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()
            else:
                self._leave()  # its turn and its end have come at the same moment
            raise

    def _admit(self) -> None:
        """Let in whoever may come in by now."""
        while self._line and self._closing is None:
            tools, turn = self._line[0]
            if not turn.done():
                if self._visitors and tools != self._tools:
                    return
                if not self._visitors:
                    self._open(tools)
                self._visitors += 1
                turn.set_result(None)
            self._line.popleft()

    def _open(self, tools: Tools) -> None:
        self._tools = tools
        self._marker = os.urandom(16).hex()
        strangers = self._added - tools.keys()
        self._ready = asyncio.create_task(self._furnish(strangers)) if tools or strangers else None

    async def _furnish(self, strangers: set[str]) -> None:
        """Remove what could not be removed before, and add the tool servers."""
        await _all(self._remove(name) for name in strangers)
        await _all(self._add(name, config) for name, config in self._tools.items())

    async def _add(self, name: str, config: Mapping[str, Any]) -> None:
        self._added.add(name)
        await self._api.add_tool_server(self._folder, name, self._private(config))

    async def _remove(self, name: str) -> None:
        await self._api.remove_tool_server(self._folder, name)
        self._added.discard(name)

    def _private(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config whose process is marked and does not see the server's secrets."""
        if config["type"] != "local":
            return dict(config)
        ours = {PASSWORD_VARIABLE: "", KEY_VARIABLE: "", TOOLS_MARKER: self._marker}
        return {**config, "environment": {**config["environment"], **ours}}

    def _leave(self) -> None:
        self._visitors -= 1
        if self._visitors == 0 and self._ready is not None:
            self._closing = asyncio.create_task(self._close())
            self._closing.add_done_callback(self._reopen)
        else:
            self._admit()

    async def _close(self) -> None:
        """Remove the tool servers, those that are still coming up as well."""
        assert self._ready is not None
        if not self._ready.done():
            # Told to remove one that is still coming up, opencode has it come up later (seen).
            await self._end_processes()
            await asyncio.wait([self._ready])
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await _all(self._remove(name) for name in tuple(self._added))
        finally:
            await self._end_processes()  # opencode ends a tool server, but not its children

    async def _end_processes(self) -> None:
        if any(config["type"] == "local" for config in self._tools.values()):
            await end_all_marked(TOOLS_MARKER, [self._marker])

    def _reopen(self, closing: asyncio.Task[None]) -> None:
        self._closing = None
        for task in (self._ready, closing):
            if task is not None and not task.cancelled():
                task.exception()  # a visitor was told, or the next one will be
        self._ready = None
        self._admit()


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Wait for all calls, and raise the first error only then."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if outcome is not None:
            raise outcome
