"""A new list of models: a new server, and the old one goes when nobody uses it any more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

from tests.unit.engines.fleet import Fleet, play


def test_a_new_list_of_models_lets_the_old_server_go() -> None:
    async def story(fleet: Fleet) -> None:
        old = await fleet.prompt("a.1")
        new = await fleet.prompt("a.2")
        assert [server.stopped for server in (old, new)] == [True, False]
        assert fleet.pool.stats().superseded == 1

    play(story)


def test_what_is_in_flight_on_the_old_server_ends_there() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            old = await fleet.hold(stack, "a.1")
            new = await fleet.prompt("a.2")
            assert (old.draining, old.stopped, new.draining) == (True, False, False)
            await asyncio.sleep(60.0)
            assert not old.stopped
        await asyncio.sleep(1.0)
        assert old.stopped

    play(story)


def test_whoever_has_another_list_keeps_its_server() -> None:
    async def story(fleet: Fleet) -> None:
        shared = await fleet.prompt("a.1", user="me")
        await fleet.prompt("a.1", user="you")
        await fleet.prompt("a.2", user="me")
        assert not shared.stopped
        assert await fleet.prompt("a.1", user="you") is shared
        await fleet.prompt("a.2", user="you")
        assert shared.stopped

    play(story)


def test_other_families_and_plans_without_one_are_left_alone() -> None:
    async def story(fleet: Fleet) -> None:
        for key in ("a.1", "b.1", "c", "d"):
            await fleet.prompt(key)
        assert [server.stopped for server in fleet.servers] == [False] * 4

    play(story)


def test_a_server_whose_relay_has_stopped_goes_when_another_one_is_needed() -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            relays = [SimpleNamespace(alive=True) for _ in range(2)]
            servers = [await fleet.hold(stack, key) for key in "ab"]
            for server, relay in zip(servers, relays, strict=True):
                cast(Any, server.plan).relay = relay
            relays[0].alive = False
            await fleet.prompt("c")
            assert [server.draining for server in servers] == [True, False]
        await asyncio.sleep(1.0)
        assert [server.stopped for server in servers] == [True, False]

    play(story, max_servers=4)
