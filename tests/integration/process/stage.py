"""What the tests of processes share: a stubborn program, and looks at what runs (Linux)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chutes_opencode import process, supervisor
from chutes_opencode.process import Command, Exit, run_to_end
from tests.patience import PROCESS_SECONDS, wait_until

SH = "/bin/sh"
PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT = str(Path(process.__file__).parents[1])

STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
tag = sys.argv[1]
grandchild = subprocess.Popen(["setsid", "sleep", tag])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", tag], {})  # a daemon without our marker
    os._exit(0)
print("partial", flush=True)
time.sleep(600)
"""


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def running(tag: str) -> list[int]:
    """Return the pids of live processes that have ``tag`` in their command line."""
    lines = {pid: supervisor.read_bytes(f"/proc/{pid}/cmdline") for pid in processes()}
    return [pid for pid, line in lines.items() if line and tag.encode() in line.split(b"\0")]


def status(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/<pid>/stat`` from the state on: state, parent's pid, …"""
    text = supervisor.read_bytes(f"/proc/{pid}/stat") or b") gone 0"
    return text[text.rindex(b")") + 2 :].split()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def zombies() -> list[int]:
    return [pid for pid in supervisor.children_of(os.getpid()) if status(pid)[0] == b"Z"]


def command(folder: Path, *argv: str, **fields: Any) -> Command:
    env = {"PATH": PATH} | fields.pop("env", {})
    files = {"cwd": folder, "stdout": folder / "out", "stderr": folder / "err"}
    return Command(argv=argv, env=env, **(files | fields))


def shell(folder: Path, script: str, *args: str, **fields: Any) -> Command:
    return command(folder, SH, "-c", script, "sh", *args, **fields)


def python(folder: Path, code: str, *args: str, **fields: Any) -> Command:
    return command(folder, sys.executable, "-c", code, *args, **fields)


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def run(command: Command, timeout_seconds: float = PROCESS_SECONDS) -> Exit:
    return await run_to_end(command, timeout_seconds=timeout_seconds)
