"""A running server, asked by hand, and what its prompts have shown."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from chutes_opencode import McpServer, Simulator
from chutes_opencode.background import Job
from chutes_opencode.engines.server import Server
from chutes_opencode.opencode.config import permission_rules, rule_list
from chutes_opencode.request import PromptRequest
from chutes_opencode.supervisor import WORKSPACE_MARKER
from tests.patience import wait_until

T = TypeVar("T")

TOOL_SERVER = """
import os, subprocess, sys, time
from mcp.server import MCPServer
server = MCPServer("tools")
subprocess.Popen(["sleep", os.environ["CHILD"]], start_new_session=True)

@server.tool()
def look() -> str:
    "Look around."
    hidden = ("OPENCODE_SERVER_PASSWORD", "CHUTES_OPENCODE_LEASE")
    return os.environ["MARK"] + str([os.environ[name] for name in hidden]) + os.getcwd()

@server.tool()
def other() -> str:
    "Do something else."
    return "done"

server.run("stdio")
"""


def tool_server(name: str = "my.tools", child: str = "7001", **options: Any) -> McpServer:
    """A local tool server that starts a process which does not end with it."""
    command = options.pop("command", (sys.executable, "-c", TOOL_SERVER))
    environment = {"MARK": "{env:HOME}", "CHILD": child}
    return McpServer(name, command=command, environment=environment, **options)


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


def bash(command: str) -> dict[str, Any]:
    return call("bash", command=command, description="d")


@dataclass
class Prompted:
    """What a prompt has shown.

    Attributes:
        session_id: Its session.
        calls: Name, status and output (or error) of each tool call.
        requests: The bodies of its model requests, by session: the first is its own.
    """

    session_id: str
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def tools(self, session_id: str = "") -> list[str]:
        """Return the names of the tools that a session was offered."""
        body = self.requests[session_id or self.session_id][0]
        return sorted(tool["function"]["name"] for tool in body.get("tools", ()))


class Stage:
    """A running server and its simulator."""

    def __init__(self, server: Server, simulator: Simulator) -> None:
        self.server = server
        self.simulator = simulator

    @asynccontextmanager
    async def place(self, **fields: Any) -> AsyncIterator[Path]:
        async with self.server.folders.place(asked(**fields)) as folder:
            yield folder

    async def session(self, folder: Path, **fields: Any) -> str:
        """Make a session with the rules of such a prompt."""
        outputs = self.server.workspace.data / "tool-output"
        rules = rule_list(permission_rules(asked(**fields)), outputs=outputs)
        return await self.server.api.create(folder, rules)

    async def send(self, session_id: str, *steps: Mapping[str, Any]) -> None:
        script = json.dumps({"steps": [*steps, {"text": "end"}]})
        await self.server.api.send(
            session_id,
            agent="chutes",
            provider_id="chutes",
            model_id="sim/script",
            parts=[{"type": "text", "text": script}],
        )

    async def prompt(self, folder: Path, *steps: Mapping[str, Any], **fields: Any) -> Prompted:
        """Run a prompt in a folder; return what it has shown."""
        session_id = await self.session(folder, **fields)
        await self.send(session_id, *steps)
        prompted = Prompted(session_id, await self.calls(session_id))
        children = await self.server.api._call("GET", f"/session/{session_id}/children")
        family = (session_id, *(child["id"] for child in children))
        for request in self.simulator.requests:
            own = {name.lower(): value for name, value in request.headers.items()}
            if own.get("x-session-id") in family:
                bodies = prompted.requests.setdefault(own["x-session-id"], [])
                bodies.append(json.loads(request.body))
        return prompted

    async def calls(self, session_id: str) -> list[tuple[str, str, str]]:
        messages = await self.server.api.messages(session_id)
        parts = [part for message in messages for part in message["parts"]]
        states = [(part["tool"], part["state"]) for part in parts if part["type"] == "tool"]
        return [
            (tool, state["status"], state.get("output") or state.get("error", ""))
            for tool, state in states
        ]

    def asleep(self) -> set[str]:
        """Return the arguments of all `sleep` processes that descend from the server."""
        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                root = process.environ().get(WORKSPACE_MARKER)
                if root == str(self.server.workspace.root) and process.name() == "sleep":
                    found.add(process.cmdline()[1])
        return found

    async def sleep_only(self, *arguments: str) -> None:
        """Wait until these are the processes that sleep."""
        await asyncio.to_thread(wait_until, lambda: self.asleep() == {*arguments}, pause=0.1)


def asked(**fields: Any) -> PromptRequest:
    return PromptRequest(**{"prompt": "", "model": "sim/script"} | fields)


def on_loop(scene: Coroutine[Any, Any, T]) -> T:
    """Run something on the loop to which the server belongs."""
    return Job(scene).result()
