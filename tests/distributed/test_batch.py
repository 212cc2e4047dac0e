"""Batches on three nodes: all of them work, and whatever dies, each id has exactly one result."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from chutes_opencode import (
    AuthenticationError,
    NoWorkerError,
    Params,
    RunFolder,
    Simulator,
    Snapshot,
    StopSwitch,
)
from chutes_opencode.distributed.batches import ray_batch
from tests.distributed.batch_room import (
    StartSimulator,
    Wait,
    answers,
    asked,
    direct,
    ended,
    items,
    on_ray,
    results,
    shards,
    under_way,
    warm,
    write_items,
)
from tests.distributed.nodes import Nodes
from tests.patience import PROCESS_SECONDS

SLOW = {"first_byte_delay_s": 3.0}
SOME = {"first_byte_delay_s": 0.5}

DRIVER = """
import sys
from chutes_opencode import ChutesOpenCodeLLM
from chutes_opencode.distributed.batches import ray_batch
items, out = sys.argv[1:]
llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1)
summary = ray_batch(items, llm, out)
print([summary.done, summary.failed, summary.skipped, summary.left])
"""


def test_a_batch_runs_on_all_nodes_and_is_read_as_one(
    nodes: Nodes, simulator: Simulator, wait_until: Wait, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    with under_way(partial(ray_batch, items(90), direct(), out, concurrency=2)) as batch:
        with simulator.held():  # or the first worker would do it all
            wait_until(lambda: asked(simulator).total() == 3 * 2)
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left, summary.resent) == (90, 0, 0, 0)
    assert results(out) == answers(90)
    assert sorted(shards(out)) == sorted(node_id[:8] for node_id in nodes.ids)
    assert set(asked(simulator).values()) == {1}


def test_answers_of_three_seconds_keep_all_places_of_three_warm_nodes_filled(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SLOW)
    out, shown = tmp_path / "run", list[Snapshot]()
    run = partial(ray_batch, items(240), warm(), out, concurrency=16, on_progress=shown.append)

    with under_way(run) as batch:
        with simulator.held():
            wait_until(lambda: any(each.in_flight == 48 for each in shown))
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left, summary.resent) == (240, 0, 0, 0)
    assert results(out) == answers(240)
    # From the first answer, all workers having come, to the moment when the last tasks are begun.
    filled = [each.in_flight for each in shown if 0 < each.done < 190]
    assert filled
    assert sum(filled) >= 0.9 * 48 * len(filled)


def test_a_worker_that_is_killed_loses_nothing_but_what_it_was_at(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    out, victim = tmp_path / "run", nodes.ids[1]

    with under_way(partial(ray_batch, items(60), warm(), out, concurrency=4)) as batch:
        with simulator.held():
            wait_until(lambda: asked(simulator).total() == 3 * 4)
        wait_until(lambda: asked(simulator).total() >= 20)
        with simulator.held():
            (worker,) = nodes.workers(victim)
            worker.kill()
            # The lost worker is replaced on its node.
            wait_until(lambda: shards(out).count(victim[:8]) == 2)
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left) == (60, 0, 0)
    assert results(out) == answers(60)
    assert asked(simulator).total() - 60 <= summary.resent <= 4
    wait_until(lambda: nodes.processes("opencode") == [])


def test_a_node_that_is_killed_loses_nothing_but_what_it_was_at(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    out, victim = tmp_path / "run", nodes.ids[-1]

    with under_way(partial(ray_batch, items(60), warm(), out, concurrency=4)) as batch:
        with simulator.held():
            wait_until(lambda: asked(simulator).total() == 3 * 4)
        wait_until(lambda: asked(simulator).total() >= 20)
        with simulator.held():
            nodes.kill_raylet(victim)
            newcomer = nodes.add()
            wait_until(lambda: newcomer[:8] in shards(out))
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left) == (60, 0, 0)
    assert results(out) == answers(60)
    assert asked(simulator).total() - 60 <= summary.resent <= 4
    wait_until(lambda: nodes.processes("opencode") == [])


def test_a_driver_that_is_killed_goes_on_with_the_same_command(
    nodes: Nodes,
    start_simulator: StartSimulator,
    run_driver: Callable[..., subprocess.Popen[str]],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    simulator = start_simulator(SOME)
    arguments = str(write_items(tmp_path / "items.jsonl", 120)), str(tmp_path / "run")
    driver = run_driver(DRIVER, *arguments)
    wait_until(lambda: asked(simulator).total() >= 60)

    driver.kill()
    driver.communicate()
    wait_until(lambda: nodes.processes("opencode") == [])
    before = set(results(tmp_path / "run"))
    output, _ = run_driver(DRIVER, *arguments).communicate(timeout=PROCESS_SECONDS)

    assert json.loads(output) == [120 - len(before), 0, len(before), 0]
    assert results(tmp_path / "run") == answers(120)
    twice = {name for name, count in asked(simulator).items() if count > 1}
    assert not twice & before, "what was stored is not asked again"
    wait_until(lambda: nodes.processes("opencode") == [])


def test_a_node_that_comes_later_gets_a_worker(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    out, late = tmp_path / "run", {"late": 1}
    run = partial(on_ray, items(60), direct(), out, concurrency=2, resources=late)

    first = nodes.add(resources=late)
    with under_way(run) as batch:
        wait_until(lambda: asked(simulator).total() >= 5)
        with simulator.held():
            second = nodes.add(resources=late)
            wait_until(lambda: second[:8] in shards(out))
        summary = ended(batch)

    assert (summary.done, summary.left) == (60, 0)
    assert set(shards(out)) == {first[:8], second[:8]}
    nodes.remove(first)
    nodes.remove(second)


def test_a_batch_whose_last_node_is_gone_stops_and_goes_on_later(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    out, own = tmp_path / "run", {"only": 1}
    run = partial(on_ray, items(40), direct(), out, concurrency=2, resources=own)

    only = nodes.add(resources=own)
    with under_way(partial(run, patience_seconds=20.0)) as batch:
        wait_until(lambda: asked(simulator).total() >= 5)
        with simulator.held():
            nodes.kill_raylet(only)
            stopped = ended(batch)
    assert stopped.stopped_by == "workers"
    assert isinstance(stopped.stop_error, NoWorkerError)
    assert stopped.failed == 0
    assert stopped.left > 0

    again = nodes.add(resources=own)
    summary = run()

    assert (summary.done, summary.skipped, summary.left) == (stopped.left, stopped.done, 0)
    assert results(out) == answers(40)
    nodes.remove(again)


def test_a_cluster_that_cannot_hold_a_worker_is_told_so_before_anything_is_spent(
    nodes: Nodes, simulator: Simulator, tmp_path: Path
) -> None:
    needs = r"needs CPU 64.*most there is: CPU 4"

    with pytest.raises(NoWorkerError, match=needs) as caught:
        on_ray(items(3), direct(), tmp_path / "run", num_cpus=64, patience_seconds=1.0)

    assert "ray status" in caught.value.hint
    assert asked(simulator).total() == 0


def test_a_worker_without_a_key_says_so(nodes: Nodes, simulator: Simulator, tmp_path: Path) -> None:
    keyless = nodes.add(resources={"keyless": 1}, env={"CHUTES_API_TOKEN": ""})

    with pytest.raises(AuthenticationError) as caught:
        on_ray(items(3), direct(), tmp_path / "run", resources={"keyless": 1})

    assert caught.value.node_id == keyless
    assert "workers" in caught.value.hint
    nodes.remove(keyless)


def test_a_batch_that_is_cut_books_what_its_workers_had_paid(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    slow = {"usage": "every", "rules": [{"model": "sim/script", "token_delay_s": 3.0}]}
    simulator = start_simulator(slow)
    text = "some words of a longer answer " * 20
    out, switch = tmp_path / "run", StopSwitch()

    rows = items(12, text=text)
    with under_way(partial(ray_batch, rows, direct(), out, concurrency=2, stop=switch)) as batch:
        wait_until(lambda: asked(simulator).total() >= 6)
        switch.now()
        summary = ended(batch)
    simulator.stop()  # its bill is whole then

    assert (summary.done, summary.failed, summary.left) == (0, 0, 12)
    run = RunFolder(out)
    assert sorted(record.id for record in run.attempts()) == sorted(asked(simulator))
    assert {record.status for record in run.attempts()} == {"cut"}
    assert run.totals().cost_usd == pytest.approx(simulator.bill.total.cost_usd, rel=0.2)


def test_a_worker_that_is_told_to_end_finishes_what_it_is_at(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(SOME)
    out = tmp_path / "run"

    with under_way(partial(ray_batch, items(30), direct(), out, concurrency=3)) as batch:
        with simulator.held():
            wait_until(lambda: asked(simulator).total() == 3 * 3)
            (worker,) = nodes.workers(nodes.ids[1])
            worker.terminate()
        wait_until(lambda: not worker.is_running())
        summary = ended(batch)

    assert (summary.done, summary.failed, summary.left, summary.resent) == (30, 0, 0, 0)
    assert results(out) == answers(30)
    assert set(asked(simulator).values()) == {1}


def test_the_dollars_of_a_batch_hold_for_all_workers_together(
    nodes: Nodes, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    simulator = start_simulator()
    out, llm = tmp_path / "run", direct(params=Params(max_tokens=20))
    free = ray_batch(items(12), llm, tmp_path / "measured", concurrency=2)
    assert free.cost_usd is not None

    summary = ray_batch(items(48), llm, out, concurrency=2, max_cost_usd=2 * free.cost_usd)

    assert summary.stopped_by == "budget"
    assert 0 < summary.done < 48
    assert summary.cost_usd is not None
    assert summary.cost_usd <= 2 * free.cost_usd
    assert simulator.bill.total.cost_usd <= 3 * free.cost_usd + 1e-9
