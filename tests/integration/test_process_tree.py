"""Real stubborn children: whatever they do, nothing of them is left (Linux)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import chutes_opencode.process
from chutes_opencode import process, supervisor
from chutes_opencode.process import Command, Exit, ProcessTimeout, Supervised, run_to_end

SH = "/bin/sh"
PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT = str(Path(chutes_opencode.process.__file__).parents[1])

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

BOMB = """
import os, sys, time
end = time.monotonic() + 30  # should our killer fail, the machine must not suffer for long
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:  # another pid fifty times a second
            if os.fork():
                os._exit(0)
            time.sleep(0.02)
        os._exit(0)
print("partial", flush=True)
time.sleep(600)
"""

CALLER = """
import asyncio, os, sys, time
from pathlib import Path
from chutes_opencode.process import Command, Supervised

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
        while True:
            time.sleep(60)  # holds the control pipe open
    print("started", flush=True)
    await process.wait()

mode, folder, tag, code = sys.argv[1:]
asyncio.run(main(mode, Path(folder), tag, code))
"""

FORKER = """
import asyncio, os, sys
from pathlib import Path
from chutes_opencode.process import Command, Supervised, run_to_end

folder = Path(sys.argv[1])

def command(name, *argv):
    return Command(argv=argv, env={}, cwd=folder, stdout=folder / name, stderr=folder / "err")

async def child(inherited):
    await inherited.end()  # not ours: must do nothing
    own = await run_to_end(command("child", "/bin/echo", "child"), timeout_seconds=30)
    os._exit(own.returncode)

async def parent():
    await run_to_end(command("before", "/bin/echo", "before"), timeout_seconds=30)
    async with await Supervised.start(command("out", "/bin/cat", "/dev/zero")) as process:
        pid = os.fork()
        if pid == 0:
            asyncio.run(child(process))
        status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0, status
        os.kill(process.pid, 0)  # still running
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        print("well")

asyncio.run(parent())
"""


# ------------------------------------------------------------------------------------- the stage
def wait_until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Return once the condition holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


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


@pytest.fixture
def tag() -> Iterator[str]:
    """An argument that marks a test's processes; it also is a long time to sleep."""
    value = f"600.{random.randrange(10**12):012d}"
    yield value
    left = running(value)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path


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


async def run(command: Command, timeout_seconds: float = 30) -> Exit:
    return await run_to_end(command, timeout_seconds=timeout_seconds)


# ------------------------------------------------------------------------------ run to its own end
@pytest.mark.parametrize(
    ("script", "returncode"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9), ("kill -TERM $$", -15)],
)
def test_return_code_is_the_programs_own(folder: Path, script: str, returncode: int) -> None:
    result = asyncio.run(run(shell(folder, script)))

    assert result.returncode == returncode
    assert 0 <= result.duration_s < 30
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


# ------------------------------------------------------------------------------ cannot be started
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


# ------------------------------------------------------------------------------------ ended by us
def test_at_the_deadline_the_whole_tree_is_gone_and_its_output_kept(folder: Path, tag: str) -> None:
    script = 'trap "" TERM INT; setsid sleep "$1" & echo partial; while :; do sleep "$1"; done'

    async def main() -> None:
        with pytest.raises(ProcessTimeout, match=r"^sh did not end within 1 s$"):
            await run(shell(folder, script, tag), timeout_seconds=1)
        assert running(tag) == []

    started = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - started < 1 + 5
    assert (folder / "out").read_text() == "partial\n"
    assert (folder / "workspace").exists()


def test_end_ends_child_grandchild_and_daemon(folder: Path, tag: str) -> None:
    async def main() -> Exit:
        async with await Supervised.start(python(folder, STUBBORN, tag)) as child:
            await until(lambda: len(running(tag)) == 3)
            assert child.pid in running(tag)
            await asyncio.gather(child.end(), child.end())
            assert running(tag) == []
            await child.end()
            return await child.wait()

    assert asyncio.run(main()).returncode == -9
    assert (folder / "out").read_text() == "partial\n"
    assert zombies() == []


def test_a_tree_that_forks_all_the_time_is_ended(folder: Path, tag: str) -> None:
    async def main() -> None:
        async with await Supervised.start(python(folder, BOMB, tag)) as child:
            await until((folder / "out").read_text)
            await child.end()
            assert running(tag) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "grace_seconds", "returncode"),
    [
        ('trap "exit 5" TERM; echo ready; sleep "$1" & wait', 20.0, 5),
        ('trap "" TERM; echo ready; sleep "$1" & while :; do wait; done', 0.3, -9),
        ('trap "exit 5" TERM; echo ready; sleep "$1" & wait', 0.0, -9),
    ],
    ids=["leaves politely", "sits through it", "no grace"],
)
def test_grace(folder: Path, tag: str, script: str, grace_seconds: float, returncode: int) -> None:
    async def main() -> Exit:
        async with await Supervised.start(shell(folder, script, tag)) as child:
            await until((folder / "out").read_text)
            await child.end(grace_seconds)
            assert running(tag) == []
            return await child.wait()

    started = time.monotonic()

    assert asyncio.run(main()).returncode == returncode
    assert time.monotonic() - started < 10


