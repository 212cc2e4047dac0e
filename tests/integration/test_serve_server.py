"""One warm opencode server: it starts, answers, is noticed to die, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ConfigurationError, Simulator, UnknownOpenCodeError
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines import server as server_module
from chutes_opencode.engines.pool import ServerPool
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import Launch, ServerPlan, prepare
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.opencode.binary import TESTED_VERSION, Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import SystemRule, Terms, Upstream
from chutes_opencode.request import PromptRequest
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS

MODEL = "sim/echo"
DENY = ({"permission": "*", "pattern": "*", "action": "deny"},)
ALLOW_READ = {"permission": "read", "pattern": "*", "action": "allow"}

CALLER = """
import asyncio, os, sys
from pathlib import Path
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import ServerPlan
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.server import shared_relay
from chutes_opencode.request import PromptRequest

async def main(binary, temp_root, seconds):
    plan = ServerPlan(
        owner="owner",
        request=PromptRequest(prompt="", model="sim/echo"),
        target=Target(find_provider("chutes"), "http://127.0.0.1:9/v1"),
        binary=Binary(Path(binary), "1.18.33"),
        inherited={"PATH": os.environ["PATH"]},
        temp_root=Path(temp_root),
        relay=shared_relay(),
    )
    server = await Server.start(plan, seconds=float(seconds))
    child = os.fork()
    if child == 0:
        return  # as a fork ends that knows nothing of us: normally
    os.waitpid(child, 0)
    assert server.workspace.root.is_dir(), "the fork has removed it"
    assert await server.api.healthy(float(seconds))
    print("started", flush=True)
    await server.died.wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def plan(opencode: Path, temp_folder: Path, simulator: Simulator, relay: Relay) -> ServerPlan:
    return ServerPlan(
        owner="owner",
        request=PromptRequest(prompt="", model=MODEL, system_message=""),
        target=Target(find_provider("chutes"), simulator.base_url, (Model(MODEL),)),
        binary=Binary(opencode, TESTED_VERSION),
        inherited={"PATH": os.environ["PATH"]},
        temp_root=Path(tempfile.gettempdir()),
        relay=relay,
    )


def terms(server: Server, simulator: Simulator) -> Terms:
    assert server.marker is not None
    return Terms(
        upstream=Upstream("chutes", simulator.base_url, lambda: simulator.api_token),
        prices={MODEL: None},
        model=MODEL,
        system=SystemRule(server.marker, "You are a test."),
    )


async def ask(server: Server, simulator: Simulator, folder: Path, text: str) -> list[Any]:
    """Run a prompt in a session of its own; return the session's messages."""
    assert server.lease is not None
    session_id = await server.api.create(folder, DENY)
    booking = server.lease.open(terms(server, simulator), session_id)
    await send(server, session_id, text)
    await booking.aclose()
    assert [exchange.status for exchange in booking.exchanges()] == [200]
    return await server.api.messages(session_id)


async def send(server: Server, session_id: str, text: str, model: str = MODEL) -> dict[str, Any]:
    return await server.api.send(
        session_id,
        agent="chutes",
        provider_id="chutes",
        model_id=model,
        parts=[{"type": "text", "text": text}],
    )


def test_a_server_answers_and_leaves_nothing(
    plan: ServerPlan,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leftovers: Callable[[], list[str]],
) -> None:
    folder = tmp_path / "a folder + a name"
    folder.mkdir()

    async def main() -> None:
        server = await Server.start(plan, seconds=PROCESS_SECONDS)
        try:
            await look(server)
        finally:
            await server.stop()
        assert leftovers() == [], "before the test ends"
        assert not server.alive
        assert server.returncode is not None

    async def look(server: Server) -> None:
        api = server.api
        messages = await ask(server, simulator, folder, "Ünïcödé \r\n {env:HOME}")
        assert [row["info"]["role"] for row in messages] == ["user", "assistant"]
        assert any("Ünïcödé \r\n {env:HOME}" in str(p.get("text")) for p in messages[1]["parts"])

        session_id = messages[0]["info"]["sessionID"]
        assert (await api.info(session_id))["directory"] == str(folder)
        assert (await api.info(session_id))["permission"] == list(DENY)
        with pytest.raises(ApiError) as raised:
            await send(server, session_id, "Hi", model="org/nobody")
        assert raised.value.body is not None
        explained = server.explain(raised.value.body["data"]["ref"])
        assert explained is not None
        assert "Model not found: chutes/org/nobody" in explained
        assert server.explain("err_unknown") is None
        assert server.stderr_tail() == ""
        assert (server.rss_mib() or 0.0) > 100

        await api.delete(session_id)
        await api.delete(session_id)
        with pytest.raises(ApiError) as raised:
            await api.info(session_id)
        assert raised.value.status == 404

    # Another's port is no obstacle.
    ports = iter([int(simulator.base_url.split(":")[2].split("/")[0])])
    free_port = server_module.free_port
    monkeypatch.setattr(server_module, "free_port", lambda: next(ports, None) or free_port())

    asyncio.run(main())


