"""Tool servers (MCP): really called, and an error when they are not there."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from mcp.server import MCPServer

from chutes_opencode import ChutesOpenCodeLLM, McpServer, Simulator, ToolServerError
from tests.patience import WAIT_SECONDS

LOCAL = """
import os
from mcp.server import MCPServer
server = MCPServer("local")

@server.tool()
def shout(text: str) -> str:
    "Shout."
    keys = [name for name, value in os.environ.items() if "cpk_" in value]
    return f"{text.upper()}{os.environ['MARK']}{keys}"

server.run("stdio")
"""


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": [*steps, {"text": "end"}]})


@pytest.fixture
def heard() -> list[str]:
    """What the remote server was told."""
    return []


@pytest.fixture
def remote(heard: list[str]) -> Iterator[str]:
    """The URL of a remote server with one tool, at `/my.tools/mcp`."""
    server = MCPServer("remote")

    @server.tool()
    def note(text: str) -> str:
        """Take a note."""
        heard.append(text)
        return f"noted {text}"

    app = server.streamable_http_app(streamable_http_path="/my.tools/mcp", stateless_http=True)
    http = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=http.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/my.tools/mcp"
        http.should_exit = True
        thread.join()


def test_servers_by_name_hostname_port_and_by_command_are_called(
    simulator: Simulator, remote: str, heard: list[str]
) -> None:
    node = SimpleNamespace(name="my.tools", hostname="127.0.0.1", port=urlsplit(remote).port)
    local = McpServer(
        "local",
        command=(sys.executable, "-c", LOCAL),
        environment={"MARK": "!{env:HOME}"},
        timeout_seconds=WAIT_SECONDS,
    )
    llm = ChutesOpenCodeLLM("sim/script", tools=[node, local], builtin_tools=False, retries=1)

    result = llm.prompt(
        script(
            call("my_tools_note", text="hello {env:HOME}"),
            call("local_shout", text="hello"),
        )
    )

    noted, shouted = result.transcript.tool_calls
    (first, *_) = (json.loads(request.body) for request in simulator.requests if request.body)
    assert result.result == "end"
    assert heard == ["hello {env:HOME}"]
    assert noted.output == "noted hello {env:HOME}"
    assert shouted.output == "HELLO!{env:HOME}[]"
    assert sorted(tool["function"]["name"] for tool in first["tools"]) == [
        "local_shout",
        "my_tools_note",
    ]


def test_tools_of_a_prompt_replace_those_of_the_instance(
    simulator: Simulator, remote: str, heard: list[str]
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", tools=[McpServer("dead", command=("false",))], retries=1)
    server = McpServer("other", url=remote, headers={"X-A": "{env:HOME}"})

    result = llm.prompt(script(call("other_note", text="x")), tools=[server])

    assert (result.result, heard) == ("end", ["x"])


@pytest.fixture
def silent() -> Iterator[int]:
    """A port at which somebody listens and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda silent: McpServer("broken", url="http://127.0.0.1:9/mcp"),
        lambda silent: McpServer("broken", command=("/nowhere/to/be/found",)),
        lambda silent: McpServer("broken", command=(sys.executable, "-c", "exit(3)")),
        lambda silent: McpServer("broken", command=("/bin/sleep", "600"), timeout_seconds=2),
        lambda silent: McpServer("broken", url=f"http://127.0.0.1:{silent}/mcp", timeout_seconds=2),
    ],
    ids=["refused", "no program", "exits", "silent program", "silent port"],
)
def test_a_server_that_is_not_there_is_an_error_before_anything_is_spent(
    simulator: Simulator, silent: int, make: Callable[[int], McpServer]
) -> None:
    llm = ChutesOpenCodeLLM("sim/echo", tools=[make(silent)], retries=3)

    with pytest.raises(ToolServerError, match="broken") as raised:
        llm.prompt("hello")

    assert not [r for r in simulator.requests if r.path != "/v1/models"]
    assert raised.value.result is not None
    assert (raised.value.result.usage.num_requests, raised.value.result.cost_usd) == (0, 0.0)
    assert raised.value.result.duration_s < 300
