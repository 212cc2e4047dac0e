"""Whatever dies, and more than once: each id has one result, limits and dollars hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from chutes_opencode import ChutesOpenCodeLLM, Params, WorkerLostError
from chutes_opencode.batch.running.in_flight import read_in_flight
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.distributed.batches import ray_batch
from chutes_opencode.distributed.limiter.limiter_actor import NAMESPACE, actor_name
from chutes_opencode.distributed.pool import PromptPool
from tests.distributed.batch_room import (
    StartSimulator,
    Wait,
    answers,
    asked,
    direct,
    ended,
    is_begun_on,
    items,
    results,
    under_way,
    warm,
    write_items,
)
from tests.distributed.nodes import Nodes
from tests.patience import PROCESS_SECONDS, join

MAIN = "from chutes_opencode.cli.app import main; main()"
SOME = {"first_byte_delay_s": 0.5}
NARROW = {"requests_per_minute": 60, "max_concurrency": 4, **SOME}

RunDriver = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def call(run_driver: RunDriver) -> Callable[..., str]:
    """Run a command of `batch` in a process of its own, and return what it prints."""

    def run(*arguments: str) -> str:
        process = run_driver(MAIN, "batch", *arguments)
        out, _ = process.communicate(timeout=PROCESS_SECONDS)
        assert process.returncode == 0
        return out

    return run


def limiter() -> Any:
    """The one limiter that there is."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    (name,) = [each["name"] for each in actors if each["name"].startswith(actor_name(""))]
    return ray.get_actor(name, NAMESPACE)


@pytest.fixture
def lone_limiter(nodes: Nodes) -> Iterator[Callable[[], Any]]:
    """What tells the limiter of this test; that of tests before, and what it learnt, is gone."""
    _end_limiters()
    yield limiter
    _end_limiters()


def _end_limiters() -> None:
    for each in ray.util.list_named_actors(all_namespaces=True):
        if each["name"].startswith(actor_name("")):
            ray.kill(ray.get_actor(each["name"], NAMESPACE))


def shares(out: Path) -> Counter[str]:
    """Count the answers of each node, by the first letters of its id."""
    told: Counter[str] = Counter()
    for path in (out / "shards").glob("*/results-*.jsonl"):
        told[path.parent.name[:8]] += len(path.read_bytes().splitlines())
    return told


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(
        each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes
    )


def test_narrow_limits_hold_for_all_nodes_while_the_limiter_dies_twice(
    nodes: Nodes,
    start_simulator: StartSimulator,
    lone_limiter: Callable[[], Any],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    simulator = start_simulator(NARROW)
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False)
    out = tmp_path / "run"

    with under_way(partial(ray_batch, items(90), llm, out)) as batch:
        wait_until(lambda: asked(simulator).total() >= 20)
        ray.kill(lone_limiter())  # for good: another one has to be made
        wait_until(lambda: asked(simulator).total() >= 45)
        process = lone_limiter().__ray_call__.remote(lambda _: os.getpid())
        os.kill(ray.get(process), signal.SIGKILL)  # Ray starts it again
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left, summary.resent) == (90, 0, 0, 0)
    assert results(out) == answers(90)
    assert asked(simulator).total() <= 1.3 * 90
    assert set(shares(out)) == {node_id[:8] for node_id in nodes.ids}
    assert min(shares(out).values()) >= 90 / 3 / 2, "no node starves"
    wait_until(lambda: ray.get(lone_limiter().held.remote()) == {})


def test_a_node_and_a_worker_of_another_die_in_one_run(
    nodes: Nodes,
    start_simulator: StartSimulator,
    call: Callable[..., str],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    simulator = start_simulator(SOME)
    out, (_, hurt, lost) = tmp_path / "run", nodes.ids

    with under_way(partial(ray_batch, items(90), warm(), out, concurrency=4)) as batch:
        with simulator.held():
            wait_until(lambda: asked(simulator).total() == 3 * 4)
        wait_until(lambda: asked(simulator).total() >= 20)
        with simulator.held():
            orphans = nodes.processes("opencode", hurt)
            (worker,) = nodes.workers(hurt)
            nodes.kill_raylet(lost)
            worker.kill()
            wait_until(lambda: are_gone(orphans))
            assert not batch.done(), "nothing was orphaned while the batch went on"
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left) == (90, 0, 0)
    assert results(out) == answers(90)
    exported = call("export", str(out), "--format", "jsonl", "--out", "-").splitlines()
    rows = [(row["id"], row["result"]) for row in map(json.loads, exported)]
    assert sorted(rows) == sorted(answers(90).items())
    assert asked(simulator).total() - 90 <= summary.resent <= 8
    wait_until(lambda: nodes.processes("opencode") == [])


