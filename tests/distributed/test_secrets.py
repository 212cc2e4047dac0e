"""The key is read where the prompt runs, and nowhere shown."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings
from chutes_opencode.distributed.failures import original
from chutes_opencode.distributed.setup.parcel import Parcel
from chutes_opencode.distributed.setup.secrets import pack
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
from chutes_opencode.distributed.task_worker import carry_out
from chutes_opencode.distributed.tasks import prompt_task
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.simulator import DEFAULT_API_TOKEN
from tests.distributed.nodes import Nodes
from tests.distributed.places import CHAT, on_machine
from tests.patience import PROCESS_SECONDS

MODEL = "Qwen/Qwen3-32B-TEE"
QUESTION = "What is 17 + 25?"
KEY = "cpk_cluster_0123456789abcdef0123456789"
NEXT_KEY = "cpk_rotated_0123456789abcdef012345678"
UNLIKELY_KEY = "only-its-owner-knows-it-is-a-key"
NAMES = ("CHUTES_API_TOKEN", "CHUTES_API_KEY", "CHUTES_OPENCODE_API_TOKEN")
# variable, value: by our names whatever they hold, by any name what is a key
LEAKS = [*((name, "some-thing-or-other") for name in NAMES), ("NOTE", KEY), ("NOTE", UNLIKELY_KEY)]

StartSimulator = Callable[..., Simulator]
RunDriver = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def simulator(start_simulator: StartSimulator) -> Simulator:
    return start_simulator({"extra_api_tokens": [KEY, NEXT_KEY, UNLIKELY_KEY]})


def llm(**arguments: Any) -> ChutesOpenCodeLLM:
    return ChutesOpenCodeLLM(MODEL, engine="direct", builtin_tools=False, **arguments)


def keys_seen(simulator: Simulator) -> list[str]:
    """The keys of the requests for an answer, in their order."""
    return [
        value.removeprefix("Bearer ")
        for request in simulator.requests
        if request.path == CHAT
        for name, value in request.headers.items()
        if name.lower() == "authorization"
    ]


def test_the_workers_key_is_used_and_not_the_drivers(
    nodes: Nodes, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", NEXT_KEY)

    ray.get(llm().remote(QUESTION))

    assert keys_seen(simulator) == [DEFAULT_API_TOKEN]


def test_a_key_that_changes_in_its_file_is_read_anew(
    nodes: Nodes, simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(KEY)
    task = on_machine(nodes.ids[1], {"CHUTES_API_TOKEN": "", "CHUTES_API_TOKEN_FILE": str(file)})

    ray.get(task.remote(llm(), QUESTION))
    file.write_text(NEXT_KEY + "\n")
    ray.get(task.remote(llm(), QUESTION))

    assert keys_seen(simulator) == [KEY, NEXT_KEY]


def test_a_worker_without_a_key_says_where_one_belongs(nodes: Nodes, simulator: Simulator) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ray.get(on_machine(nodes.ids[1], {"CHUTES_API_TOKEN": ""}).remote(llm(), QUESTION))

    assert "CHUTES_API_TOKEN_FILE" in caught.value.hint
    assert "workers" in caught.value.hint
    assert caught.value.node_id == nodes.ids[1]
    assert keys_seen(simulator) == []


def test_the_simulators_public_key_needs_no_environment(nodes: Nodes, simulator: Simulator) -> None:
    settings = load_settings(base_url=simulator.base_url, api_token=simulator.api_token)
    task = on_machine(nodes.ids[1], {"CHUTES_API_TOKEN": ""})

    result = ray.get(task.remote(llm(settings=settings), QUESTION))

    assert result.result == "42"


@pytest.mark.parametrize(("name", "value"), LEAKS)
def test_a_key_in_a_tasks_runtime_env_is_refused_by_the_driver(
    nodes: Nodes,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", UNLIKELY_KEY)
    task = prompt_task.options(runtime_env={"env_vars": {name: value}})

    with pytest.raises(ConfigurationError, match="runtime_env holds a key") as caught:
        task.remote(llm(), QUESTION)

    assert value not in f"{caught.value} {caught.value.hint}"
    assert keys_seen(simulator) == []


@pytest.mark.parametrize(("name", "value"), LEAKS)
def test_a_key_in_a_tasks_runtime_env_is_refused_by_the_worker(
    nodes: Nodes, simulator: Simulator, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "token").write_text(UNLIKELY_KEY)
    own = {"CHUTES_API_TOKEN": "", "CHUTES_API_TOKEN_FILE": str(tmp_path / "token")}
    instance = llm()
    setup, parcel = WorkerSetup.of_driver(instance), Parcel.of(instance)
    task = ray.remote(max_retries=0)(carry_out).options(
        runtime_env={"env_vars": {**own, name: value}}
    )

    with pytest.raises(ConfigurationError, match="runtime_env holds a key") as caught:
        ray.get(task.remote(setup, parcel, pack({"prompt": QUESTION}, None), 25.0))

    assert value not in original(caught.value).raw_message  # type: ignore[attr-defined]
    assert keys_seen(simulator) == []


JOB = """
import json, sys, ray
from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError
ray.init(runtime_env=json.loads(sys.argv[1]), log_to_driver=False)
try:
    ChutesOpenCodeLLM("m", engine="direct", builtin_tools=False).remote("hi")
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["CHUTES_API_KEY", "NOTE"])
def test_a_key_in_a_jobs_runtime_env_is_refused(
    nodes: Nodes, simulator: Simulator, run_driver: RunDriver, name: str
) -> None:
    driver = run_driver(JOB, json.dumps({"env_vars": {name: KEY}}))

    said, _ = driver.communicate(timeout=PROCESS_SECONDS)

    assert f"runtime_env holds a key (env_vars.{name})" in said
    assert KEY not in said
    assert keys_seen(simulator) == []


