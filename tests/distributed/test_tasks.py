"""Prompts as Ray tasks, with the real opencode."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from chutes_opencode import Budget, ChutesOpenCodeLLM, Limits, Simulator
from chutes_opencode.distributed.failures import original
from chutes_opencode.distributed.tasks import prompt_task
from chutes_opencode.errors import ConfigurationError, ModelNotFoundError, ServerError
from tests.distributed.nodes import Nodes
from tests.distributed.places import added, chats, end_engines, on_node, wait_while, workers
from tests.patience import PROCESS_SECONDS

MODEL = "Qwen/Qwen3-32B-TEE"
QUESTION = "What is 17 + 25?"

StartSimulator = Callable[..., Simulator]
Wait = Callable[..., None]
RunDriver = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _cold(nodes: Nodes) -> None:
    end_engines(nodes)


def direct(model: str = MODEL, **arguments: Any) -> ChutesOpenCodeLLM:
    return ChutesOpenCodeLLM(model, engine="direct", builtin_tools=False, **arguments)


def test_a_prompt_runs_on_the_cluster(nodes: Nodes, simulator: Simulator) -> None:
    llm = ChutesOpenCodeLLM(MODEL)

    result = ray.get(llm.remote(QUESTION))

    assert result.result == "42"
    assert result.success
    assert result.usage.num_requests == chats(simulator) == 1
    assert result.transcript.messages[-1].role == "assistant"


def test_the_next_prompt_of_an_equal_instance_finds_the_engine_warm(
    nodes: Nodes, simulator: Simulator
) -> None:
    task = on_node(nodes.ids[1])
    asked = [
        ray.get(task.remote(ChutesOpenCodeLLM(MODEL, engine="serve"), QUESTION)) for _ in range(3)
    ]

    assert [result.result for result in asked] == ["42"] * 3
    assert len(nodes.processes("opencode", nodes.ids[1])) == 1


def test_arguments_of_a_prompt_go_with_it(nodes: Nodes, simulator: Simulator) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}}

    result = ray.get(direct("sim/echo").remote('{"answer": 42}', output_schema=schema))

    assert result.structured == {"answer": 42}


def test_a_resource_can_be_the_gate_of_prompts(nodes: Nodes, simulator: Simulator) -> None:
    task = prompt_task.options(resources={"opencode_creds": 0.01})
    with (
        added(nodes, resources={"opencode_creds": 1}) as gate,
        pytest.raises(ModelNotFoundError) as caught,
    ):
        ray.get(task.remote(direct("no/such-model"), QUESTION))

    assert caught.value.node_id == gate


def test_a_failure_is_typed_and_tells_rays_node_and_what_was_paid(
    nodes: Nodes, simulator: Simulator
) -> None:
    node = nodes.ids[2]

    with pytest.raises(ServerError) as caught:
        ray.get(on_node(node).remote(direct("sim/fault/500-exhausted", retries=1), QUESTION))

    error = original(caught.value)
    assert type(error) is ServerError
    assert error.node_id == node
    assert error.result is not None
    assert [exchange.status for exchange in error.result.exchanges] == [500]


def test_a_prompt_whose_worker_was_killed_is_not_run_again(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    rule = {"model": MODEL, "first_byte_delay_s": 600}
    simulator = start_simulator({"rules": [rule]})
    ref = ChutesOpenCodeLLM(MODEL, engine="serve").remote(QUESTION)
    wait_while(ref, lambda: chats(simulator) == 1)

    (worker,) = workers()
    worker.kill()

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ref)
    assert ray.get(direct("sim/echo").remote("after it")).result == "after it"
    assert chats(simulator) == 2
    wait_until(lambda: nodes.processes("opencode") == [])


def test_nothing_outlives_a_killed_worker_not_even_a_command_of_its_agent(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    sleep = {"tool": "bash", "arguments": {"command": "sleep 600 & sleep 600", "description": "d"}}
    start_simulator({"rules": [{"model": "sim/script", "reply": "script", "steps": [sleep]}]})
    ref = ChutesOpenCodeLLM("sim/script", engine="serve").remote(QUESTION)
    wait_while(ref, lambda: len(nodes.processes("sleep")) == 2)

    (worker,) = workers()
    worker.kill()

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ref)
    wait_until(lambda: nodes.processes("") == [])


DRIVER = f"""
import ray
from chutes_opencode import ChutesOpenCodeLLM
print(ray.get(ChutesOpenCodeLLM({MODEL!r}, engine="serve").remote({QUESTION!r})).result)
"""


def test_a_driver_is_connected_by_its_first_prompt_and_leaves_nothing_behind(
    nodes: Nodes, simulator: Simulator, run_driver: RunDriver, wait_until: Wait
) -> None:
    driver = run_driver(DRIVER)

    answer, _ = driver.communicate(timeout=PROCESS_SECONDS)

    assert answer == "42\n"
    assert driver.returncode == 0
    wait_until(lambda: nodes.processes("") == [])


WARNED = """
import pathlib, sys, time
import ray
from ray._private.utils import publish_error_to_driver
from chutes_opencode.distributed.connect import connect
connect()
told = ray._private.worker.global_worker.gcs_client
publish_error_to_driver("any", "too many workers, says Ray", told)
print("42")
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.1)
"""


def test_what_ray_says_of_the_cluster_does_not_stand_between_the_data(
    nodes: Nodes, run_driver: RunDriver, tmp_path: Path, wait_until: Wait
) -> None:
    seen = tmp_path / "seen"
    driver = run_driver(WARNED, str(seen))
    wait_until(lambda: "too many workers" in (tmp_path / "driver.log").read_text())
    seen.touch()

    answer, _ = driver.communicate(timeout=PROCESS_SECONDS)

    assert answer == "42\n"


@pytest.mark.parametrize(
    ("instance", "arguments", "named"),
    [
        ({"limits": Limits(max_total_cost_usd=1)}, {}, "max_total_cost_usd"),
        ({}, {"budget": Budget("mine", 1.0)}, "budget"),
        ({}, {"temprature": 1}, "temprature"),
        ({"on_event": threading.Lock().acquire}, {}, "cannot be sent"),
    ],
)
def test_what_cannot_be_on_a_cluster_is_refused_before_it_is_sent(
    nodes: Nodes,
    simulator: Simulator,
    instance: dict[str, Any],
    arguments: dict[str, Any],
    named: str,
) -> None:
    llm = direct(**instance)

    with pytest.raises(ConfigurationError, match=named):
        llm.remote(QUESTION, **arguments)

    assert chats(simulator) == 0
