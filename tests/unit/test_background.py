"""One loop for all work: jobs from any thread or loop, ended before their caller goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from chutes_opencode import background
from chutes_opencode.background import Job, loop
from tests.patience import WAIT_SECONDS


class Work:
    """A coroutine that waits to be ended, and takes its time to end."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cleaned_up = threading.Event()

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            # Cleaning up takes some turns of the loop.
            for _ in range(5):
                await asyncio.sleep(0)
            self.cleaned_up.set()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def busy_loop() -> Iterator[Callable[[], None]]:
    """Keep the loop from running anything until the returned function is called."""
    gate, shut = threading.Event(), threading.Event()

    def hold() -> None:
        shut.set()
        assert gate.wait(WAIT_SECONDS)

    loop().call_soon_threadsafe(hold)
    assert shut.wait(WAIT_SECONDS)
    yield gate.set
    gate.set()


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    raise ValueError("of the job")


def test_a_thread_gets_its_result() -> None:
    assert Job(answer(42)).result() == 42


def test_a_result_may_be_asked_again() -> None:
    job = Job(answer(42))

    assert [job.result(), job.result()] == [42, 42]


def test_a_thread_gets_its_error() -> None:
    with pytest.raises(ValueError, match="of the job"):
        Job(fail()).result()


def test_another_loop_gets_result_and_error() -> None:
    async def main() -> int:
        with pytest.raises(ValueError, match="of the job"):
            await Job(fail()).join()
        return await Job(answer(42)).join()

    assert asyncio.run(main()) == 42


def test_all_work_runs_on_one_loop_in_one_thread() -> None:
    async def where() -> tuple[int, asyncio.AbstractEventLoop]:
        return threading.get_ident(), asyncio.get_running_loop()

    async def elsewhere() -> tuple[int, asyncio.AbstractEventLoop]:
        return await Job(where()).join()

    first, second = Job(where()).result(), asyncio.run(elsewhere())

    assert first == second
    assert first[0] != threading.get_ident()
    assert first[1] is loop()


def test_a_cancelled_job_has_cleaned_up_when_cancel_returns(work: Work) -> None:
    job = Job(work())
    assert work.began.wait(WAIT_SECONDS)

    job.cancel()

    assert work.cleaned_up.is_set()
    with pytest.raises(CancelledError):
        job.result()


def test_a_finished_job_is_not_cancelled() -> None:
    job = Job(answer(42))
    assert job.result() == 42

    job.cancel()

    assert job.result() == 42


def test_a_cancelled_join_has_cleaned_up_when_it_raises(work: Work) -> None:
    async def main() -> None:
        joining = asyncio.create_task(Job(work()).join())
        await asyncio.to_thread(work.began.wait, WAIT_SECONDS)

        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining

        assert work.cleaned_up.is_set()

    asyncio.run(main())


def test_an_interrupt_ends_the_job_before_it_is_raised(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives in the thread that waits for the result."""
    job = Job(work())
    assert work.began.wait(WAIT_SECONDS)

    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waited_for(job), "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.result()

    assert work.cleaned_up.is_set()


def waited_for(job: Job[Any]) -> object:
    """Return the future whose `result` blocks the caller."""
    return job._outcome


def in_time(act: Callable[[], object]) -> bool:
    """Run `act` in a thread; tell whether it ended within a few seconds."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    return not thread.is_alive()


def test_a_job_that_never_began_is_cancelled_at_once(
    work: Work, busy_loop: Callable[[], None]
) -> None:
    job = Job(work())

    def cancel() -> None:
        threading.Timer(0.05, busy_loop).start()
        job.cancel()

    assert in_time(cancel)
    assert not work.began.is_set()


def test_a_join_that_is_cancelled_before_the_job_began_ends_at_once(
    work: Work, busy_loop: Callable[[], None]
) -> None:
    async def main() -> None:
        joining = asyncio.create_task(Job(work()).join())
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.sleep(0)
        busy_loop()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(joining, WAIT_SECONDS)

    asyncio.run(main())
    assert not work.began.is_set()


def test_a_job_that_will_not_end_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.01)
    began, let_go = threading.Event(), threading.Event()

    async def stubborn() -> None:
        began.set()
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue

    job = Job(stubborn())
    assert began.wait(WAIT_SECONDS)

    job.cancel()

    let_go.set()
    job.result()


def test_the_loops_own_thread_cannot_wait_for_a_job(work: Work) -> None:
    async def waits_for_itself() -> None:
        with pytest.raises(RuntimeError, match="observer cannot wait"):
            Job(work()).result()

    Job(waits_for_itself()).result()
    Job(answer(1)).result()

    assert not work.began.is_set()


def test_what_still_runs_at_exit_is_ended(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loop of its own: this process's is still needed."""
    monkeypatch.setattr(background, "_loops", {})
    exits: list[tuple[Callable[[int], None], int]] = []
    monkeypatch.setattr("atexit.register", lambda *call: exits.append(call))
    ending = loop()
    Job(work())
    assert work.began.wait(WAIT_SECONDS)

    ((at_exit, pid),) = exits
    at_exit(pid)

    assert work.cleaned_up.is_set()
    wait_until_stopped(ending)
    ending.close()


def test_another_process_is_not_ended_at_our_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = loop()
    monkeypatch.setattr(background, "_loops", {-1: ours})

    background._cancel_all(-1)
    background._cancel_all(-2)

    monkeypatch.undo()
    assert ours.is_running()


def test_a_forked_child_forgets_the_parents_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = {1: loop()}
    monkeypatch.setattr(background, "_loops", parents)
    held = threading.Lock()
    held.acquire()
    monkeypatch.setattr(background, "_lock", held)

    background._after_fork()

    assert parents == {}
    assert not background._lock.locked()


def wait_until_stopped(ending: asyncio.AbstractEventLoop) -> None:
    async def watch() -> None:
        while ending.is_running():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), WAIT_SECONDS))
