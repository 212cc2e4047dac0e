"""What runs aside is waited for, and left alone by whoever is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chutes_opencode.distributed.aside import aside


def test_what_it_comes_to_is_returned_or_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert asyncio.run(aside(lambda: 42)) == 42
    with pytest.raises(ValueError, match="no"):
        asyncio.run(aside(fail))


def test_its_thread_outlives_the_work() -> None:
    first = asyncio.run(aside(threading.current_thread))
    second = asyncio.run(aside(threading.current_thread))

    assert first is second
    assert first.is_alive(), "what it has started would end with it"
    assert first.daemon, "it keeps no process alive"


def test_whoever_is_cancelled_does_not_wait_for_its_end() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        ended.set()

    async def cancelled() -> None:
        task = asyncio.ensure_future(aside(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    assert not ended.is_set()
    go.set()
    assert ended.wait(20)
