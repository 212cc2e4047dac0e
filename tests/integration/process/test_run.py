"""A program that runs to its own end, or that cannot be started (Linux)."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.process.stage import command, python, run, running, shell, zombies


# ------------------------------------------------------------------------------- run to its own end
@pytest.mark.parametrize(
    ("script", "returncode"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9), ("kill -TERM $$", -15)],
)
def test_return_code_is_the_programs_own(folder: Path, script: str, returncode: int) -> None:
    started = time.monotonic()

    result = asyncio.run(run(shell(folder, script)))

    assert result.returncode == returncode
    assert 0 <= result.duration_s <= time.monotonic() - started
    assert result.survivors == ()


def test_input_and_output_are_the_files_given(folder: Path) -> None:
    text = bytes(range(256)) * 20_000
    (folder / "in").write_bytes(text)

    asyncio.run(run(shell(folder, "cat; echo oops >&2", stdin=folder / "in")))

    assert (folder / "out").read_bytes() == text
    assert (folder / "err").read_text() == "oops\n"


def test_without_input_there_is_nothing_to_read(folder: Path) -> None:
    asyncio.run(run(shell(folder, "cat; pwd", cwd=folder / "workspace")))

    assert (folder / "out").read_text() == f"{folder / 'workspace'}\n"


def test_both_outputs_may_share_a_file(folder: Path) -> None:
    asyncio.run(run(shell(folder, "echo 1; echo 2 >&2; echo 3", stderr=folder / "out")))

    assert (folder / "out").read_text() == "1\n2\n3\n"


def test_the_child_starts_clean(folder: Path) -> None:
    """Only its three files, its own environment and session, and default signals."""
    code = """
import os
print(sorted(set(os.listdir("/proc/self/fd")) - {"3"}))  # 3 is the listing itself
print(sorted(os.environ))
print(os.getsid(0) == os.getpid())
for line in open("/proc/self/status"):
    if line.startswith("SigBlk"):
        print(int(line.split()[1], 16))
import signal
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
"""
    signals = {signal.SIGUSR1, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        asyncio.run(run(python(folder, code, workspace=folder / "workspace", env={"LC_ALL": "C"})))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    names = ["CHUTES_OPENCODE_TREE", "CHUTES_OPENCODE_WORKSPACE", "LC_ALL", "PATH"]
    assert (folder / "out").read_text().splitlines() == [
        "['0', '1', '2']",
        str(names),
        "True",
        "0",
        "True",
        "True",
    ]


def test_odd_bytes_in_arguments_and_an_environment_larger_than_a_pipe_arrive(folder: Path) -> None:
    env = {f"BIG_{number}": "x" * 100_000 for number in range(4)}
    odd = 'ä "quoted" \\ \n {env:HOME} 🦊 \udcff'

    asyncio.run(run(shell(folder, 'printf %s "$1"; printf %s "$BIG_3" >&2', odd, env=env)))

    assert (folder / "out").read_bytes() == odd.encode("utf-8", "surrogateescape")
    assert (folder / "err").read_text() == "x" * 100_000


def test_a_background_process_left_behind_is_ended(folder: Path, tag: str) -> None:
    script = 'setsid sleep "$1" & sleep "$1" & echo done'

    result = asyncio.run(run(shell(folder, script, tag)))

    assert running(tag) == []
    assert result.returncode == 0
    assert (folder / "out").read_text() == "done\n"


# -------------------------------------------------------------------------------- cannot be started
@pytest.mark.parametrize(
    ("error", "named", "change"),
    [
        (FileNotFoundError, "nothing", {"argv": ("{}/nothing",)}),
        (PermissionError, "plain", {"argv": ("{}/plain",)}),
        (PermissionError, "workspace", {"argv": ("{}/workspace",)}),
        (OSError, "garbage", {"argv": ("{}/garbage",)}),
        (FileNotFoundError, "nowhere", {"cwd": "{}/nowhere"}),
        (NotADirectoryError, "plain", {"cwd": "{}/plain"}),
        (FileNotFoundError, "nowhere", {"stdin": "{}/nowhere"}),
        (FileNotFoundError, "out", {"stdout": "{}/nowhere/out"}),
        (IsADirectoryError, "workspace", {"stderr": "{}/workspace"}),
        (OSError, "true", {"argv": ("/bin/true", "nul\0byte")}),
        (OSError, "true", {"argv": ("/bin/true", "x" * 200_000)}),
    ],
)
def test_what_cannot_be_started_is_an_os_error_that_names_it(
    folder: Path, error: type[OSError], named: str, change: dict[str, Any]
) -> None:
    (folder / "plain").write_text("")
    (folder / "garbage").write_text("no program\n")
    (folder / "garbage").chmod(0o755)
    fields: dict[str, Any] = {name: Path(str(v).format(folder)) for name, v in change.items()}
    if "argv" in change:
        fields = {}
    argv = [arg.replace("{}", str(folder)) for arg in change.get("argv", ("/bin/true",))]

    with pytest.raises(error) as caught:
        asyncio.run(run(command(folder, *argv, **fields)))

    assert caught.value.errno is not None
    assert Path(caught.value.filename).name == named
    assert zombies() == []
