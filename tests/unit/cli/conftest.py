"""Run the command line in this process, in an environment that holds nothing of the developer's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from chutes_opencode.cli import prompt
from chutes_opencode.cli.app import app
from chutes_opencode.loopback import Receive, Scope, Send, serve
from tests.unit.cli.fake_llm import FakeLLM

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, an empty current folder, and no variable that means anything to us."""
    for name in list(os.environ):
        if name.startswith(("CHUTES_", "OPENCODE_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("home", "project", "tmp", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Run:
    """Call the command line: `run("config", "show", input="…")`."""

    def call(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(app, list(args), prog_name="chutes-opencode", **options)

    return call


@pytest.fixture
def run_json(run: Run) -> Callable[..., tuple[int, Any]]:
    """Call it with `--json` and return the exit code and the one object on stdout."""

    def call(*args: str, **options: Any) -> tuple[int, Any]:
        result = run(*args, "--json", **options)
        return result.exit_code, json.loads(result.stdout)

    return call


@pytest.fixture
def llm(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    """What the command `prompt` asks."""
    fake = FakeLLM()
    monkeypatch.setattr(prompt, "open_llm", fake.open)
    return fake


class ModelServer:
    """A Chutes that lists what a test says, or fails."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.status = 200
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        body = json.dumps({"data": self.rows}).encode() if self.status == 200 else b"<html>"
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A provider on this machine, which the settings name, with a key."""
    app = ModelServer()
    with serve(app) as running:
        monkeypatch.setenv("CHUTES_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("CHUTES_API_TOKEN", "cpk_cli_test_0001")
        yield app


@pytest.fixture
def no_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens where the settings point to."""
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:9/v1")
