"""A server's client as far as folders need it, and a stage to try them on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chutes_opencode.opencode.config import tool_server_entry
from chutes_opencode.request import McpServer

REMOTE = McpServer("remote", url="http://127.0.0.1:9/mcp")
OTHER = McpServer("other", url="http://127.0.0.1:9/mcp")
LOCAL = McpServer("local", command=("server",), environment={"A": "b"})


def entries(*servers: McpServer) -> dict[str, dict[str, Any]]:
    return {server.name: tool_server_entry(server) for server in servers}


@dataclass
class FakeServer:
    """Keeps the tool servers of each folder.

    Attributes:
        present: Names by folder.
        configs: What each was added with.
        calls: What was asked, in order.
        hold: Cleared: adding waits for it, as it does for a slow tool server.
        add_error: Raised instead of adding.
        remove_errors: Raised instead of removing, one each time.
        most: The greatest number of calls at once.
    """

    present: dict[Path, set[str]] = field(default_factory=dict)
    configs: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    add_error: Exception | None = None
    remove_errors: list[Exception] = field(default_factory=list)
    most: int = 0
    _now: int = 0

    def __post_init__(self) -> None:
        self.hold.set()

    def tools(self, folder: Path) -> set[str]:
        """Return what sessions in a folder see."""
        return set(self.present.get(folder, ()))

    async def add_tool_server(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.calls.append(f"+{name}")
        self.configs.append(config)
        self._now += 1
        self.most = max(self.most, self._now)
        # Goes on when its caller has gone, as opencode does.
        await asyncio.shield(asyncio.ensure_future(self._come_up(directory, name)))

    async def _come_up(self, directory: Path, name: str) -> None:
        await self.hold.wait()
        await asyncio.sleep(0)
        self._now -= 1
        if self.add_error is not None:
            raise self.add_error
        self.present.setdefault(directory, set()).add(name)

    async def remove_tool_server(self, directory: Path, name: str) -> None:
        self.calls.append(f"-{name}")
        await asyncio.sleep(0)
        if self.remove_errors:
            raise self.remove_errors.pop(0)
        self.present.get(directory, set()).discard(name)


async def settle(turns: int = 50) -> None:
    """Let everything happen that needs nobody else."""
    for _ in range(turns):
        await asyncio.sleep(0)
