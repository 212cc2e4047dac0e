"""Loops, threads and forks; then the small parts that the rest is made of (Linux)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import process, supervisor
from chutes_opencode.process import ProcessTimeout
from tests.integration.process.stage import (
    PATH,
    ROOT,
    SH,
    STUBBORN,
    descriptors,
    python,
    run,
    running,
    shell,
    status,
    zombies,
)
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS, join, wait_until

FORKER = """
import asyncio, os, sys
from pathlib import Path
from chutes_opencode.process import Command, Supervised, run_to_end

folder = Path(sys.argv[1])

def command(name, *argv):
    return Command(argv=argv, env={}, cwd=folder, stdout=folder / name, stderr=folder / "err")

async def child(inherited):
    await inherited.end()  # not ours: must do nothing
    own = await run_to_end(command("child", "/bin/echo", "child"), timeout_seconds=300)
    os._exit(own.returncode)

async def parent():
    await run_to_end(command("before", "/bin/echo", "before"), timeout_seconds=300)
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
    join(thread)

    assert seen[0].returncode == 3
    assert seen[1] == []


def test_a_forked_process_leaves_its_parents_alone_and_starts_its_own(folder: Path) -> None:
    env = {"PYTHONPATH": ROOT, "PATH": PATH}

    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(folder)],
        env=env,
        capture_output=True,
        timeout=PROCESS_SECONDS,
    )

    assert (done.returncode, done.stdout) == (0, b"well\n"), done.stderr.decode()
    assert (folder / "child").read_text() == "child\n"


# ------------------------------------------------------------------------------------- small things
def test_run_simple_returns_code_and_texts(folder: Path) -> None:
    argv = ["sh", "-c", "pwd; echo bad >&2; exit 4"]

    done = process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=PROCESS_SECONDS, cwd=folder)

    assert done == process.Completed(4, f"{folder}\n", "bad\n")


def test_run_simple_bounds_what_it_returns() -> None:
    argv = ["sh", "-c", "head -c 3000000 /dev/zero; printf '\\377' >&2"]

    done = process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=PROCESS_SECONDS)

    assert len(done.stdout) == process.MAX_OUTPUT_BYTES
    assert done.stderr == "\N{REPLACEMENT CHARACTER}"


def test_run_simple_kills_its_group_in_time(tag: str) -> None:
    argv = ["sh", "-c", 'trap "" TERM; sleep "$1" & sleep "$1"', "sh", tag]

    with pytest.raises(ProcessTimeout, match=r"^sh did not end within 0\.3 s$"):
        process.run_simple(argv, env={"PATH": PATH}, timeout_seconds=0.3)

    wait_until(lambda: running(tag) == [])


def test_run_simple_of_nothing_is_file_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        process.run_simple(["/nowhere/tool"], env={}, timeout_seconds=PROCESS_SECONDS)


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
    assert marked.wait(WAIT_SECONDS) == -9
    assert running(tag) == [other.pid]
    other.kill()
    other.wait(WAIT_SECONDS)
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

    assert family[0] in table[os.getpid()]
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
