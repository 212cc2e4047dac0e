"""Ray Jobs: configs/ray_job.py, sent to a cluster, comes to what a local batch comes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from chutes_opencode import ChutesOpenCodeLLM, RunFolder, Simulator, run_batch
from chutes_opencode.simulator.server import DEFAULT_API_TOKEN
from tests.patience import PROCESS_SECONDS, wait_until

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "Qwen/Qwen3-32B-TEE"


@pytest.fixture
def dashboard(machine: Path, simulator: Simulator) -> Iterator[str]:
    """A cluster of one node with a dashboard, which takes jobs; its address."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {
        "PATH": path,  # as configs/ray-cluster.yaml sets it
        "PYTHONPATH": str(CONFIGS.parent),
        "CHUTES_BASE_URL": simulator.base_url,
    }
    cluster = Cluster()
    try:
        node = cluster.add_node(
            num_cpus=4,
            memory=8 << 30,
            object_store_memory=80 << 20,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=0,
            dashboard_agent_listen_port=0,  # the other nodes of this session have the usual one
            env_vars=variables,
        )
        yield f"http://{node.webui_url or node.address_info['webui_url']}"
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def records(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What stands in a run for each item, but for times and ids of sessions."""
    return {
        record.id: (record.model, record.status, record.result, record.usage, record.cost_usd)
        for record in RunFolder(folder).records()
    }


def sent(client: JobSubmissionClient, entrypoint: str, **environment: Any) -> str:
    """Send a job, and wait for its end; a new cluster's agent takes none for a while."""
    jobs: list[str] = []

    def is_taken() -> bool:
        try:
            runtime_env = {"working_dir": str(CONFIGS), **environment}
            jobs.append(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
        return bool(jobs)

    wait_until(is_taken, PROCESS_SECONDS, pause=1.0)
    wait_until(lambda: client.get_job_status(jobs[0]).is_terminal(), PROCESS_SECONDS, pause=0.5)
    return jobs[0]


def submitted(client: JobSubmissionClient, *arguments: str) -> tuple[JobStatus, str]:
    """Send the program as its docstring says; wait for its end."""
    job = sent(client, " ".join(["python", "ray_job.py", "batch.jsonl", *arguments]))
    return client.get_job_status(job), client.get_job_logs(job)


def test_a_job_has_the_results_of_a_local_batch(dashboard: str, tmp_path: Path) -> None:
    client = JobSubmissionClient(dashboard)
    there, here = tmp_path / "there", tmp_path / "here"

    status, said = submitted(client, str(there), "--model", MODEL)
    again, said_again = submitted(client, str(there), "--model", MODEL)
    with ChutesOpenCodeLLM(MODEL, builtin_tools=False) as llm:
        local = run_batch(CONFIGS / "batch.jsonl", llm, here)

    assert (status, again) == (JobStatus.SUCCEEDED, JobStatus.SUCCEEDED), said
    assert records(there) == records(here)
    assert len(records(there)) == local.total > 0
    answered = f"{local.total} of {local.total} items are answered, 0 failed"
    assert answered in said
    assert answered in said_again
    assert DEFAULT_API_TOKEN not in said


def test_a_key_in_the_runtime_environment_is_refused(dashboard: str, tmp_path: Path) -> None:
    client = JobSubmissionClient(dashboard)
    entrypoint = f"python ray_job.py batch.jsonl {tmp_path / 'run'} --model {MODEL}"

    job = sent(client, entrypoint, env_vars={"CHUTES_API_TOKEN": DEFAULT_API_TOKEN})

    assert client.get_job_status(job) == JobStatus.FAILED
    assert "runtime_env holds a key (env_vars.CHUTES_API_TOKEN)" in client.get_job_logs(job)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
