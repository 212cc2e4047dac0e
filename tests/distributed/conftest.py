"""A cluster of three nodes on loopback, the real opencode, and a simulator instead of Chutes.

Run inside a network namespace that has nothing but loopback:
`unshare --net sh -c 'ip link set lo up && exec python -m pytest tests/distributed'`.

The nodes have the key in their environment, as a real cluster's have; where Chutes is (the
simulator of the test) travels with the instance.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ray

from chutes_opencode import OpenCodeNotFoundError, Simulator, load_settings
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.simulator.server import DEFAULT_API_TOKEN
from tests import patience
from tests.distributed.nodes import Nodes, alone_on_loopback

OURS = ("CHUTES_", "OPENCODE_", "XDG_", "RAY_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
REPOSITORY = Path(__file__).parents[2]
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the machine's memory is not the nodes'
    "RAY_worker_niceness": "0",  # or what else a machine does keeps the workers from working
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@pytest.fixture(scope="session")
def opencode() -> Path:
    """The real opencode, found as a caller's is."""
    settings = load_settings()
    try:
        return find_binary(
            settings.opencode_bin, os.environ.get("PATH", ""), settings.home / "opencode"
        ).path
    except OpenCodeNotFoundError as error:
        pytest.fail(f"these tests need the real opencode: {error} {error.hint}")


@pytest.fixture(scope="session")
def machine(opencode: Path) -> Iterator[Path]:
    """The environment of the driver and of the nodes, of a machine that knows nothing of us.

    Returns:
        A folder with a short name: Ray's sockets lie below it.
    """
    if not alone_on_loopback():
        pytest.fail(
            "Ray would listen beyond loopback here; run these tests in a namespace of their own: "
            "unshare --net sh -c 'ip link set lo up && exec python -m pytest tests/distributed'"
        )
    folder = Path(tempfile.mkdtemp(prefix="co-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(OURS) or name.upper() in PROXIES:
                patch.delenv(name)
        for name, variable in (("home", "HOME"), ("temp", "TMPDIR"), ("ray", "RAY_TMPDIR")):
            (folder / name).mkdir()
            patch.setenv(variable, str(folder / name))
        patch.setattr(tempfile, "tempdir", str(folder / "temp"))
        patch.setenv("CHUTES_OPENCODE_HOME", str(folder / "package"))
        patch.setenv("OPENCODE_BIN", str(opencode))
        patch.setenv("CHUTES_API_TOKEN", DEFAULT_API_TOKEN)
        for name, value in RAY.items():
            patch.setenv(name, value)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _nodes(machine: Path) -> Iterator[Nodes]:
    (machine / "nodes").mkdir()
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    nodes = Nodes(machine / "nodes", {"PYTHONPATH": path})
    try:
        ray.init(address=nodes.address, namespace="tests", log_to_driver=False)
        nodes.make_whole()
        yield nodes
        ray.shutdown()
        patience.wait_until(lambda: nodes.processes("") == [], pause=0.1)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert nodes.processes("") == []


@pytest.fixture
def nodes(_nodes: Nodes) -> Nodes:
    """Three nodes, all alive; this process is connected to the first as a driver."""
    _nodes.make_whole()
    return _nodes


@pytest.fixture
def start_simulator(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with a scenario; instances made after that ask it, on the nodes too."""
    with ExitStack() as stack:

        def start(scenario: Any = None) -> Simulator:
            simulator = stack.enter_context(Simulator(scenario))
            monkeypatch.setenv("CHUTES_BASE_URL", simulator.base_url)
            return simulator

        yield start


@pytest.fixture
def simulator(start_simulator: Callable[..., Simulator]) -> Simulator:
    """A simulator without a scenario."""
    return start_simulator()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, not too often: to look for processes is work."""

    def wait(condition: Callable[[], Any]) -> None:
        patience.wait_until(condition, pause=0.1)

    return wait


@pytest.fixture
def run_driver(_nodes: Nodes, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a driver of its own, as a Python process that finds the cluster in RAY_ADDRESS."""
    with ExitStack() as stack:

        def start(code: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
            # Ray's own words go to a file: nobody reads a pipe while the driver runs.
            words = stack.enter_context((tmp_path / "driver.log").open("a"))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, *arguments],
                    env={**os.environ, "RAY_ADDRESS": _nodes.address, **changes},
                    stdout=subprocess.PIPE,
                    stderr=words,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start
