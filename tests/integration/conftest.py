"""A machine of its own for every test, the real opencode, and a simulator instead of Chutes.

A test sees an empty HOME, an empty temp folder and no key; afterwards that temp folder is empty
again, hidden files included, and no process of ours is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from chutes_opencode import OpenCodeNotFoundError, Simulator, load_settings
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.process import SUPERVISOR
from chutes_opencode.supervisor import WORKSPACE_MARKER
from tests import patience

OURS = ("CHUTES_", "OPENCODE_", "XDG_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


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
def package_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own files: one folder for all tests, so that opencode's version is asked once."""
    return tmp_path_factory.mktemp("package-home")


@pytest.fixture
def temp_folder(
    opencode: Path, package_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The test's system temp folder, on a machine that knows nothing of us."""
    for name in os.environ:
        if name.startswith(OURS) or name.upper() in PROXIES:
            monkeypatch.delenv(name)
    for name, variable in (("home", "HOME"), ("temp", "TMPDIR"), ("cwd", "PWD")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setenv("CHUTES_OPENCODE_HOME", str(package_home))
    monkeypatch.setenv("CHUTES_OPENCODE_MAX_PROCESSES", "2")
    # Tests of warm servers name their engine, and close what they open.
    monkeypatch.setenv("CHUTES_OPENCODE_ENGINE", "run")
    monkeypatch.setenv("OPENCODE_BIN", str(opencode))
    return tmp_path / "temp"


@pytest.fixture(autouse=True)
def nothing_is_left(leftovers: Callable[[], list[str]]) -> Iterator[None]:
    """Fail a test after which a file or a process of ours is still there."""
    yield
    assert leftovers() == []


@pytest.fixture
def leftovers(
    temp_folder: Path, processes: Callable[[str], list[psutil.Process]]
) -> Callable[[], list[str]]:
    """Tell which files and processes of ours there are now."""

    def look() -> list[str]:
        return [*os.listdir(temp_folder), *map(str, processes(""))]  # noqa: PTH208 - hidden ones too

    return look


@pytest.fixture
def processes(temp_folder: Path) -> Callable[[str], list[psutil.Process]]:
    """Find running processes of this test's prompts by name; "" finds all, supervisors too."""

    def find(name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                place = process.environ().get(WORKSPACE_MARKER, "")
                ours = place.startswith(f"{temp_folder}/") or _is_supervisor(process)
                if ours and name in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    return find


def _is_supervisor(process: psutil.Process) -> bool:
    """Whether it is a supervisor that this process, or a child of it, has started."""
    command = process.cmdline()
    if str(SUPERVISOR) not in command:
        return False
    return os.getpid() in (int(command[-1]), *(parent.pid for parent in process.parents()))


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, not too often: to look for processes is work."""

    def wait(condition: Callable[[], Any]) -> None:
        patience.wait_until(condition, pause=0.1)

    return wait


@pytest.fixture
def start_simulator(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with a scenario; the environment points to it as it would to Chutes."""
    with ExitStack() as stack:

        def start(scenario: Any = None) -> Simulator:
            simulator = stack.enter_context(Simulator(scenario))
            monkeypatch.setenv("CHUTES_BASE_URL", simulator.base_url)
            monkeypatch.setenv("CHUTES_API_TOKEN", simulator.api_token)
            return simulator

        yield start


@pytest.fixture
def simulator(start_simulator: Callable[..., Simulator]) -> Simulator:
    """A simulator without a scenario."""
    return start_simulator()


@pytest.fixture
def run_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process of its own, in this environment but for the changes given."""
    with ExitStack() as stack:

        def start(
            code: str, *arguments: str, launcher: tuple[str, ...] = (), **changes: str
        ) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [*launcher, sys.executable, "-c", code, *arguments],
                    env={**os.environ, **changes},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start
