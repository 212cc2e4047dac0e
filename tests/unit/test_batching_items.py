"""A batch's iterable may block, as long as it likes: nobody else waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from chutes_opencode.batching import completed
from tests.patience import WAIT_SECONDS
from tests.unit.test_batching import Asker, all_of, collect, in_time

flavour: ContextVar[str] = ContextVar("flavour")


def test_iterables_that_block_leave_the_threads_of_others_alone() -> None:
    """As many as asyncio has threads at most, and some more."""
    released = threading.Event()

    def items() -> Iterator[str]:
        assert released.wait(WAIT_SECONDS)
        yield "a"

    async def main() -> None:
        asker = Asker()
        asker.let("a")
        batches = [asyncio.create_task(collect(completed(items(), asker, 1))) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            assert await in_time(asyncio.to_thread(lambda: "done")) == "done"
        finally:
            released.set()
            assert [len(await in_time(batch)) for batch in batches] == [1] * 40

    asyncio.run(main())


def test_all_items_are_read_in_one_thread_that_ends_with_the_batch() -> None:
    """What an iterable holds may be bound to a thread, like a connection of sqlite's."""
    readers: list[threading.Thread] = []
    flavours: list[str] = []
    flavour.set("the caller's")

    def items() -> Iterator[str]:
        for prompt in "abc":
            readers.append(threading.current_thread())
            flavours.append(flavour.get())
            yield prompt

    all_of(items(), Asker())

    assert len(set(readers)) == 1
    assert flavours == ["the caller's"] * 3
    readers[0].join(WAIT_SECONDS)
    assert not readers[0].is_alive()
    assert readers[0].daemon, "one that blocks for ever does not keep the interpreter from its end"


def test_closing_does_not_wait_for_an_iterable_that_blocks() -> None:
    reading, released = threading.Event(), threading.Event()
    readers: list[threading.Thread] = []

    def items() -> Iterator[str]:
        readers.append(threading.current_thread())
        yield "a"
        reading.set()
        assert released.wait(WAIT_SECONDS)

    async def main() -> None:
        asker = Asker()
        asker.let("a")
        results = completed(items(), asker, 2)
        await in_time(anext(results))
        assert await asyncio.to_thread(reading.wait, WAIT_SECONDS)
        await in_time(results.aclose())
        assert readers[0].is_alive()

    asyncio.run(main())
    released.set()
    readers[0].join(WAIT_SECONDS)
    assert not readers[0].is_alive()
