"""Run the command line in this process, in an environment that holds nothing of the developer's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from chutes_opencode.cli.app import app

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
