"""The command `batch` as people use it: a process of its own, warm servers, signals."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.running.status import read_status
from tests.patience import PROCESS_SECONDS

Start = Callable[..., subprocess.Popen[str]]

MAIN = "from chutes_opencode.cli.app import main; main()"
# A quarter of a second before each of its words.
SLOW = "sim/fault/slow-tokens"
STUCK = "sim/fault/stream-stall-first-byte"


@pytest.fixture
def items(temp_folder: Path) -> Callable[..., str]:
    """Write items into a file of the current folder."""

    def write(count: int, model: str | None = None, words: int = 1) -> str:
        rows = [
            {"id": f"q{number}", "prompt": f"number {number}" + " word" * words, "model": model}
            for number in range(count)
        ]
        Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "items.jsonl"

    return write


@pytest.fixture
def start(run_python: Start) -> Start:
    """Start `batch …` as a process of its own."""

    def call(*arguments: str) -> subprocess.Popen[str]:
        return run_python(MAIN, "batch", *arguments)

    return call


@pytest.fixture
def call(start: Start) -> Callable[..., tuple[int, str, str]]:
    """Run `batch …` to its end; return its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        process = start(*arguments)
        out, err = process.communicate(timeout=PROCESS_SECONDS)
        return process.returncode, out, err

    return run


def in_flight() -> int:
    """How many prompts the run in `out` has in flight, as its folder tells."""
    told = read_status(Path("out"))
    return 0 if told is None else told.snapshot.in_flight


def state() -> str:
    told = read_status(Path("out"))
    return "" if told is None else told.snapshot.state


def result_ids() -> list[str]:
    return [json.loads(line)["id"] for line in Path("out/results.jsonl").read_text().splitlines()]


def test_a_batch_on_warm_servers_from_its_estimate_to_its_report(
    items: Callable[..., str], call: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = (items(4), "-o", "out", "--simulate", "--engine", "serve")

    estimated, told, _ = call("estimate", *arguments)
    ran, out, err = call("run", *arguments, "--max-cost", "1", "--report")
    again, _, nothing = call("run", *arguments)
    exported, table, _ = call("export", "out", "--format", "csv")

    assert (estimated, ran, again, exported) == (0, 0, 0, 0), err
    assert "4 items, 4 prompts, 4 to run" in told
    assert "was measured: 3 prompts were run with engine serve" in told
    assert out == "out/results.jsonl\n"
    assert "4 answers, 0 failed, 0 left" in err
    assert "nothing is left to do: 4 prompts done before" in nothing
    assert sorted(result_ids()) == ["q0", "q1", "q2", "q3"]
    assert table == "out/results.csv\n"
    assert Path("out/report.html").exists()
    assert state() == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_runs_and_the_same_command_goes_on(
    items: Callable[..., str],
    start: Start,
    call: Callable[..., tuple[int, str, str]],
    wait_until: Callable[..., None],
    number: signal.Signals,
) -> None:
    arguments = ("run", items(6, SLOW, words=30), "-o", "out", "--simulate", "--engine", "direct")
    limited = (*arguments, "--no-tools", "--concurrency", "2")
    process = start(*limited)
    wait_until(lambda: in_flight() == 2)

    process.send_signal(number)
    _, err = process.communicate(timeout=PROCESS_SECONDS)

    assert process.returncode == 130, err
    assert "prompts in flight; Ctrl-C again to stop now" in err
    done = result_ids()
    assert 2 <= len(done) < 6
    assert f"{6 - len(done)} prompts left" in err or f"{6 - len(done)} prompt left" in err

    code, _, err = call(*limited)

    assert code == 0, err
    assert sorted(result_ids()) == [f"q{number}" for number in range(6)]
    assert result_ids()[: len(done)] == done, "what was done was not done again"


def test_a_second_interrupt_stops_at_once_and_leaves_nothing_behind(
    items: Callable[..., str],
    start: Start,
    wait_until: Callable[..., None],
    processes: Callable[[str], list[Any]],
) -> None:
    arguments = ("run", items(4, STUCK), "-o", "out", "--simulate", "--engine", "serve")
    process = start(*arguments, "--concurrency", "2")
    wait_until(lambda: in_flight() == 2 and processes("opencode"))

    process.send_signal(signal.SIGINT)
    wait_until(lambda: state() == "stopping")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PROCESS_SECONDS)

    assert process.returncode == 130, err
    assert "stopping now; what is in flight runs again with the next resume" in err
    assert result_ids() == []
    assert state() == "stopped"
    wait_until(lambda: not processes("opencode"))


def test_a_folder_that_is_in_use_names_the_process(
    items: Callable[..., str],
    start: Start,
    call: Callable[..., tuple[int, str, str]],
    wait_until: Callable[..., None],
) -> None:
    arguments = ("run", items(2, STUCK), "-o", "out", "--simulate", "--engine", "direct")
    process = start(*arguments, "--no-tools")
    wait_until(lambda: in_flight() == 2)

    code, out, err = call(*arguments, "--no-tools")
    process.kill()
    process.communicate(timeout=PROCESS_SECONDS)

    assert (code, out) == (2, "")
    assert f"out is in use: process {process.pid} runs a batch there" in err
    _, shown, _ = call("status", "out", "--json")
    assert (json.loads(shown)["state"], json.loads(shown)["pid"]) == ("broken off", None)