@pytest.mark.parametrize(
    ("instance", "arguments"),
    [
        ({"system_message": f"Use {KEY}."}, {}),
        ({}, {"messages": [{"role": "user", "content": KEY}]}),
    ],
)
def test_the_key_in_an_argument_is_refused(
    nodes: Nodes,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    instance: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)

    with pytest.raises(ConfigurationError, match="the API key stands in an argument") as caught:
        llm(**instance).remote("" if arguments else QUESTION, **arguments)

    assert KEY not in f"{caught.value} {caught.value.hint}"


WATCHED = """
import json, os, sys, urllib.error, urllib.request
import ray
from ray.util import state
from chutes_opencode import ChutesOpenCodeLLM, OpenCodeError

about = ray.init(address="local", include_dashboard=True, num_cpus=2, log_to_driver=False)
results = []
for model in (sys.argv[1], "sim/fault/401-not-found", "sim/fault/500-exhausted"):
    for engine in ("run", "serve"):
        llm = ChutesOpenCodeLLM(model, engine=engine, retries=1, logging_level="debug")
        try:
            results.append(ray.get(llm.remote("What is 17 + 25?")).result)
        except OpenCodeError as error:
            results.append(type(error).__name__)
address = f"http://{about.dashboard_url}"
kinds = (state.list_tasks, state.list_workers, state.list_actors, state.list_objects,
         state.list_runtime_envs, state.list_jobs, state.list_nodes, state.list_placement_groups,
         state.list_cluster_events)
shown = {kind.__name__: repr(kind(address=address, detail=True)) for kind in kinds}
[node] = ray.nodes()
with open(os.path.expanduser("~/.ray/auth_token")) as file:
    headers = {"Authorization": "Bearer " + file.read().strip()}
for page in sys.argv[2:]:
    page = page.format(node=node["NodeID"], job=ray.get_runtime_context().get_job_id())
    request = urllib.request.Request(f"{address}/{page}", headers=headers)
    try:
        shown[page] = urllib.request.urlopen(request).read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"{page}: {error} {error.read()}")
print(json.dumps({"results": results, "shown": shown, "session": about["session_dir"]}))
"""
STATE = ("tasks", "workers", "actors", "objects", "runtime_envs", "jobs", "nodes")
PAGES = (
    *(f"api/v0/{kind}?detail=true" for kind in STATE),
    *(f"api/v0/{kind}/summarize" for kind in ("tasks", "actors", "objects")),
    "api/v0/tasks/timeline",
    "api/v0/cluster_events",
    "api/v0/cluster_metadata",
    "api/jobs/",
    "api/cluster_status",
    "api/component_activities",
    "api/data/datasets/{job}",
    "api/prometheus/sd",
    "nodes?view=summary",
    "nodes/{node}",
    "logical/actors",
    "events",
)


def test_the_key_is_in_no_log_and_in_no_answer_of_the_dashboard(
    nodes: Nodes, simulator: Simulator, run_driver: RunDriver, machine: Path, tmp_path: Path
) -> None:
    driver = run_driver(WATCHED, MODEL, *PAGES, RAY_ADDRESS="", CHUTES_API_TOKEN=KEY)

    said, _ = driver.communicate(timeout=PROCESS_SECONDS)

    assert driver.returncode == 0, (tmp_path / "driver.log").read_text()
    told = json.loads(said)
    assert told["results"][:2] == ["42", "42"]
    assert KEY in keys_seen(simulator)
    assert "prompt" in told["shown"]["list_tasks"]
    assert "prompt" in told["shown"]["api/v0/tasks?detail=true"]
    assert [page for page, text in told["shown"].items() if KEY in text] == []
    files = [path for path in Path(told["session"]).rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker-") for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert os.path.commonpath([told["session"], machine]) == str(machine)
