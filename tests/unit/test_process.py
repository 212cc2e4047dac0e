"""What process.py decides without starting anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from chutes_opencode import process
from chutes_opencode.process import Command, Exit, ProcessTimeout
from chutes_opencode.supervisor import TREE_MARKER, WORKSPACE_MARKER


def test_windows_is_refused_in_one_line_that_says_what_to_do() -> None:
    with pytest.raises(OSError, match=r"^Windows is not supported: .*WSL[^\n]*$"):
        process.require_posix("win32")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_platforms_are_not(platform: str) -> None:
    process.require_posix(platform)


def test_spec_holds_absolute_paths_and_both_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = Command(
        argv=("/bin/x", "--flag"),
        env={"A": "1"},
        cwd=Path("work"),
        stdin=Path("in"),
        stdout=Path("out"),
        stderr=Path("err"),
        workspace=Path("space"),
    )

    assert process.supervisor_spec(command, "unique") == {
        "argv": ["/bin/x", "--flag"],
        "env": {"A": "1", TREE_MARKER: "unique", WORKSPACE_MARKER: str(tmp_path / "space")},
        "cwd": str(tmp_path / "work"),
        "stdin": str(tmp_path / "in"),
        "stdout": str(tmp_path / "out"),
        "stderr": str(tmp_path / "err"),
        "workspace": str(tmp_path / "space"),
        "marker": "unique",
    }


def test_spec_without_workspace_or_input(tmp_path: Path) -> None:
    paths = {"cwd": tmp_path, "stdout": tmp_path / "o", "stderr": tmp_path / "e"}

    spec = process.supervisor_spec(Command(argv=("/bin/x",), env={}, **paths), "unique")

    assert spec["stdin"] == os.devnull
    assert spec["workspace"] is None
    assert spec["env"] == {TREE_MARKER: "unique"}


@pytest.mark.parametrize(
    ("line", "start"),
    [
        (b"12 (sh) S 7 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", 4711),
        (b"12 (a) b) (c) R 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0", 5),
        (b"12 (sh) Z 1 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0", None),
        (b"12 (sh) X 1 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0", None),
    ],
    ids=["plain", "odd name", "zombie", "dead"],
)
def test_start_time_of_linux_is_parsed(line: bytes, start: int | None) -> None:
    assert process.parse_stat(line) == start


@pytest.mark.parametrize(
    ("text", "found"),
    [("Fri Nov 20 11:22:33 2026\n", True), ("", False), ("nonsense", False)],
)
def test_start_time_of_macos_is_parsed(text: str, found: bool) -> None:
    time = process.parse_lstart(text)

    assert (time is not None) == found


def test_start_times_of_macos_differ_by_seconds() -> None:
    first = process.parse_lstart("Fri Nov 20 11:22:33 2026")
    later = process.parse_lstart("Fri Nov 20 11:22:40 2026")

    assert first is not None
    assert later == first + 7


def test_our_own_process_is_alive_at_its_own_start_time_only() -> None:
    started = process.process_start_time(os.getpid())

    assert started is not None
    assert process.process_alive(os.getpid(), started)
    assert not process.process_alive(os.getpid(), started - 1)


def test_a_process_that_is_not_there_is_not_alive() -> None:
    assert process.process_start_time(2**22 + 1) is None
    assert not process.process_alive(2**22 + 1, 0)


def test_values_and_timeout_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(Exit(3, 0.5))) == Exit(3, 0.5)
    assert str(pickle.loads(pickle.dumps(ProcessTimeout("late")))) == "late"
