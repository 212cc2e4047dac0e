"""A worker that is told to end (SIGTERM): what was paid for is not lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest
import ray

from chutes_opencode import ChutesOpenCodeLLM, Simulator
from chutes_opencode.distributed.failures import original
from chutes_opencode.errors import WorkerLostError
from tests.distributed.nodes import CPUS, Nodes
from tests.distributed.places import added, chats, end_engines, on_node, wait_while, workers

MODEL = "Qwen/Qwen3-32B-TEE"
QUESTION = "What is 17 + 25?"

StartSimulator = Callable[..., Simulator]
Wait = Callable[..., None]


@pytest.fixture(autouse=True)
def _cold(nodes: Nodes) -> None:
    end_engines(nodes)


def serving() -> ChutesOpenCodeLLM:
    return ChutesOpenCodeLLM(MODEL, engine="serve")


def tell_to_end(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGTERM)


def test_a_running_prompt_ends_well_and_the_next_runs_on_another_worker(
    nodes: Nodes, simulator: Simulator, wait_until: Wait
) -> None:
    with added(nodes) as alone:  # elsewhere an actor of a test before may keep a CPU
        task = on_node(alone, num_cpus=CPUS, drain_seconds=600)  # one after the other
        with simulator.held():
            refs = [task.remote(serving(), QUESTION) for _ in range(3)]
            wait_until(lambda: chats(simulator) == 1)

            (worker,) = workers()
            tell_to_end(worker)

        assert [result.result for result in ray.get(refs)] == ["42"] * 3
        assert chats(simulator) == 3
        wait_until(lambda: not worker.is_running())


def test_a_prompt_that_takes_longer_is_ended_with_what_it_has_paid(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    echo = {"tool": "bash", "arguments": {"command": "echo", "description": "d"}}
    sleep = {"tool": "bash", "arguments": {"command": "sleep 600", "description": "d"}}
    steps = {"model": "sim/script", "reply": "script", "steps": [echo, sleep]}
    simulator = start_simulator({"rules": [steps]})
    llm = ChutesOpenCodeLLM("sim/script", engine="serve")
    ref = on_node(nodes.ids[1], drain_seconds=0.5).remote(llm, QUESTION)
    wait_while(ref, lambda: nodes.processes("sleep"))

    (worker,) = workers()
    tell_to_end(worker)

    with pytest.raises(WorkerLostError, match="told to end") as caught:
        ray.get(ref)
    error = original(caught.value)
    assert isinstance(error, WorkerLostError)
    assert error.node_id == nodes.ids[1]
    assert error.result is not None
    assert error.result.usage.num_requests == chats(simulator) == 2
    assert error.result.cost_usd == pytest.approx(simulator.bill.total.cost_usd)
    wait_until(lambda: nodes.processes("") == [])
    wait_until(lambda: not worker.is_running())


def test_an_idle_worker_ends_at_once_with_its_engine(
    nodes: Nodes, simulator: Simulator, wait_until: Wait
) -> None:
    task = on_node(nodes.ids[1], drain_seconds=600)
    ray.get(task.remote(serving(), QUESTION))
    (server,) = nodes.processes("opencode", nodes.ids[1])
    worker = next(each for each in server.parents() if each.cmdline()[0].startswith("ray::"))

    tell_to_end(worker)

    wait_until(lambda: not worker.is_running())
    wait_until(lambda: nodes.processes("", nodes.ids[1]) == [])
