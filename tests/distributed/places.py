"""Prompts on a node that a test chooses, and the workers that run them there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chutes_opencode import Simulator
from chutes_opencode.distributed.tasks import PromptTask, ResultRef, prompt_task
from chutes_opencode.supervisor import WORKSPACE_MARKER
from tests.distributed.nodes import Nodes
from tests.patience import wait_until

CHAT = "/v1/chat/completions"


@contextmanager
def added(nodes: Nodes, **arguments: Any) -> Iterator[str]:
    """A further node, as `Nodes.add` makes it; gone after the block."""
    node_id = nodes.add(**arguments)
    try:
        yield node_id
    finally:
        nodes.remove(node_id)


def on_node(node_id: str, **options: Any) -> PromptTask:
    """Return a task that runs on a node alone."""
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return prompt_task.options(scheduling_strategy=there, **options)


def on_machine(node_id: str, environment: Mapping[str, str], **options: Any) -> PromptTask:
    """Return a task that runs on a node in a process with another environment."""
    return on_node(node_id, runtime_env={"env_vars": dict(environment)}, **options)


def opencodes(temp: Path) -> list[psutil.Process]:
    """Find the opencode processes whose workspaces are below a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            below = process.environ().get(WORKSPACE_MARKER, "").startswith(f"{temp}/")
            if below and process.name() == "opencode":
                found.append(process)
    return found


def end_engines(nodes: Nodes) -> None:
    """End the idle workers that keep an engine warm, so that a test counts its own alone."""
    parents = {parent for engine in nodes.processes("") for parent in _parents(engine)}
    idle = [parent for parent in parents if parent.name().startswith("ray::")]
    for worker in idle:
        worker.terminate()
    # The workers, too: Ray could give one that is ending the next prompt.
    wait_until(lambda: not any(worker.is_running() for worker in idle), pause=0.1)
    wait_until(lambda: nodes.processes("") == [], pause=0.1)


def _parents(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.parents()
    return []


def wait_while(ref: ResultRef, condition: Callable[[], object]) -> None:
    """Wait for what comes while a prompt runs; raise what the prompt ended with, if it did."""

    def came() -> object:
        return condition() or any(map(ray.get, ray.wait([ref], timeout=0)[0]))

    wait_until(came, pause=0.1)


def chats(simulator: Simulator) -> int:
    """How many requests for an answer have come."""
    return sum(request.path == CHAT for request in simulator.requests)


def workers(title: str = "ray::prompt") -> list[psutil.Process]:
    """Find this cluster's workers by what they do."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if command and command[0].startswith(title) and _is_ours(process):
                found.append(process)
    return found


def _is_ours(process: psutil.Process) -> bool:
    return process.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]
