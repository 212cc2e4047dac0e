"""One machine on which all engines play all scenarios, before the first comparison."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import uvicorn
from mcp.server import MCPServer

from chutes_opencode import Simulator
from chutes_opencode.supervisor import WORKSPACE_MARKER
from tests.integration.conformance.differences import ENGINES
from tests.integration.conformance.play import AT_ONCE, Outcome, Stage, account
from tests.integration.conformance.scenarios import SCENARIOS
from tests.integration.conftest import OURS, PROXIES

Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Leave it to `outcomes`: nothing is started by a single test."""


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest,
    opencode: Path,
    package_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """What came of each scenario on each engine: those that tests of this session ask for."""
    folder = tmp_path_factory.mktemp("conformance")
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "outcomes" in item.fixturenames
    }
    played = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    found: Outcomes = {}
    with _machine(folder, opencode, package_home) as stage:
        for engine in ENGINES:
            mine = [scenario for scenario in played if engine in scenario.engines]
            for name, outcome in stage.play(engine, mine).items():
                found[name, engine] = outcome
            assert _left(folder / "temp") == [], engine
    return found


@contextmanager
def _machine(folder: Path, opencode: Path, package_home: Path) -> Iterator[Stage]:
    """A machine that knows nothing of us, as each other test has it for itself."""
    accounts = {"extra_api_tokens": [account(engine) for engine in ENGINES]}
    with (
        pytest.MonkeyPatch.context() as patch,
        Simulator(accounts) as simulator,
        _remote() as remote,
    ):
        for name in os.environ:
            if name.startswith(OURS) or name.upper() in PROXIES:
                patch.delenv(name)
        for name, variable in (("home", "HOME"), ("temp", "TMPDIR"), ("cwd", "PWD")):
            (folder / name).mkdir()
            patch.setenv(variable, str(folder / name))
        patch.chdir(folder / "cwd")
        patch.setattr(tempfile, "tempdir", str(folder / "temp"))
        patch.setenv("CHUTES_OPENCODE_HOME", str(package_home))
        patch.setenv("CHUTES_OPENCODE_MAX_PROCESSES", str(AT_ONCE))
        patch.setenv("OPENCODE_BIN", str(opencode))
        patch.setenv("CHUTES_BASE_URL", simulator.base_url)
        patch.setenv("CHUTES_API_TOKEN", simulator.api_token)
        yield Stage(folder / "home", folder / "temp", simulator, remote)


@contextmanager
def _remote() -> Iterator[str]:
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
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/remote/mcp"
        finally:
            http.should_exit = True
            thread.join()


def _left(temp: Path) -> list[str]:
    """Return the files and processes of ours that are still there."""
    found = os.listdir(temp)  # noqa: PTH208 - hidden ones too
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            place = process.environ().get(WORKSPACE_MARKER, "")
            if place.startswith(f"{temp}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(str(process))
    return found
