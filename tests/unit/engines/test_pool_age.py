"""When a server has grown old, and what becomes of the prompts on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from chutes_opencode.engines.held_server import GROWTH, SETTLED_PROMPTS
from tests.unit.engines.fleet import START_SECONDS, FakeServer, Fleet, play


def many_prompts(server: FakeServer) -> None:
    server.served = 20


def much_memory(server: FakeServer) -> None:
    server.served = SETTLED_PROMPTS
    server.mib = 1000.0


def a_full_disk(server: FakeServer) -> None:
    server.disk_mib = 100.0


def many_folders(server: FakeServer) -> None:
    server.folders.count = 8


@pytest.mark.parametrize("age", [many_prompts, much_memory, a_full_disk, many_folders])
def test_an_old_server_is_replaced_without_dropping_anything(
    age: Callable[[FakeServer], None],
) -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            old = await fleet.hold(stack)
            await fleet.prompt()
            await asyncio.sleep(10.0)
            age(old)
            await fleet.prompt(seconds=0.0)
            assert await fleet.prompt(seconds=0.0) is old, "it serves while the new one starts"
            await asyncio.sleep(START_SECONDS + 1.0)
            new = await fleet.prompt()
            assert new is not old
            assert (old.draining, old.stopped, old.prompts) == (True, False, 1)
        await asyncio.sleep(1.0)
        assert old.stopped
        assert await fleet.prompt() is new
        assert fleet.pool.stats().recycled == 1

    # One more than allowed, for as long as the old one drains.
    limits = {"max_prompts": 20, "max_mib": 1000.0, "max_disk_mib": 100.0, "max_folders": 8}
    play(story, max_servers=1, **limits)


def test_a_limit_below_what_a_server_needs_itself_does_not_replace_it_without_end() -> None:
    async def story(fleet: Fleet) -> None:
        for _ in range(100):
            await fleet.prompt(seconds=3.0)
        assert fleet.pool.stats().recycled == 0
        fleet.servers[0].mib = GROWTH * 700.0
        await fleet.prompt(seconds=3.0)
        await asyncio.sleep(START_SECONDS + 1.0)
        assert fleet.pool.stats().recycled == 1

    play(story, max_mib=100.0)


def test_a_server_serves_some_prompts_however_fast_it_grows() -> None:
    async def story(fleet: Fleet) -> None:
        for number in range(SETTLED_PROMPTS):
            async with fleet.server() as server:
                server.mib = 100.0 * 2**number
                await asyncio.sleep(3.0)
            await asyncio.sleep(0.0)
            assert len(fleet.starts) == (2 if server.served == SETTLED_PROMPTS else 1)

    play(story, max_mib=100.0)


def test_unknown_memory_is_no_reason_to_replace() -> None:
    async def story(fleet: Fleet) -> None:
        async with fleet.server() as server:
            server.mib = None
        await asyncio.sleep(10.0)
        assert await fleet.prompt() is server

    assert len(play(story).servers) == 1


def test_memory_is_not_looked_at_after_every_prompt() -> None:
    looks = 0

    async def story(fleet: Fleet) -> None:
        def look() -> float:
            nonlocal looks
            looks += 1
            return 1.0

        async with fleet.server() as server:
            server.rss_mib = look  # type: ignore[method-assign]
        for _ in range(100):
            await fleet.prompt(seconds=0.1)

    play(story)

    assert looks <= 7  # ten seconds
