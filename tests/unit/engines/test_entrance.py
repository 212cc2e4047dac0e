"""The way into a server: who goes in when, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chutes_opencode.engines.entrance import PLACES, STEP_SECONDS, Entrance
from tests.unit.relay import virtual_time

LONG = 60.0
"""An answer that a provider takes its time for."""


class Door:
    """An entrance, and what happens at it."""

    def __init__(self) -> None:
        self.entrance = Entrance(virtual_time.clock)
        self.entered: dict[str, float] = {}
        self.let_next: dict[str, Callable[[], None]] = {}

    async def prompt(self, name: str, seconds: float = LONG, asks_after: float = 0.0) -> None:
        """Be a prompt that asks its model after some seconds, and has its answer after others."""
        async with self.entrance.enter() as let_next:
            self.entered[name] = virtual_time.clock()
            self.let_next[name] = let_next
            await asyncio.sleep(asks_after)
            let_next()
            await asyncio.sleep(seconds - asks_after)

    async def together(self, names: str, seconds: float = LONG, asks_after: float = 0.0) -> None:
        """Be prompts that come at once, one a letter."""
        await asyncio.gather(*(self.prompt(name, seconds, asks_after) for name in names))


def run(work: Callable[[Door], Coroutine[Any, Any, None]]) -> Door:
    door = Door()
    virtual_time.run(work(door))
    return door


def test_at_first_all_go_in_as_they_come() -> None:
    async def work(door: Door) -> None:
        await door.together("abcdefgh", asks_after=0.1)

    door = run(work)

    assert set(door.entered.values()) == {0.0}


def test_where_answers_take_long_the_next_goes_in_when_one_has_asked() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        await door.together("abcdef", asks_after=0.1)

    door = run(work)

    after = [round(door.entered[name] - LONG, 6) for name in "abcdef"]
    assert after == [0.0] * PLACES + [0.1] * PLACES + [0.2] * PLACES


def test_one_that_does_not_ask_keeps_the_others_only_so_long() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        await door.together("abcd", asks_after=30.0)

    door = run(work)

    after = [door.entered[name] - LONG for name in "abcd"]
    assert after == [0.0] * PLACES + [STEP_SECONDS] * PLACES


def test_one_that_ends_without_having_asked_lets_the_next_in() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        await door.together("abc", seconds=0.2, asks_after=0.2)

    door = run(work)

    assert [round(door.entered[name] - LONG, 6) for name in "abc"] == [0.0, 0.0, 0.2]


def test_a_server_without_idle_moments_takes_all_as_they_come() -> None:
    async def work(door: Door) -> None:
        await door.together("abcdefgh", seconds=0.7, asks_after=0.5)
        await door.together("ABCDEFGH", seconds=0.7, asks_after=0.5)

    door = run(work)

    assert {round(door.entered[name], 6) for name in "ABCDEFGH"} == {0.7}


def test_who_waits_goes_in_before_who_comes_later() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        async with asyncio.TaskGroup() as group:
            for name in "abcdefg":
                group.create_task(door.prompt(name, asks_after=0.1))
                await asyncio.sleep(0.01)

    door = run(work)

    assert list(door.entered) == ["first", *"abcdefg"]


def test_one_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        prompts = {name: asyncio.create_task(door.prompt(name, asks_after=0.1)) for name in "abcd"}
        await asyncio.sleep(0.05)
        prompts["c"].cancel()
        await asyncio.wait(prompts.values())

    door = run(work)

    assert "c" not in door.entered
    assert round(door.entered["d"] - LONG, 6) == 0.1


def test_one_that_is_cancelled_when_it_has_just_been_let_in_gives_its_place_back() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        prompts = {name: asyncio.create_task(door.prompt(name, asks_after=0.4)) for name in "abcd"}
        await asyncio.sleep(0.1)
        door.let_next["a"]()  # c's turn has come, but c has not run yet
        prompts["c"].cancel()
        await asyncio.wait(prompts.values())

    door = run(work)

    assert "c" not in door.entered
    assert round(door.entered["d"] - LONG, 6) == 0.1


def test_to_let_the_next_in_twice_lets_one_in() -> None:
    async def work(door: Door) -> None:
        await door.prompt("first")
        prompts = [asyncio.create_task(door.prompt(name, asks_after=0.4)) for name in "abcd"]
        await asyncio.sleep(0.1)
        door.let_next["a"]()
        door.let_next["a"]()
        await asyncio.wait(prompts)

    door = run(work)

    assert [round(door.entered[name] - LONG, 6) for name in "cd"] == [0.1, 0.4]


@pytest.mark.parametrize("error", [RuntimeError("refused"), asyncio.CancelledError()])
def test_one_that_fails_lets_the_next_in(error: BaseException) -> None:
    async def fail(door: Door) -> None:
        async with door.entrance.enter():
            await asyncio.sleep(0.1)
            raise error

    async def work(door: Door) -> None:
        await door.prompt("first")
        failing = [asyncio.create_task(fail(door)) for _ in range(PLACES)]
        await asyncio.sleep(0)
        await asyncio.gather(door.prompt("a"), *failing, return_exceptions=True)

    door = run(work)

    assert round(door.entered["a"] - LONG, 6) == 0.1
