"""Some Ray nodes on this machine, and drivers beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from scripts.engine_bench.trees import SAMPLE_SECONDS, memory_mib, tree

REPOSITORY = Path(__file__).parents[2]
NODE: dict[str, Any] = {
    "num_cpus": 4,
    "memory": 8 << 30,
    "object_store_memory": 100 << 20,
    "include_dashboard": False,
}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the machine's memory is not one node's
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def cluster(nodes: int, variables: dict[str, str]) -> Iterator[str]:
    """Have a cluster as long as the block runs.

    Args:
        nodes: How many.
        variables: The environment of nodes and drivers, besides this process's.

    Yields:
        Its address.
    """
    with tempfile.TemporaryDirectory(prefix="co-", dir="/tmp") as folder:  # short: sockets' paths
        os.environ.update(QUIET | variables | {"RAY_TMPDIR": folder, "PYTHONPATH": str(REPOSITORY)})
        made = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            for _ in range(nodes - 1):
                made.add_node(**NODE)
            made.wait_for_nodes()
            yield made.address
        finally:
            made.shutdown()  # type: ignore[no-untyped-call]


def driven(address: str, job: str, *arguments: object) -> dict[str, float]:
    """Have a driver of its own do a job.

    Args:
        address: The cluster's.
        job: What `bench_distributed --job` calls it.
        *arguments: Its arguments.

    Returns:
        What it prints.
    """
    command = [sys.executable, "-m", "scripts.bench_distributed", "--job", job]
    told = subprocess.run(
        [*command, *(str(argument) for argument in arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": address},
    ).stdout
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


@contextmanager
def heaviest_worker() -> Iterator[list[float]]:
    """Watch the nodes of this process.

    Yields:
        Gets one figure at the end: the most memory, in MiB, that a worker with its opencode had.
        Pages that processes share are counted in each.
    """
    seen: list[float] = []
    peak, stop = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(SAMPLE_SECONDS):
            peak = max([peak, *(memory_mib(pid) for pid in _workers())])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
        seen.append(peak)


def _workers() -> list[int]:
    """Return the processes below a raylet that have an opencode."""
    found = []
    for raylet in psutil.Process().children():
        with suppress(psutil.Error):
            for worker in raylet.children():
                if any(process.name() == "opencode" for process in tree(worker.pid)):
                    found.append(worker.pid)
    return found
