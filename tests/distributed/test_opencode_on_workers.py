"""Which opencode a worker uses: its own, if it is the driver's version, else the driver's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from chutes_opencode import ChutesOpenCodeLLM, OpenCodeNotFoundError, Simulator
from chutes_opencode.distributed.setup.binary import find_own
from chutes_opencode.settings import load_settings
from tests.distributed.nodes import Nodes
from tests.distributed.places import on_machine, opencodes

MODEL = "Qwen/Qwen3-32B-TEE"
QUESTION = "What is 17 + 25?"
SYSTEM_PATH = "/usr/bin:/bin"

Machine = Callable[..., Mapping[str, str]]


@pytest.fixture
def machine_of(tmp_path: Path) -> Machine:
    """Make the environment of a machine without opencode, but for what the test puts there."""

    def make(**environment: str) -> Mapping[str, str]:
        (tmp_path / "temp").mkdir(exist_ok=True)
        return {
            "OPENCODE_BIN": "",
            "PATH": SYSTEM_PATH,
            "CHUTES_OPENCODE_HOME": str(tmp_path),
            "TMPDIR": str(tmp_path / "temp"),
            **environment,
        }

    return make


def other_version(folder: Path) -> Path:
    """A program that says it is an opencode, but not the driver's."""
    folder.mkdir(parents=True)
    program = folder / "opencode"
    program.write_text("#!/bin/sh\necho 1.17.5\n")
    program.chmod(0o755)
    return program


def npm_that_tells(folder: Path) -> Path:
    """An npm that notes that it was called, and fails."""
    folder.mkdir(parents=True)
    npm = folder / "npm"
    npm.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexit 1\n')
    npm.chmod(0o755)
    return folder / "calls"


def ask(nodes: Nodes, environment: Mapping[str, str], **options: Any) -> str:
    llm = ChutesOpenCodeLLM(MODEL, engine="serve")
    task = on_machine(nodes.ids[1], environment, **options)
    return str(ray.get(task.remote(llm, QUESTION)).result)


def programs(environment: Mapping[str, str]) -> list[Path]:
    """The opencode programs that run on that machine."""
    return [Path(process.exe()) for process in opencodes(Path(environment["TMPDIR"]))]


def installed(home: Path, opencode: Path) -> Path:
    return home / "opencode" / find_own(load_settings(opencode_bin=opencode)).version / "opencode"


def test_opencode_bin_of_the_worker_is_used(
    nodes: Nodes, simulator: Simulator, machine_of: Machine, opencode: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    program = Path(shutil.copy(opencode, tmp_path / "mine" / "opencode"))
    there = machine_of(OPENCODE_BIN=str(program))

    assert ask(nodes, there) == "42"

    assert programs(there) == [program]
    assert not installed(tmp_path, opencode).exists()


def test_the_workers_path_is_searched(
    nodes: Nodes, simulator: Simulator, machine_of: Machine, opencode: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "opencode").symlink_to(opencode)
    there = machine_of(PATH=f"{tmp_path / 'bin'}:{SYSTEM_PATH}")

    assert ask(nodes, there) == "42"

    assert not installed(tmp_path, opencode).exists()


def test_what_setup_has_put_into_the_workers_home_is_used(
    nodes: Nodes, simulator: Simulator, machine_of: Machine, opencode: Path, tmp_path: Path
) -> None:
    place = installed(tmp_path, opencode)
    place.parent.mkdir(parents=True)
    place.symlink_to(opencode)
    there = machine_of()

    assert ask(nodes, there) == "42"

    assert place.is_symlink()


@pytest.mark.parametrize("has_another", [False, True])
def test_a_worker_without_the_drivers_version_takes_the_drivers_copy_and_not_npms(
    nodes: Nodes,
    simulator: Simulator,
    machine_of: Machine,
    opencode: Path,
    tmp_path: Path,
    has_another: bool,
) -> None:
    calls = npm_that_tells(tmp_path / "npm")
    path = f"{tmp_path / 'npm'}:{SYSTEM_PATH}"
    if has_another:
        path = f"{other_version(tmp_path / 'other').parent}:{path}"
    there = machine_of(PATH=path)

    assert ask(nodes, there) == "42"

    assert programs(there) == [installed(tmp_path, opencode)]
    assert installed(tmp_path, opencode).read_bytes() == opencode.read_bytes()
    assert not calls.exists()


@pytest.mark.parametrize(("asked", "called"), [(False, False), (True, True)])
def test_npm_is_asked_last_and_only_if_that_was_allowed(
    nodes: Nodes,
    simulator: Simulator,
    machine_of: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: bool,
    called: bool,
) -> None:
    calls = npm_that_tells(tmp_path / "npm")
    there = machine_of(PATH=f"{tmp_path / 'npm'}:{SYSTEM_PATH}")
    monkeypatch.setenv("OPENCODE_BIN", "")  # the driver has none to give
    monkeypatch.setenv("PATH", SYSTEM_PATH)

    with pytest.raises(OpenCodeNotFoundError) as caught:
        ask(nodes, there, install=asked)

    assert caught.value.node_id == nodes.ids[1]
    assert calls.exists() is called
    assert ("npm install opencode-ai" in caught.value.raw_message) is called
    assert ("the driver has none" in caught.value.raw_message) is not called


def test_an_engine_without_opencode_needs_none(
    nodes: Nodes, simulator: Simulator, machine_of: Machine, opencode: Path, tmp_path: Path
) -> None:
    there = machine_of()
    llm = ChutesOpenCodeLLM(MODEL, engine="direct", builtin_tools=False)

    result = ray.get(on_machine(nodes.ids[1], there).remote(llm, QUESTION))

    assert result.result == "42"
    assert not installed(tmp_path, opencode).exists()
    assert programs(there) == []