# --------------------------------------------------------------------------------------- cancelled
def test_cancelling_the_awaiting_task_ends_the_tree_first(folder: Path, tag: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(run(python(folder, STUBBORN, tag)))
        await until(lambda: len(running(tag)) == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running(tag) == []

    asyncio.run(main())


def test_cancelling_again_while_it_ends_changes_nothing(folder: Path, tag: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(run(python(folder, STUBBORN, tag)))
        await until(lambda: len(running(tag)) == 3)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert running(tag) == []

    asyncio.run(main())


@pytest.mark.parametrize("after_seconds", [0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04])
def test_cancelling_a_start_at_any_moment_leaves_nothing(
    folder: Path, tag: str, after_seconds: float
) -> None:
    before = descriptors()

    async def main() -> None:
        env = {f"BIG_{number}": "x" * 100_000 for number in range(2)}
        task = asyncio.create_task(run(shell(folder, 'sleep "$1"', tag, env=env)))
        await asyncio.wait({task}, timeout=after_seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running(tag) == []

    asyncio.run(main())

    assert descriptors() == before
    assert zombies() == []


def test_closing_the_event_loop_ends_the_tree(folder: Path, tag: str) -> None:
    async def main() -> None:
        main.task = asyncio.create_task(run(python(folder, STUBBORN, tag)))  # type: ignore[attr-defined]
        await until(lambda: len(running(tag)) == 3)

    asyncio.run(main())  # cancels what is left

    assert running(tag) == []


# ---------------------------------------------------------------------------------- somebody dies
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
    argv = [sys.executable, "-c", CALLER, mode, str(folder), tag, STUBBORN]
    env = {"PYTHONPATH": ROOT, "PATH": PATH}
    with subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"started\n"
        wait_until(lambda: len(running(tag)) == 3 + (2 if mode == "sibling" else 1))
        caller.send_signal(number)
        caller.wait()

        wait_until(lambda: set(running(tag)) == set(running(CALLER)), seconds=5)
        wait_until(lambda: not (folder / "workspace").exists(), seconds=5)
        for pid in running(CALLER):
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
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        [boss] = supervisor.children_of(caller.pid)
        [child] = supervisor.children_of(boss)
        os.kill(boss, signal.SIGSTOP)
        caller.kill()
        os.kill(boss, signal.SIGKILL)

        wait_until(lambda: status(child)[0] in (b"gone", b"Z"), seconds=5)

    workspace = str(folder / "workspace")
    process.end_marked(supervisor.WORKSPACE_MARKER, workspace)  # what the next start's sweep does
    for pid in running(tag):
        assert supervisor.read_bytes(f"/proc/{pid}/environ") == b""  # a daemon that shed the mark
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(tag) == [])


def test_a_supervisor_killed_before_it_has_started_anything_is_an_error(folder: Path) -> None:
    async def main() -> None:
        starting = asyncio.create_task(run(shell(folder, "exit 0")))
        await asyncio.sleep(0)
        os.kill(supervisor.children_of(os.getpid())[-1], signal.SIGKILL)
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
        [*argv, argument.format(parent=os.getpid())], stdin=reading, capture_output=True, timeout=30
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


# ---------------------------------------------------------------------------- loops, threads, forks
def test_fifty_at_once_leak_no_descriptor_and_no_zombie(folder: Path) -> None:
    async def main() -> tuple[int, int]:
        await run(shell(folder, "exit 0"))
        before = descriptors()
        results = await asyncio.gather(*(run(shell(folder, f"exit {n}")) for n in range(50)))
        assert [result.returncode for result in results] == list(range(50))
        return before, descriptors()

    before, after = asyncio.run(main())

    assert after == before
    assert zombies() == []


def test_it_works_on_a_loop_in_another_thread(folder: Path, tag: str) -> None:
    seen: list[Any] = []

    async def main() -> None:
        seen.append(await run(shell(folder, "exit 3")))
        with pytest.raises(ProcessTimeout):
            await run(python(folder, STUBBORN, tag), timeout_seconds=1)
        seen.append(running(tag))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(60)

    assert seen[0].returncode == 3
    assert seen[1] == []


def test_a_forked_process_leaves_its_parents_alone_and_starts_its_own(folder: Path) -> None:
    env = {"PYTHONPATH": ROOT, "PATH": PATH}

    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(folder)], env=env, capture_output=True, timeout=60
    )

    assert (done.returncode, done.stdout) == (0, b"well\n"), done.stderr.decode()
    assert (folder / "child").read_text() == "child\n"


# ------------------------------------------------------------------------------------ small things
def test_run_simple_returns_code_and_texts(folder: Path) -> None:
    argv = ["sh", "-c", "pwd; echo bad >&2; exit 4"]

    done = process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=30, cwd=folder)

    assert done == process.Completed(4, f"{folder}\n", "bad\n")