def test_a_server_that_is_killed_is_noticed_and_cleared_away(
    plan: ServerPlan, simulator: Simulator, leftovers: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        pool = ServerPool()
        async with pool.server(plan, "user") as server:
            assert server.lease is not None
            session_id = await server.api.create(server.folders.neutral, DENY)
            booking = server.lease.open(terms(server, simulator), session_id)
            sending = asyncio.create_task(send(server, session_id, "words " * 200))
            async with asyncio.timeout(WAIT_SECONDS):
                while not booking.exchanges():
                    await asyncio.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(ServerGoneError):
                await sending
            assert not server.alive, "the broken call tells of it"
            await asyncio.wait_for(server.died.wait(), WAIT_SECONDS)
            assert server.returncode == -signal.SIGKILL
            assert not await server.api.healthy(WAIT_SECONDS)
        await pool.close()
        assert leftovers() == []
        assert pool.stats().crashed == 1

    asyncio.run(main())


def test_a_config_that_opencode_refuses_is_told(plan: ServerPlan) -> None:
    def broken(workspace: Any) -> Launch:
        launch = prepare(replace(plan, prepare=None, relay=None), workspace, None)
        config = json.loads(launch.config) | {"provider": 3}
        return replace(launch, config=json.dumps(config))

    with pytest.raises(ConfigurationError, match="opencode refuses its config") as raised:
        asyncio.run(Server.start(replace(plan, prepare=broken), seconds=PROCESS_SECONDS))

    assert "Expected object" in raised.value.raw_message


def test_a_binary_that_cannot_be_run_is_told(plan: ServerPlan, tmp_path: Path) -> None:
    gone = replace(plan, binary=Binary(tmp_path / "no-opencode", TESTED_VERSION))

    with pytest.raises(ConfigurationError, match="no-opencode"):
        asyncio.run(Server.start(gone, seconds=PROCESS_SECONDS))


def test_a_program_that_ends_at_once_is_told_with_its_words(
    plan: ServerPlan, tmp_path: Path
) -> None:
    script = tmp_path / "opencode"
    script.write_text("#!/bin/sh\necho 'no memory for this' >&2\nexit 3\n")
    script.chmod(0o755)
    dying = replace(plan, binary=Binary(script, TESTED_VERSION))

    with pytest.raises(UnknownOpenCodeError, match="no memory for this"):
        asyncio.run(Server.start(dying, seconds=PROCESS_SECONDS))


def test_a_program_that_never_listens_is_ended_in_time(plan: ServerPlan, tmp_path: Path) -> None:
    script = tmp_path / "opencode"
    script.write_text("#!/bin/sh\nsleep 600\n")
    script.chmod(0o755)
    silent = replace(plan, binary=Binary(script, TESTED_VERSION))

    with pytest.raises(UnknownOpenCodeError, match="was not ready within 1 s"):
        asyncio.run(Server.start(silent, seconds=1.0))


def test_of_a_killed_caller_nothing_is_left_and_a_fork_of_it_takes_nothing_away(
    opencode: Path,
    run_python: Callable[..., Any],
    wait_until: Callable[..., None],
    processes: Callable[[str], list[Any]],
    leftovers: Callable[[], list[str]],
) -> None:
    arguments = (str(opencode), tempfile.gettempdir(), str(PROCESS_SECONDS))
    caller = run_python(CALLER, *arguments)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "started\n", caller.communicate()[1]
    assert processes("opencode") != []

    caller.kill()
    caller.wait()

    wait_until(lambda: leftovers() == [])