def test_a_driver_that_is_killed_is_seen_from_elsewhere_and_the_same_command_goes_on(
    nodes: Nodes,
    start_simulator: StartSimulator,
    run_driver: RunDriver,
    call: Callable[..., str],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    simulator = start_simulator(SOME)
    rows, out = write_items(tmp_path / "items.jsonl", 90), tmp_path / "run"
    plain = ("--model", "sim/script", "--engine", "direct", "--no-tools")
    on_ray = ("--on", "ray", "--address", "auto", "--concurrency", "2")
    run = ("run", str(rows), "-o", str(out), *plain, *on_ray)

    def status() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(call("status", str(out), "--json"))
        return told

    def workers() -> int:
        told = read_status(out)
        return 0 if told is None else told.snapshot.workers

    driver = run_driver(MAIN, "batch", *run)
    with simulator.held():
        wait_until(lambda: workers() == 3)
    wait_until(lambda: asked(simulator).total() >= 10)
    with simulator.held():
        running = status()
        wait_until(lambda: read_in_flight(out) == asked(simulator).total() - len(results(out)) == 6)
        driver.kill()
        driver.communicate()
        wait_until(lambda: not any(nodes.workers(each) for each in nodes.ids))
        killed, before = status(), set(results(out))
    call(*run)
    finished = status()

    assert (running["state"], running["workers"]) == ("running", 3)
    assert running["total"] == running["done"] + running["left"] == 90
    assert (killed["state"], killed["pid"]) == ("broken off", None)
    assert running["done"] <= killed["done"] == len(before) < 90
    assert (finished["state"], finished["skipped"], finished["left"]) == (
        "finished",
        len(before),
        0,
    )
    assert results(out) == answers(90)
    twice = {name for name, count in asked(simulator).items() if count > 1}
    assert not twice & before, "what was stored is not asked again"
    assert asked(simulator).total() - 90 == finished["resent"] == 6


def test_the_dollars_of_a_batch_hold_when_a_worker_is_lost_with_some_of_them(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    llm = direct(params=Params(max_tokens=20))
    free = ray_batch(items(12), llm, tmp_path / "measured", concurrency=4)
    assert free.cost_usd is not None
    cap = 6 * free.cost_usd
    run = partial(ray_batch, items(96), llm, tmp_path / "run", concurrency=4, max_cost_usd=cap)

    with under_way(run) as batch:
        with simulator.held():
            wait_until(lambda: is_begun_on(nodes, tmp_path / "run"))
        wait_until(lambda: asked(simulator).total() >= 12 + 24)
        with simulator.held():
            (worker,) = nodes.workers(nodes.ids[1])
            worker.kill()
        summary = ended(batch)
    simulator.stop()  # its bill is whole then

    assert (summary.stopped_by, summary.failed) == ("budget", 0)
    assert summary.done == len(results(tmp_path / "run")) > 12
    assert simulator.bill.total.cost_usd <= free.cost_usd + cap + 1e-9


def test_a_pool_answers_eight_threads_while_one_of_its_workers_is_killed(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    simulator = start_simulator(SOME)
    prompts = [row["prompt"] for row in items(64)]
    told, lost = dict[int, str](), list[int]()

    with PromptPool(direct(), concurrency=4) as pool:
        wait_until(lambda: len([w for w in pool.stats().workers if w.state == "ready"]) == 3)

        def ask(first: int) -> None:
            for number in range(first, 64, 8):
                try:
                    told[number] = pool.prompt(prompts[number]).result
                except WorkerLostError:
                    lost.append(number)

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: asked(simulator).total() >= 16)
        with simulator.held():
            (worker,) = nodes.workers(nodes.ids[1])
            worker.kill()
        join(*threads)

    assert sorted([*told, *lost]) == list(range(64))
    assert told == {number: f"answer {number}" for number in told}
    assert len(lost) <= 4
    assert set(asked(simulator).values()) == {1}, "no prompt was sent again without a word"
