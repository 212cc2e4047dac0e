"""Prompts that differ in all that may differ share one warm server; each shows its own only."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from mcp.server import MCPServer

from chutes_opencode import (
    ChutesOpenCodeLLM,
    McpServer,
    Params,
    QueryResult,
    Simulator,
)
from chutes_opencode.background import Job
from chutes_opencode.engines.pool import shared_pool
from chutes_opencode.engines.server import Server
from chutes_opencode.relay.server import shared_relay
from chutes_opencode.simulator.recording import RecordedRequest

# 50 are asked for in the issue.
PROMPTS = int(os.environ.get("CHUTES_OPENCODE_TEST_PROMPTS", "10"))
KINDS = 5
MARK = re.compile(r"mark-(\d{3})-")


@pytest.fixture
def remote() -> Iterator[str]:
    """The URL of a tool server with one tool."""
    server = MCPServer("remote")

    @server.tool()
    def note(text: str) -> str:
        """Take a note."""
        return f"noted {text}"

    app = server.streamable_http_app(streamable_http_path="/remote/mcp", stateless_http=True)
    http = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=http.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/remote/mcp"
        http.should_exit = True
        thread.join()


class Guest:
    """A prompt of its own kind.

    Kinds: 0 has no tools, 1 a folder and a sub-agent, 2 a denied tool and a sub-agent, 3 a tool
    server, 4 a folder and a tool server.
    """

    def __init__(self, number: int, folder: Path, remote: str) -> None:
        self.number = number
        self.mark = f"mark-{number:03}-"
        self.kind = number % KINDS
        self.denied = ("bash", "edit")[number % 2] if self.kind == 2 else None
        self.server = f"server{number:03}" if self.kind in (3, 4) else None
        self.params = (number / 1000, number, 1000 + number)
        self._remote = remote
        self._folder = folder / self.mark if self.kind in (1, 4) else None
        if self._folder is not None:
            self._folder.mkdir()

    async def ask(self) -> QueryResult:
        temperature, seed, max_tokens = self.params
        llm = ChutesOpenCodeLLM(
            "sim/script",
            f"{self.mark} You are number {self.number}.",
            engine="serve",
            builtin_tools=self.kind != 0,
            permission={self.denied: "deny"} if self.denied else None,
            work_dir=self._folder,
            params=Params(temperature=temperature, seed=seed, max_tokens=max_tokens),
        )
        tools = [McpServer(self.server, url=self._remote)] if self.server else []
        return await llm.aprompt(f"{self.mark} {dumps({'steps': self._steps()})}", tools=tools)

    def _steps(self) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        if self._folder is not None:
            command = {"command": f"echo {self.mark} > f; pwd; ls", "description": "d"}
            steps.append({"tool": "bash", "arguments": command})
        if self.server:
            steps.append({"tool": f"{self.server}_note", "arguments": {"text": self.mark}})
        if self.kind in (1, 2):
            task = {"description": "d", "subagent_type": "general", "prompt": self._sub_prompt}
            steps.append({"tool": "task", "arguments": task})
        return [*steps, {"text": self.answer}]

    @property
    def answer(self) -> str:
        return f"{self.mark} answer"

    @property
    def _sub_prompt(self) -> str:
        return f"{self.mark} sub {dumps({'steps': [{'text': f'{self.mark} sub-answer'}]})}"

    def flaws(self, request: RecordedRequest) -> list[str]:
        """Tell what a model request of this prompt shows that it should not, or does not show."""
        body, found = request.json, []
        marks = {int(mark) for mark in MARK.findall(request.body.decode())}
        if marks != {self.number}:
            found.append(f"the marks of {marks}")
        if (body.get("temperature"), body.get("seed"), body.get("max_tokens")) != self.params:
            found.append("other params")
        system = [message["content"] for message in body["messages"] if message["role"] == "system"]
        own = f"{self.mark} You are number {self.number}."
        if not request.parent_session_id and not system[0].startswith(own):
            found.append(f"the system message {system[0][:80]!r}")
        tools = {tool["function"]["name"] for tool in body.get("tools", ())}
        if {tool for tool in tools if tool.startswith("server")} != (
            {f"{self.server}_note"} if self.server else set()
        ):
            found.append(f"the tools {tools}")
        if bool(tools) == (self.kind == 0) or (self.denied in tools):
            found.append(f"the tools {tools} in spite of {self.denied}")
        return found


def test_each_of_many_different_prompts_shows_its_own_only(
    simulator: Simulator, remote: str, tmp_path: Path
) -> None:
    guests = [Guest(number, tmp_path, remote) for number in range(PROMPTS)]
    before = ChutesOpenCodeLLM.engine_stats().started

    async def main() -> list[QueryResult]:
        return await asyncio.gather(*(guest.ask() for guest in guests))

    try:
        results = asyncio.run(main())
        assert ChutesOpenCodeLLM.engine_stats().started == before + 1
        (server,) = (held.server for held in shared_pool()._held)
        assert refusals(server, known=str(results[0].session_id)) == [422] * 4
    finally:
        Job(shared_pool().close()).result()

    assert [result.result for result in results] == [guest.answer for guest in guests]
    for guest, result in zip(guests, results, strict=True):
        assert {int(mark) for mark in MARK.findall(result.stream_result)} <= {guest.number}
    owners = {result.session_id: guest for result, guest in zip(results, guests, strict=True)}
    asked = [request for request in simulator.requests if request.path.endswith("/completions")]
    assert [
        flaw
        for request in asked
        for flaw in owners[request.parent_session_id or request.session_id].flaws(request)
    ] == []
    subs = Counter(owners[one.parent_session_id].kind for one in asked if one.parent_session_id)
    assert subs == Counter(guest.kind for guest in guests if guest.kind in (1, 2))


def refusals(server: Server, *, known: str) -> list[int]:
    """Ask as a tool of an agent could: with the server's key and marker, but no open prompt's."""
    assert server.lease is not None
    messages = [{"role": "system", "content": server.marker}, {"role": "user", "content": "Hi"}]
    body = {"model": "sim/echo", "messages": messages, "stream": True}
    sessions: list[dict[str, str]] = [
        {},
        {"x-session-id": "ses_unknown"},
        {"x-session-id": "ses_unknown", "x-parent-session-id": "ses_unknown_too"},
        {"x-session-id": known},
    ]
    return [
        httpx.post(
            f"{shared_relay().url}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {server.lease.key}", **session},
            trust_env=False,
        ).status_code
        for session in sessions
    ]


def test_isolated_prompts_have_a_process_each(simulator: Simulator) -> None:
    with ChutesOpenCodeLLM("sim/echo", engine="serve", isolation="prompt") as llm:
        before = llm.engine_stats().started
        results = llm.batch(["one", "two"], 2)
        assert [result.result for result in results] == ["one", "two"]
        assert llm.engine_stats().started == before + 2
        assert llm.engine_stats().servers == 0
        assert llm.relay_stats().leases == 0
