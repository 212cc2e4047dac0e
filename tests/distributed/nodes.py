"""A cluster of simulated nodes on loopback: raylets of their own, each with its own environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from chutes_opencode.supervisor import WORKSPACE_MARKER
from tests.patience import wait_until

CPUS = 4
MEMORY_BYTES = 8 << 30
OBJECTS_BYTES = 80 << 20
THREE = 3
# Of a node that is killed, Ray knows after some five looks.
SYSTEM = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 2000}


class Nodes:
    """Three nodes or more; the first is the head, to which the test itself is connected.

    Each has a temp folder of its own (`TMPDIR`), by which its processes are told apart.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Start the head alone.

        Args:
            folder: For temp folders.
            environment: Variables of every node's workers.
        """
        self._folder = folder
        self._environment = dict(environment)
        self._temps: dict[str, Path] = {}
        self._cluster: Any = Cluster()
        self.add(_system_config=SYSTEM)

    @property
    def address(self) -> str:
        """What a driver connects to: HOST:PORT."""
        return str(self._cluster.gcs_address)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ray's ids of the nodes that were started and not killed; the head first."""
        return tuple(node.node_id for node in self._cluster.list_all_nodes())

    def add(self, *, env: Mapping[str, str] | None = None, **arguments: Any) -> str:
        """Add a node.

        Args:
            env: Variables of this node's workers, over those of all.
            **arguments: Of `Cluster.add_node`: `num_cpus`, `resources`, `memory`, …

        Returns:
            Its id.
        """
        temp = self._folder / f"n{len(self._temps)}"
        temp.mkdir()
        defaults = {
            "num_cpus": CPUS,
            "memory": MEMORY_BYTES,
            "object_store_memory": OBJECTS_BYTES,
            "include_dashboard": False,
        }
        variables = {**self._environment, "TMPDIR": str(temp), **(env or {})}
        node = self._cluster.add_node(env_vars=variables, **{**defaults, **arguments})
        self._temps[node.node_id] = temp
        return str(node.node_id)

    def make_whole(self) -> None:
        """Have three nodes again, whatever the test before has done to them."""
        while len(self.ids) < THREE:
            self.add()
        alive = set(self.ids)
        seen: Any = ray.nodes
        wait_until(lambda: {each["NodeID"] for each in seen() if each["Alive"]} == alive)

    def remove(self, node_id: str) -> None:
        """End a node in good order."""
        self._cluster.remove_node(self._node(node_id))

    def kill_raylet(self, node_id: str) -> None:
        """Kill a node's raylet with SIGKILL, as a machine that is gone; not that of the head."""
        node = self._node(node_id)
        assert node is not self._cluster.head_node, "the test is connected to the head"
        for process in node.live_processes():
            process[1].send_signal(signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self, name: str, node_id: str | None = None) -> list[psutil.Process]:
        """Find running processes of prompts ("opencode") by name, of one node or of all."""
        temps = self._temps.values() if node_id is None else [self._temps[node_id]]
        starts = tuple(f"{temp}/" for temp in temps)
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                place = process.environ().get(WORKSPACE_MARKER, "")
                running = process.status() != psutil.STATUS_ZOMBIE
                if place.startswith(starts) and name in process.name() and running:
                    found.append(process)
        return found

    def workers(self, node_id: str) -> list[psutil.Process]:
        """Find the processes of a node's `PromptWorker`s."""
        raylet = next(
            process.pid
            for kind, process in self._node(node_id).live_processes()
            if kind == "raylet"
        )
        found = []
        for process in psutil.Process(raylet).children():
            with suppress(psutil.Error):
                if "PromptWorker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _node(self, node_id: str) -> Any:
        return next(each for each in self._cluster.list_all_nodes() if each.node_id == node_id)


def alone_on_loopback() -> bool:
    """Tell whether this network has nothing but loopback, so that Ray listens nowhere else."""
    return os.listdir("/sys/class/net") == ["lo"] or _links() == ["lo"]  # noqa: PTH208


def _links() -> list[str]:
    # /sys shows the namespace in which it was mounted; /proc/self/net that of this process.
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
