"""The pool: who shares a server, when one starts, and when one is stopped."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest

from chutes_opencode.engines.pool import shared_pool
from chutes_opencode.engines.pool_limits import EngineStats, PoolLimits
from chutes_opencode.errors import UnknownOpenCodeError
from tests.unit.engines.fleet import START_SECONDS, FakeServer, Fleet, play
from tests.unit.relay.virtual_time import clock, run


def test_prompts_with_the_same_key_share_a_server() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            first = await fleet.hold(stack, "a")
            second = await fleet.hold(stack, "a")
            other = await fleet.hold(stack, "b")
            assert first is second
            assert first is not other
            assert (first.prompts, other.prompts) == (2, 1)
        assert (first.prompts, first.served) == (0, 2)
        assert await fleet.prompt("a") is first

    play(story)


def test_fifty_that_wait_have_one_start() -> None:
    async def story(fleet: Fleet) -> None:
        servers = await asyncio.gather(*(fleet.prompt() for _ in range(50)))
        assert set(servers) == {fleet.servers[0]}

    assert play(story).starts == [0.0]


def test_an_idle_server_is_stopped() -> None:
    async def story(fleet: Fleet) -> None:
        server = await fleet.prompt(seconds=500.0)
        await fleet.prompt()
        await asyncio.sleep(299.0)
        assert not server.stopped
        await fleet.prompt()
        await asyncio.sleep(299.0)
        assert not server.stopped
        await asyncio.sleep(2.0)
        assert server.stopped
        assert fleet.pool.stats().expired == 1
        assert await fleet.prompt() is not server

    play(story, idle_seconds=300.0)


def test_even_without_any_patience_those_who_waited_get_the_server() -> None:
    async def story(fleet: Fleet) -> None:
        await asyncio.gather(*(fleet.prompt() for _ in range(3)))
        await asyncio.sleep(1.0)
        assert fleet.running == []

    assert len(play(story, idle_seconds=0.0).servers) == 1


def test_the_least_recently_used_server_makes_room() -> None:
    async def story(fleet: Fleet) -> None:
        for key in "aba":
            await fleet.prompt(key)
        await fleet.prompt("c")
        assert [server.plan.key for server in fleet.running] == ["a", "c"]
        assert fleet.pool.stats().evicted == 1

    play(story, max_servers=2)


def test_a_server_that_nobody_uses_makes_room_rather_than_a_busy_one() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            busy = await fleet.hold(stack, "a")
            unused = await fleet.prompt("b")
            await fleet.prompt("c")
            assert unused.stopped
            assert not busy.stopped
            assert not busy.draining

    play(story, max_servers=2)


def test_where_all_are_busy_one_drains_and_is_waited_for() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as later, AsyncExitStack() as sooner:
            a = await fleet.hold(sooner, "a")
            b = await fleet.hold(later, "b")
            waiting = asyncio.create_task(fleet.prompt("c"))
            await asyncio.sleep(60.0)
            assert (a.draining, a.stopped, b.draining) == (True, False, False)
            assert len(fleet.starts) == 2
            await sooner.aclose()
            c = await waiting
            assert c.plan.key == "c"
            assert a.stopped
            assert not b.stopped

    play(story, max_servers=2)


def test_there_are_never_more_servers_than_allowed() -> None:
    most = 0

    async def story(fleet: Fleet) -> None:
        async def prompt(number: int) -> None:
            nonlocal most
            exclusive = number % 3 == 0
            async with fleet.server(f"key {number % 7}", exclusive=exclusive):
                most = max(most, len(fleet.running))
                await asyncio.sleep(0.3 * (number % 5))

        await asyncio.gather(*(prompt(number) for number in range(60)))

    fleet = play(story, max_servers=3)

    assert most == 3
    assert sum(server.served for server in fleet.servers) == 60


def test_an_old_server_serves_on_where_no_new_one_comes_up() -> None:
    async def story(fleet: Fleet) -> None:
        old = await fleet.prompt()
        fleet.broken = 1
        for _ in range(20):
            assert await fleet.prompt() is old
        assert len(fleet.starts) == 2, "not at once again"
        await asyncio.sleep(60.0)
        await fleet.prompt()
        await asyncio.sleep(START_SECONDS + 1.0)
        assert await fleet.prompt() is not old

    play(story, max_prompts=1, idle_seconds=1000.0)


def test_a_dead_server_is_replaced() -> None:
    async def story(fleet: Fleet) -> None:
        dead = await fleet.prompt()
        dead.died.set()
        await asyncio.sleep(1.0)
        assert dead.stopped
        assert await fleet.prompt() is not dead
        assert fleet.pool.stats().crashed == 1

    play(story)


def test_a_server_that_dies_is_cleared_away_while_its_prompts_still_have_it() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            dead = await fleet.hold(stack)
            dead.died.set()
            await asyncio.sleep(1.0)
            assert dead.stopped
            new = await fleet.hold(stack)
            assert new is not dead
        assert (dead.prompts, new.prompts) == (0, 0)
        assert fleet.pool.stats().interrupted == 1

    play(story)


def test_a_server_that_does_not_answer_gets_no_new_prompts_before_its_death_is_known() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            gone = await fleet.hold(stack)
            gone.api.gone = True
            assert await fleet.prompt() is not gone
            assert not gone.stopped, "a neighbour's answer may still come"
        asyncio.get_running_loop().call_later(0.5, gone.died.set)
        await asyncio.sleep(1.0)
        assert gone.stopped
        assert fleet.pool.stats().crashed == 1

    play(story)


def test_a_server_that_only_lost_a_connection_drains() -> None:
    async def story(fleet: Fleet) -> None:
        async with fleet.server() as server:
            server.api.gone = True
        assert await fleet.prompt() is not server
        await asyncio.sleep(10.0)
        assert server.stopped
        assert fleet.pool.stats().crashed == 0

    play(story)


def test_a_server_that_somebody_has_given_up_drains() -> None:
    async def story(fleet: Fleet) -> None:
        async with fleet.server() as server:
            server.draining = True
            assert await fleet.prompt() is not server
            assert not server.stopped
        await asyncio.sleep(1.0)
        assert server.stopped

    play(story)


def test_an_exclusive_server_is_for_one_prompt() -> None:
    async def story(fleet: Fleet) -> None:
        shared = await fleet.prompt("a")
        async with (
            fleet.server("a", exclusive=True) as own,
            fleet.server("a", exclusive=True) as another,
        ):
            assert len({shared, own, another}) == 3
            assert await fleet.prompt("a") is shared
        assert own.stopped, "before the prompt is done"
        assert another.stopped
        assert not shared.stopped

    play(story)


def test_an_exclusive_server_is_never_made_to_leave() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            own = await fleet.hold(stack, "a", exclusive=True)
            waiting = asyncio.create_task(fleet.prompt("b"))
            await asyncio.sleep(100.0)
            assert not own.stopped
            assert len(fleet.starts) == 1
        await waiting

    play(story, max_servers=1)


def test_what_only_one_user_has_used_is_stopped_when_it_leaves() -> None:
    async def story(fleet: Fleet) -> None:
        mine = await fleet.prompt("a", user="me")
        ours = await fleet.prompt("b", user="me")
        await fleet.prompt("b", user="you")
        theirs = await fleet.prompt("c", user="you")
        await fleet.pool.detach("me")
        assert [server.stopped for server in (mine, ours, theirs)] == [True, False, False]
        await fleet.pool.detach("you")
        assert fleet.running == []

    play(story)


def test_who_leaves_may_end_its_prompts_first() -> None:
    async def story(fleet: Fleet) -> None:
        running = asyncio.create_task(fleet.prompt(seconds=START_SECONDS + 5.0))
        await asyncio.sleep(START_SECONDS + 1.0)
        await fleet.pool.detach("user")
        server = await running
        assert server.served == 1
        assert server.stopped

    play(story)


def test_who_leaves_does_not_wait_for_ever() -> None:
    async def story(fleet: Fleet) -> None:
        async with fleet.server() as server:
            begun = clock()
            await fleet.pool.detach("user")
            assert server.stopped
            assert clock() - begun < 30.0

    play(story)


def test_a_start_of_whoever_leaves_is_ended() -> None:
    async def story(fleet: Fleet) -> None:
        waiting = asyncio.create_task(fleet.prompt())
        await asyncio.sleep(START_SECONDS / 2)
        await fleet.pool.detach("user")
        with pytest.raises(UnknownOpenCodeError):
            await waiting
        assert fleet.servers == []

    play(story)


def test_when_the_process_ends_the_servers_are_stopped() -> None:
    async def main() -> list[FakeServer]:
        fleet = Fleet()
        await fleet.prompt("a")
        fleet_tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in fleet_tasks:
            task.cancel()
        await asyncio.gather(*fleet_tasks, return_exceptions=True)
        return fleet.running

    assert run(main()) == []


def test_the_numbers_tell_what_it_does() -> None:
    async def story(fleet: Fleet) -> None:
        async with fleet.server("a"), fleet.server("a"):
            waiting = asyncio.create_task(fleet.prompt("b"))
            await asyncio.sleep(0.1)
            with ThreadPoolExecutor(1) as elsewhere:
                told = elsewhere.submit(fleet.pool.stats).result()
            assert told == EngineStats(servers=1, starting=1, prompts=2, started=1)
        await waiting

    play(story)


def test_there_is_one_pool_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    pool = shared_pool(PoolLimits(max_servers=1))

    assert shared_pool() is pool
    assert pool.limits.max_servers == 1
    assert shared_pool(PoolLimits(max_servers=2)) is pool
    assert pool.limits.max_servers == 2
    monkeypatch.setattr(os, "getpid", lambda: -2)
    assert shared_pool() is not pool
