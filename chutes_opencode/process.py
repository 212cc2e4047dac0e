"""Start a process, wait for it, and end it with everything that it started.

The only user of ``subprocess``. A small supervisor process (:mod:`chutes_opencode.supervisor`)
stands between us and the program: it ends the whole tree when asked, when the program exits, and
when we are gone, even by SIGKILL; in that last case it deletes the workspace too.

Works on an event loop in any thread: no child watcher and no signal handler is used, the supervisor
talks over pipes. There is no state outside the objects; in a process forked from ours they do
nothing. Linux is complete, macOS best effort (see the supervisor), Windows is refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chutes_opencode import supervisor
from chutes_opencode.supervisor import TREE_MARKER, WORKSPACE_MARKER

END_SECONDS = 15.0  # the supervisor itself needs at most FREEZE_SECONDS + KILL_SECONDS
POLL_SECONDS = 0.5  # only for a supervisor that died while a forked sibling holds its pipe open
MAX_OUTPUT_BYTES = 1 << 20
SUPERVISOR = Path(supervisor.__file__).resolve()
LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # some Pythons do not start without


class ProcessTimeout(Exception):  # noqa: N818 - a name like the builtin's would shadow it
    """The process did not end in time; it and all its descendants are gone."""


@dataclass(frozen=True)
class Command:
    """What to run, and where its input and output go.

    Attributes:
        argv: The program and its arguments; the program is a path, PATH is not searched.
        env: The whole environment; nothing is inherited.
        cwd: Folder to run in.
        stdout: File that gets the standard output; made anew with mode 0600.
        stderr: The same for the standard error; may be the same path.
        stdin: File to read from; None: nothing to read.
        workspace: Folder that the supervisor deletes when our own process has vanished; its path
            is also put into the variable ``WORKSPACE_MARKER``. Not deleted in any other case.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    stdout: Path
    stderr: Path
    stdin: Path | None = None
    workspace: Path | None = None


@dataclass(frozen=True)
class Exit:
    """How a supervised process ended.

    Attributes:
        returncode: Its exit code; negative: the number of the signal that ended it.
        duration_s: Seconds from its start to its end.
        survivors: Descendants that even SIGKILL has not ended (stuck in a system call); else empty.
    """

    returncode: int
    duration_s: float
    survivors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completed:
    """What ``run_simple`` saw; the texts hold the first MAX_OUTPUT_BYTES, decoded leniently."""

    returncode: int
    stdout: str
    stderr: str


def require_posix(platform: str = sys.platform) -> None:
    """Raise OSError with one clear line on Windows."""
    if platform == "win32":
        raise OSError("Windows is not supported: run chutes-opencode inside WSL (wsl --install).")


def supervisor_spec(command: Command, marker: str) -> dict[str, Any]:
    """Return the JSON object that tells the supervisor what to start; ``marker``: TREE_MARKER's."""
    env = dict(command.env) | {TREE_MARKER: marker}
    if command.workspace is not None:
        env[WORKSPACE_MARKER] = str(command.workspace.absolute())
    return {
        "argv": list(command.argv),
        "env": env,
        "cwd": str(command.cwd.absolute()),
        "stdin": os.devnull if command.stdin is None else str(command.stdin.absolute()),
        "stdout": str(command.stdout.absolute()),
        "stderr": str(command.stderr.absolute()),
        "workspace": None if command.workspace is None else str(command.workspace.absolute()),
        "marker": marker,
    }


