"""A plain `opencode serve`: our config, but neither relay nor plugin."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.opencode.config import Target, build_config, key_placeholder, render_config
from chutes_opencode.opencode.workspace import Workspace, build_environment, temporary_workspace
from chutes_opencode.process import Command, Supervised
from chutes_opencode.request import PromptRequest
from chutes_opencode.settings import inherited_environment
from scripts.engine_bench.upstream import FAST, SLOW, Upstream

AGENT = "bench"
PROVIDER = "chutes"
DENIED = [{"permission": "*", "pattern": "*", "action": "deny"}]
_START_SECONDS = 60.0
_OUTPUT_CEILING = 32_000


@dataclass(frozen=True, slots=True)
class OpenCodeServer:
    """A server that answers.

    Attributes:
        url: Its root.
        headers: What lets a request in.
        new_session: The address to POST a session to, in the server's own folder.
    """

    url: str
    headers: dict[str, str]
    new_session: str


@asynccontextmanager
async def running_server(
    upstream: Upstream, binary: Path, folder: Path
) -> AsyncIterator[OpenCodeServer]:
    """Start `opencode serve` in a workspace below `folder`; end it with all that it started."""
    password, port = secrets.token_urlsafe(12), _free_port()
    with temporary_workspace(folder) as workspace:
        _write_config(workspace, upstream)
        env = build_environment(
            workspace,
            inherited_environment(),
            {},
            key=upstream.api_token,
            output_ceiling=_OUTPUT_CEILING,
        )
        command = Command(
            argv=(str(binary), "serve", "--hostname", "127.0.0.1", "--port", str(port)),
            env=env | {"OPENCODE_PURE": "1", "OPENCODE_SERVER_PASSWORD": password},
            cwd=workspace.work,
            stdout=workspace.file("stdout"),
            stderr=workspace.file("stderr"),
            workspace=workspace.root,
        )
        async with await Supervised.start(command):
            await _listening(command.stdout)
            url = f"http://127.0.0.1:{port}"
            login = base64.b64encode(f"opencode:{password}".encode()).decode()
            place = f"{url}/session?directory={quote(str(workspace.work), safe='')}"
            yield OpenCodeServer(url, {"authorization": f"Basic {login}"}, place)


def _write_config(workspace: Workspace, upstream: Upstream) -> None:
    target = Target(find_provider(PROVIDER), upstream.base_url, (Model(SLOW),))
    request = PromptRequest(
        prompt="", model=FAST, agent_name=AGENT, system_message="You are a helpful assistant."
    )
    key = key_placeholder()
    config = build_config(request, target, plugin=None, key=key)
    workspace.config.write_text(render_config(config, key=key))


async def _listening(stdout: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while "listening on" not in stdout.read_text():
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
