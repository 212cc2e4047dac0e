"""Whatever real stubborn children do, ending or cancelling them leaves nothing (Linux)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chutes_opencode.process import Exit, ProcessTimeout, Supervised
from tests.integration.process.stage import (
    STUBBORN,
    descriptors,
    python,
    run,
    running,
    shell,
    until,
    zombies,
)
from tests.patience import longer_and_longer

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


# -------------------------------------------------------------------------------------- ended by us
def test_at_the_deadline_the_whole_tree_is_gone_and_its_output_kept(folder: Path, tag: str) -> None:
    script = 'trap "" TERM INT; setsid sleep "$1" & echo partial; while :; do sleep "$1"; done'

    async def cut(seconds: float) -> str:
        with pytest.raises(ProcessTimeout, match=rf"^sh did not end within {seconds:g} s$"):
            await run(shell(folder, script, tag), timeout_seconds=seconds)
        assert running(tag) == []
        return (folder / "out").read_text()

    (folder / "out").touch()

    assert "partial\n" in (asyncio.run(cut(seconds)) for seconds in longer_and_longer(1))
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
        ('trap "exit 5" TERM; echo ready; sleep "$1" & wait', 600.0, 5),
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

    assert asyncio.run(main()).returncode == returncode


# ---------------------------------------------------------------------------------------- cancelled
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