def _timeout(argv: Sequence[str], seconds: float) -> ProcessTimeout:
    return ProcessTimeout(f"{Path(argv[0]).name} did not end within {seconds:g} s")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Supervised:
    """A running process under its supervisor.

    ``async with await Supervised.start(command) as process:`` ends the whole tree on every way
    out, cancellation included. Belongs to the event loop that started it.
    """

    def __init__(self, command: Command) -> None:
        """Start the supervisor; use :meth:`start`, which also starts the program."""
        self.pid = 0
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._marker = os.urandom(16).hex()
        self._spec = supervisor_spec(command, self._marker)
        self._started_at = time.monotonic()
        self._reports: dict[str, Any] = {}
        self._partial = b""
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(SUPERVISOR), str(self._owner)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={k: v for k, v in command.env.items() if k in LOADER_VARIABLES},
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone
        )
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        self._control = self._supervisor.stdin
        self._report_pipe = self._supervisor.stdout
        os.set_blocking(self._control.fileno(), False)
        os.set_blocking(self._report_pipe.fileno(), False)
        self._loop.add_reader(self._report_pipe.fileno(), self._read_reports)

    @classmethod
    async def start(cls, command: Command) -> Self:
        """Start a process.

        Returns:
            It, running the wanted program.

        Raises:
            OSError: It cannot be started: no such program, not executable, missing folder or file
                (``filename`` names it); no supervisor; Windows.
        """
        require_posix()
        process = cls(command)
        try:
            await process._launch()
        except BaseException:
            await process.end()
            raise
        return process

    async def wait(self) -> Exit:
        """Wait until the process and all its descendants are gone.

        Returns:
            How it ended.
        """
        while not self._finished.done():
            await self._pause(POLL_SECONDS)
        return Exit(
            returncode=self._reports.get("returncode", -signal.SIGKILL),
            duration_s=self._reports.get("duration_s", time.monotonic() - self._started_at),
            survivors=tuple(self._reports.get("survivors", ())),
        )

    async def end(self, grace_seconds: float = 0.0) -> None:
        """End the process with all its descendants and return when they are gone.

        Bounded, idempotent, and not cut short by cancellation, which is raised afterwards. Does
        nothing in a process forked from the one that started it.

        Args:
            grace_seconds: How long the process may take to exit after a SIGTERM; 0: SIGKILL now.
        """
        if os.getpid() != self._owner or self._finished.done():
            return
        self._tell(f"end {grace_seconds}\n")
        deadline = time.monotonic() + grace_seconds + END_SECONDS
        cancelled: asyncio.CancelledError | None = None
        while not self._finished.done():
            if time.monotonic() > deadline:
                self._supervisor.kill()
            try:
                await self._pause(POLL_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """End the whole tree."""
        await self.end()

    async def _launch(self) -> None:
        await self._send(json.dumps(self._spec).encode() + b"\n")
        while not self._started.done():
            await self._pause(POLL_SECONDS)
        if "pid" not in self._reports:
            message = self._reports.get("error", "the process supervisor could not be started")
            number, name = (self._reports.get(key) for key in ("errno", "filename"))
            raise OSError(number, message, name) if number else OSError(message)
        self.pid = self._reports["pid"]

    async def _send(self, data: bytes) -> None:
        """Write to the control pipe, which may be smaller than the data."""
        descriptor = self._control.fileno()
        while data and not self._finished.done():
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.005)  # more than a pipe holds; it is still starting
            except BrokenPipeError:
                return  # the supervisor is gone; the end of its reports says so

    def _tell(self, line: str) -> None:
        """Write a short line; if the pipe is full or broken, closing it says enough."""
        try:
            os.write(self._control.fileno(), line.encode())
        except (OSError, ValueError):  # ValueError: closed already
            self._control.close()

    async def _pause(self, seconds: float) -> None:
        """Wait for the next change, or find that the supervisor has vanished."""
        waiting = [future for future in (self._started, self._finished) if not future.done()]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not self._finished.done() and self._supervisor.poll() is not None:
            self._read_reports()
            if not self._finished.done():
                self._finish()

    def _read_reports(self) -> None:
        """Take in what the supervisor has said; the pipe's end is its own."""
        while not self._finished.done():
            try:
                chunk = os.read(self._report_pipe.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not chunk:
                self._finish()
                return
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._reports.update(json.loads(line))
            if self._reports:
                _resolve(self._started)

    def _finish(self) -> None:
        """Let go of everything; the supervisor has exited or is just doing so."""
        self._loop.remove_reader(self._report_pipe.fileno())
        self._control.close()
        self._report_pipe.close()
        self._supervisor.wait()
        if not self._reports.keys() & {"returncode", "error"}:
            end_marked(TREE_MARKER, self._marker)  # somebody killed the supervisor
        _resolve(self._started)
        _resolve(self._finished)


async def run_to_end(command: Command, *, timeout_seconds: float) -> Exit:
    """Run a process until it and all its descendants are gone.

    Returns:
        How it ended.

    Raises:
        ProcessTimeout: Start and run took longer than ``timeout_seconds``; the whole tree is gone,
            the output so far is in its files.
        OSError: It cannot be started, see :meth:`Supervised.start`.
    """
    try:
        async with asyncio.timeout(timeout_seconds) as timer:
            async with await Supervised.start(command) as process:
                return await process.wait()
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise _timeout(command.argv, timeout_seconds) from error


def run_simple(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_seconds: float,
    cwd: Path | None = None,
) -> Completed:
    """Run a small trusted tool (``opencode --version``, npm) and return its output; blocks.

    The program is looked up in the PATH of ``env``, which is its whole environment.

    Raises:
        ProcessTimeout: It took too long; its process group is gone.
        OSError: It cannot be started.
    """
    require_posix()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            returncode = process.wait(timeout_seconds)
        except BaseException as error:
            supervisor.attempt(os.killpg, process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _timeout(argv, timeout_seconds) from None
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(MAX_OUTPUT_BYTES).decode(errors="replace"))
    return Completed(returncode, *texts)


def parse_stat(text: bytes) -> int | None:
    """Return the start in what ``/proc/<pid>/stat`` holds, in ticks since boot; zombie: None."""
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def parse_lstart(text: str) -> float | None:
    """Return the Unix time in what ``ps -o lstart=`` printed in the C locale, None if nothing."""
    try:
        return time.mktime(time.strptime(text.strip(), "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return None


def process_start_time(pid: int) -> float | None:
    """Tell when a process started, to know it from a later one with the same pid.

    Returns:
        Linux: clock ticks since boot; macOS: Unix time in whole seconds; None: no such process,
        or a zombie.
    """
    if sys.platform == "linux":
        text = supervisor.read_bytes(f"/proc/{pid}/stat")
        return parse_stat(text) if text else None
    env = {"PATH": "/bin:/usr/bin", "LC_ALL": "C"}
    shown = run_simple(["ps", "-o", "lstart=", "-p", str(pid)], env=env, timeout_seconds=10)
    return parse_lstart(shown.stdout)


def process_alive(pid: int, start_time: float) -> bool:
    """Tell whether the process that started at ``start_time`` still runs under this pid."""
    return process_start_time(pid) == start_time


def end_marked(name: str, value: str) -> int:
    """Kill every process of this user, but us, whose environment holds ``name=value``.

    Returns:
        How many were killed; always 0 but on Linux.
    """
    if sys.platform != "linux":
        return 0
    found: set[int] = set()

    def tree(visit: Callable[[int], None]) -> None:
        for pid in supervisor.marked(name, value):
            found.add(pid)
            visit(pid)

    return len(found - supervisor.kill_all(tree, lambda: None))
