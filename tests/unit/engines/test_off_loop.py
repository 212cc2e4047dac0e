"""Blocking work: in a thread, and still done when there are none any more."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chutes_opencode.engines.off_loop import off_loop


def test_work_is_done_in_a_thread() -> None:
    async def main() -> int:
        return await off_loop(threading.get_ident)

    assert asyncio.run(main()) != threading.get_ident()


def test_where_the_interpreter_ends_it_is_done_at_once() -> None:
    async def main() -> int:
        ended = ThreadPoolExecutor(1)
        ended.shutdown()
        asyncio.get_running_loop().set_default_executor(ended)
        return await off_loop(threading.get_ident)

    assert asyncio.run(main()) == threading.get_ident()


def test_an_error_of_the_work_is_raised_and_nothing_is_done_twice() -> None:
    done: list[str] = []

    def work(text: str) -> None:
        done.append(text)
        raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"):
        asyncio.run(off_loop(work, "once"))

    assert done == ["once"]