def test_run_simple_bounds_what_it_returns() -> None:
    argv = ["sh", "-c", "head -c 3000000 /dev/zero; printf '\\377' >&2"]

    done = process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=30)

    assert len(done.stdout) == process.MAX_OUTPUT_BYTES
    assert done.stderr == "\N{REPLACEMENT CHARACTER}"


def test_run_simple_kills_its_group_in_time(tag: str) -> None:
    argv = ["sh", "-c", 'trap "" TERM; sleep "$1" & sleep "$1"', "sh", tag]

    with pytest.raises(ProcessTimeout, match=r"^sh did not end within 0\.3 s$"):
        process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=0.3)

    wait_until(lambda: running(tag) == [])


def test_run_simple_of_nothing_is_file_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        process.run_simple(["/nowhere/tool"], env={}, timeout_seconds=30)


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        wait_until(lambda: process.process_start_time(child.pid) is None)

    assert not process.process_alive(child.pid, 0)


def test_end_marked_ends_all_that_carry_the_mark_and_no_other(tag: str) -> None:
    argv = [SH, "-c", 'setsid sleep "$1" & sleep "$1" & exec sleep "$1"', "sh", tag]
    marked = subprocess.Popen(argv, env={"PATH": PATH, "MARK": tag})
    other = subprocess.Popen([*argv[:2], 'exec sleep "$1"', *argv[3:]], env={"MARK": tag + "0"})
    wait_until(lambda: len(running(tag)) == 4)

    killed = process.end_marked("MARK", tag)

    assert killed == 3
    assert marked.wait(30) == -9
    assert running(tag) == [other.pid]
    other.kill()
    other.wait(30)
    assert process.end_marked("MARK", tag) == 0


@pytest.fixture
def family(tag: str) -> Iterator[list[int]]:
    """A shell of ours with a sleeping child: their pids."""
    with subprocess.Popen([SH, "-c", 'sleep "$1" & wait', "sh", tag]) as parent:
        wait_until(lambda: len(running(tag)) == 2)
        yield [parent.pid, *(pid for pid in running(tag) if pid != parent.pid)]
        for pid in running(tag):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(tag) == [])


def test_a_walk_visits_parents_first(family: list[int]) -> None:
    seen: list[int] = []

    supervisor.walk(os.getpid(), seen.append)

    assert [pid for pid in seen if pid in family] == family
    assert supervisor.children_of(family[0]) == family[1:]
    assert supervisor.children_of(family[1]) == []


def test_where_the_kernel_lists_no_children_ps_tells_them(family: list[int]) -> None:
    table = supervisor.ps_children()

    assert table[os.getpid()] == supervisor.children_of(os.getpid())
    assert table[family[0]] == family[1:]


def test_launch_gives_a_pid_or_the_reason(folder: Path, tag: str) -> None:
    spec = process.supervisor_spec(shell(folder, "exit 7"), "marker")

    pid = supervisor.launch(spec, supervisor.load_prctl())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    with pytest.raises(NotADirectoryError):
        supervisor.launch(spec | {"cwd": "/dev/null"}, supervisor.load_prctl())


def test_a_strike_hits_the_whole_tree(family: list[int]) -> None:
    tree = supervisor.strike(lambda visit: supervisor.walk(os.getpid(), visit), 0)

    assert set(family) <= tree


def test_all_are_stopped_before_the_first_is_killed(family: list[int]) -> None:
    """Else a parent could start a new child for the one that it sees die."""
    looks: list[int] = []

    def tree(visit: supervisor.Visit) -> None:
        if len(looks) == 1:
            wait_until(lambda: {status(pid)[0] for pid in family} == {b"T"})
        looks.append(1)
        for pid in family:
            if status(pid)[0] not in (b"gone", b"Z"):
                visit(pid)

    assert supervisor.kill_all(tree, lambda: None) == set()


def test_a_stray_that_carries_the_mark_belongs_to_the_tree(tag: str) -> None:
    env = {"PATH": PATH, supervisor.TREE_MARKER: tag}
    subprocess.run([SH, "-c", 'setsid sleep "$1" &', "sh", tag], env=env, check=True)
    wait_until(lambda: running(tag))
    tree = supervisor.Tree(child=0, marker=tag)
    tree.childless = True
    seen: list[int] = []

    tree.walk(seen.append)

    assert set(running(tag)) <= set(seen)
    process.end_marked(supervisor.TREE_MARKER, tag)
    wait_until(lambda: running(tag) == [])
