"""Whoever is killed, caller or supervisor, nothing of the child is left (Linux)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from chutes_opencode import process, supervisor
from chutes_opencode.process import Exit, Supervised
from tests.integration.process.stage import (
    PATH,
    ROOT,
    STUBBORN,
    run,
    running,
    shell,
    status,
    until,
    zombies,
)
from tests.patience import PROCESS_SECONDS, wait_until

CALLER = """
import asyncio, os, signal, sys, time
from pathlib import Path
from chutes_opencode.process import Command, Supervised

signal.signal(signal.SIGINT, signal.default_int_handler)  # who started us may ignore it

async def main(mode, folder, tag, code):
    workspace = folder / "workspace"
    command = Command(
        argv=(sys.executable, "-c", code, tag),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        cwd=workspace,
        stdout=workspace / "out",
        stderr=workspace / "err",
        workspace=workspace,
    )
    process = await Supervised.start(command)
    if mode == "sibling" and os.fork() == 0:
        time.sleep(600)  # holds the control pipe open
        os._exit(0)
    print("started", flush=True)
    await process.wait()

mode, folder, tag, code = sys.argv[1:]
asyncio.run(main(mode, Path(folder), tag, code))
"""


@pytest.mark.parametrize("mode", ["plain", "sibling"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_caller_dies_nothing_of_it_is_left(
    folder: Path, tag: str, mode: str, number: signal.Signals
) -> None:
    outside = folder / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    locked = folder / "workspace" / "locked"
    locked.mkdir()
    (locked / "link").symlink_to(outside)
    locked.chmod(0o500)

    def callers() -> list[int]:
        return [pid for pid in running(CALLER) if pid in running(tag)]

    argv = [sys.executable, "-c", CALLER, mode, str(folder), tag, STUBBORN]
    env = {"PYTHONPATH": ROOT, "PATH": PATH}
    with (
        subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as caller,
        ExitStack() as stack,
    ):
        stack.callback(caller.kill)
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"started\n"
        wait_until(lambda: len(running(tag)) == 3 + (2 if mode == "sibling" else 1))
        caller.send_signal(number)
        caller.wait(PROCESS_SECONDS)

        wait_until(lambda: set(running(tag)) <= set(callers()))
        wait_until(lambda: not (folder / "workspace").exists())
        for pid in callers():
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(tag) == [])
    assert (outside / "keep").exists()


def test_when_the_supervisor_is_killed_nothing_is_left(folder: Path, tag: str) -> None:
    script = 'setsid sleep "$1" & echo ready; sleep "$1"'

    async def main() -> Exit:
        async with await Supervised.start(shell(folder, script, tag)) as child:
            await until(lambda: len(running(tag)) == 3)
            os.kill(int(status(child.pid)[1]), signal.SIGKILL)
            return await child.wait()

    assert asyncio.run(main()).returncode == -9
    wait_until(lambda: running(tag) == [])
    assert zombies() == []


def test_when_caller_and_supervisor_are_killed_together_the_child_is_not_left(
    folder: Path, tag: str
) -> None:
    argv = [sys.executable, "-c", CALLER, "plain", str(folder), tag, STUBBORN]
    env = {"PYTHONPATH": ROOT, "PATH": PATH}
    with (
        subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as caller,
        ExitStack() as stack,
    ):
        stack.callback(caller.kill)
        assert caller.stdout is not None
        caller.stdout.readline()
        [boss] = supervisor.children_of(caller.pid)
        [child] = supervisor.children_of(boss)
        os.kill(boss, signal.SIGSTOP)
        caller.kill()
        os.kill(boss, signal.SIGKILL)

        wait_until(lambda: status(child)[0] in (b"gone", b"Z"))

    workspace = str(folder / "workspace")
    process.end_marked(supervisor.WORKSPACE_MARKER, workspace)  # what the next start's sweep does
    for pid in running(tag):
        assert supervisor.read_bytes(f"/proc/{pid}/environ") == b""  # a daemon that shed the mark
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(tag) == [])


def test_a_supervisor_killed_before_it_has_started_anything_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It never comes to its start, however late the signal is.
    (folder / "sleeps.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(process, "SUPERVISOR", folder / "sleeps.py")

    def sleeps(pid: int) -> bool:
        return b"sleeps.py" in (supervisor.read_bytes(f"/proc/{pid}/cmdline") or b"")

    async def main() -> None:
        starting = asyncio.create_task(run(shell(folder, "exit 0")))
        while not (stubs := [pid for pid in supervisor.children_of(os.getpid()) if sleeps(pid)]):
            await asyncio.sleep(0.01)
        os.kill(stubs[0], signal.SIGKILL)
        with pytest.raises(OSError, match=r"^the process supervisor could not be started$"):
            await starting

    asyncio.run(main())

    assert zombies() == []


def test_signals_of_a_terminal_do_not_reach_it_and_sigterm_ends_it(folder: Path, tag: str) -> None:
    async def main() -> Exit:
        workspace = folder / "workspace"
        given = shell(folder, 'echo ready; sleep "$1"', tag, workspace=workspace)
        async with await Supervised.start(given) as child:
            await until((folder / "out").read_text)
            boss = int(status(child.pid)[1])
            assert os.getsid(boss) == boss
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(boss, number)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(child.wait(), 0.3)
            os.kill(boss, signal.SIGTERM)
            return await child.wait()

    assert asyncio.run(main()).returncode == -9
    assert (folder / "workspace").exists()


@pytest.mark.parametrize("argument", ["{parent}", "1"])
def test_a_supervisor_without_parent_or_order_exits(argument: str) -> None:
    argv = [sys.executable, "-I", "-S", str(process.SUPERVISOR)]
    reading, writing = os.pipe()
    if argument == "{parent}":
        os.close(writing)  # nobody will ever say what to do

    done = subprocess.run(
        [*argv, argument.format(parent=os.getpid())],
        stdin=reading,
        capture_output=True,
        timeout=PROCESS_SECONDS,
    )

    os.close(reading)
    supervisor.attempt(os.close, writing)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_broken_order_is_reported() -> None:
    argv = [sys.executable, "-I", "-S", str(process.SUPERVISOR), str(os.getpid())]

    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as boss:
        assert boss.stdin is not None
        assert boss.stdout is not None
        boss.stdin.write(b"nonsense\n")
        boss.stdin.flush()
        assert b'"error": "JSONDecodeError' in boss.stdout.read()
