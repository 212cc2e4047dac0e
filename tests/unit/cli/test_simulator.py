"""`simulator`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chutes_opencode import simulator as package
from chutes_opencode.simulator import FAULTS, Simulator
from tests.patience import WAIT_SECONDS

Run = Callable[..., Any]


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Simulator], None]], None]:
    """Have something done once the simulator has announced itself."""
    original = package.run_forever

    def install(then: Callable[[Simulator], None]) -> None:
        def run_forever(*args: Any, on_ready: Any, **options: Any) -> None:
            def ready(running: Simulator) -> None:
                on_ready(running)
                then(running)

            original(*args, on_ready=ready, **options)

        monkeypatch.setattr(package, "run_forever", run_forever)

    return install


def test_it_prints_what_a_client_needs_and_ends_on_sigterm(run: Run, visit: Any) -> None:
    seen: list[int] = []

    def use(running: Simulator) -> None:
        answer = httpx.get(f"{running.base_url}/models", trust_env=False, timeout=WAIT_SECONDS)
        seen.append(answer.status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    visit(use)
    before = signal.getsignal(signal.SIGTERM)

    result = run("simulator", "--json")

    assert (result.exit_code, seen) == (0, [200])
    shown = json.loads(result.stdout)
    assert shown["base_url"] == f"{shown['management_url']}/v1"
    assert shown["api_token"].startswith("cpk_")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_lines_can_be_given_to_a_shell(run: Run, visit: Any) -> None:
    visit(lambda running: os.kill(os.getpid(), signal.SIGTERM))

    result = run("simulator")

    url, token = result.stdout.splitlines()
    assert url.startswith("export CHUTES_BASE_URL=http://127.0.0.1:")
    assert token.startswith("export CHUTES_API_TOKEN=cpk_")
    assert "Ctrl-C" in result.stderr


def test_ctrl_c_ends_it_without_a_traceback(run: Run, visit: Any) -> None:
    def interrupt(running: Simulator) -> None:
        raise KeyboardInterrupt

    visit(interrupt)
    threads = threading.active_count()

    result = run("simulator", "--json")

    assert result.exit_code == 130
    assert set(json.loads(result.stdout)) == {"base_url", "api_token", "management_url"}
    assert result.stderr == ""
    assert threading.active_count() == threads


def test_list_faults_names_them_all(run: Run, run_json: Run) -> None:
    code, shown = run_json("simulator", "--list-faults")

    assert code == 0
    assert [fault["name"] for fault in shown["faults"]] == list(FAULTS)
    assert len(run("simulator", "--list-faults").stdout.splitlines()) == len(FAULTS) + 1


@pytest.mark.parametrize("content", [None, "not toml = = ", "unknown_field = 3"])
def test_a_bad_scenario_is_2(run: Run, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "scenario.toml"
    if content is not None:
        path.write_text(content)

    result = run("simulator", "--scenario", str(path))

    assert result.exit_code == 2
    assert str(path) in result.stderr


def test_a_port_in_use_is_2(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = run("simulator", "--port", str(taken.getsockname()[1]))

    assert result.exit_code == 2
    assert "Choose another port" in result.stderr
