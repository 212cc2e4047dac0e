"""`chutes-opencode batch run --on ray` as people use it: a process of its own, three nodes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from chutes_opencode.batch.running.status import read_status
from chutes_opencode.batch.store.folder import open_folder
from chutes_opencode.simulator import Simulator
from tests.distributed.batch_room import is_begun_on
from tests.distributed.nodes import Nodes
from tests.patience import PROCESS_SECONDS

MAIN = "from chutes_opencode.cli.app import main; main()"
MODEL = "Qwen/Qwen3-32B-TEE"
# A quarter of a second before each of its words.
SLOW = "sim/fault/slow-tokens"

RunDriver = Callable[..., subprocess.Popen[str]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def start(run_driver: RunDriver, tmp_path: Path) -> RunDriver:
    """Start `batch …` beside the cluster."""

    def call(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        (tmp_path / "driver.log").unlink(missing_ok=True)
        return run_driver(MAIN, "batch", *arguments, **variables)

    return call


@pytest.fixture
def call(start: RunDriver, tmp_path: Path) -> Callable[..., Ended]:
    """Run `batch …` to its end."""

    def run(*arguments: str, **variables: str) -> Ended:
        process = start(*arguments, **variables)
        out, _ = process.communicate(timeout=PROCESS_SECONDS)
        return Ended(process.returncode, out, (tmp_path / "driver.log").read_text())

    return run


def write_items(path: Path, count: int, **columns: str) -> str:
    rows = ({"id": f"q{n}", "prompt": f"What is {n} + {n}?", **columns} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_batch_on_three_nodes_reads_as_one(
    nodes: Nodes,
    simulator: Simulator,
    start: RunDriver,
    call: Callable[..., Ended],
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    out = str(tmp_path / "out")
    items = write_items(tmp_path / "items.jsonl", 24)
    serve = (items, "-o", out, "--model", MODEL, "--engine", "serve", "--no-tools", "--on", "ray")

    with simulator.held():  # or the first worker would do it all
        driver = start("run", *serve, "--concurrency", "4", "--max-cost", "1", "--report")
        wait_until(lambda: is_begun_on(nodes, tmp_path / "out"))
    printed, _ = driver.communicate(timeout=PROCESS_SECONDS)
    ran = Ended(driver.returncode, printed, (tmp_path / "driver.log").read_text())
    again = call("run", *serve)
    status = json.loads(call("status", out, "--json").out)
    exported = call("export", out, "--format", "jsonl", "--out", "-")

    assert (ran.code, again.code, exported.code) == (0, 0, 0), ran.err
    assert ran.out == f"{out}\n", "results are in more than one file"
    assert "24 answers, 0 failed, 0 left" in ran.err
    assert ", 3 workers" in ran.err
    assert "nothing is left to do: 24 prompts done before" in again.err
    results = [json.loads(line) for line in exported.out.splitlines()]
    assert sorted(each["id"] for each in results) == sorted(f"q{n}" for n in range(24))
    assert {each["result"] for each in results} == {str(2 * n) for n in range(24)}
    assert (status["state"], status["done"] + status["skipped"]) == ("finished", 24)
    assert (tmp_path / "out" / "report.html").exists()


def test_a_url_holds_a_run_as_a_folder_does(
    nodes: Nodes, call: Callable[..., Ended], tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/bucket/run"
    items = write_items(tmp_path / "items.jsonl", 6)
    plain = ("--simulate", "--engine", "direct", "--no-tools")

    ran = call("run", items, "-o", url, *plain, "--on", "ray", "--json")
    here = call("run", items, "-o", str(tmp_path / "here"), *plain)
    status = call("status", url)
    compared = json.loads(call("diff", url, str(tmp_path / "here"), "--json").out)

    shown = json.loads(ran.out)
    assert (ran.code, here.code) == (0, 0), ran.err
    assert (shown["place"], shown["results"], shown["resent"]) == (url, url, 0)
    assert "6 of 6 prompts, 100 %" in status.out
    assert (compared["both"], compared["same_text"]) == (6, 6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_runs_on_the_cluster_and_the_same_command_goes_on(
    nodes: Nodes,
    start: RunDriver,
    call: Callable[..., Ended],
    tmp_path: Path,
    wait_until: Callable[..., None],
    number: signal.Signals,
) -> None:
    # So many that the run is far from its end when it is first seen to be under way.
    items = write_items(tmp_path / "items.jsonl", 120, model=SLOW)
    out = tmp_path / "out"
    plain = ("--simulate", "--engine", "direct", "--no-tools", "--on", "ray")
    arguments = ("run", items, "-o", str(out), *plain, "--concurrency", "2")

    def in_flight() -> int:
        told = read_status(out)
        return 0 if told is None else told.snapshot.in_flight

    process = start(*arguments)
    wait_until(lambda: in_flight() > 1)
    process.send_signal(number)
    process.communicate(timeout=PROCESS_SECONDS)
    err = (tmp_path / "driver.log").read_text()
    done = [record.id for record in open_folder(str(out)).records()]
    resumed = call(*arguments)

    assert process.returncode == 130, err
    assert "in flight; Ctrl-C again to stop now" in err
    assert resumed.code == 0, resumed.err
    ids = [record.id for record in open_folder(str(out)).records()]
    assert sorted(ids) == sorted(f"q{n}" for n in range(120))
    assert set(done) <= set(ids)
    assert not list(open_folder(str(out)).attempts()), "what was done was not done again"


@pytest.fixture
def alone(machine: Path) -> dict[str, str]:
    """A machine on which only a file is left of a cluster; and nobody has said a word of tokens."""
    (machine / "alone" / "home").mkdir(parents=True, exist_ok=True)
    (machine / "alone" / "ray").mkdir(exist_ok=True)
    (machine / "alone" / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    folder = str(machine / "alone")
    return {"HOME": f"{folder}/home", "RAY_TMPDIR": folder, "RAY_ADDRESS": ""}


def test_a_trial_starts_ray_here_and_leaves_nothing_behind(
    nodes: Nodes, call: Callable[..., Ended], tmp_path: Path, alone: dict[str, str]
) -> None:
    items = write_items(tmp_path / "items.jsonl", 4)
    plain = ("--simulate", "--engine", "direct", "--no-tools", "--on", "ray")
    arguments = ("run", items, "-o", str(tmp_path / "out"), *plain)

    ran = call(*arguments, **alone)
    again = call(*arguments, **alone)
    missing = call("run", "nowhere.jsonl", "-o", str(tmp_path / "none"), *plain, **alone)

    assert (ran.code, again.code, missing.code) == (0, 0, 2), ran.err + again.err + missing.err
    assert "the Ray cluster at 127.0.0.1:1 is gone" in ran.err
    assert "starting Ray on this machine …" in ran.err
    assert "4 answers, 0 failed, 0 left" in ran.err
    assert "uthentication" not in ran.err, "Ray's own lines say nothing to people"
    assert not (Path(alone["HOME"]) / ".ray").exists(), "a token would shut out later clusters"
    assert "nothing is left to do" in again.err
    for early in (again, missing):
        assert "starting Ray" not in early.err


def test_a_signal_is_answered_while_ray_starts(
    nodes: Nodes,
    start: RunDriver,
    tmp_path: Path,
    alone: dict[str, str],
    wait_until: Callable[..., None],
) -> None:
    items = write_items(tmp_path / "items.jsonl", 4)
    plain = ("--simulate", "--engine", "direct", "--no-tools", "--on", "ray")
    log = tmp_path / "driver.log"

    process = start("run", items, "-o", str(tmp_path / "out"), *plain, **alone)
    wait_until(lambda: log.exists() and "starting Ray on this machine" in log.read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PROCESS_SECONDS)

    assert process.returncode == 130, log.read_text()
    assert "the same command again runs the 4 prompts left" in log.read_text()


def test_a_cluster_that_is_not_there_is_named_with_the_way_to_one(
    nodes: Nodes, call: Callable[..., Ended], tmp_path: Path
) -> None:
    items = write_items(tmp_path / "items.jsonl", 1)
    out = tmp_path / "out"
    arguments = ("run", items, "-o", str(out), "--simulate", "--on", "ray")

    ended = call(*arguments, "--address", "127.0.0.1:1")

    assert (ended.code, ended.out, out.exists()) == (2, "", False)
    assert "error: no Ray cluster at '127.0.0.1:1'" in ended.err
    assert "fix: Start a cluster with `ray start --head`" in ended.err
    assert "Traceback" not in ended.err
