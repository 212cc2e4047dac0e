"""The pool, where starts fail, servers die and prompts are cancelled."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from chutes_opencode.engines.crash_record import DEATHS_FOR_A_START
from chutes_opencode.errors import ConfigurationError, OpenCodeError, UnknownOpenCodeError
from tests.unit.engines.fleet import START_SECONDS, Fleet, play


async def fail(fleet: Fleet) -> OpenCodeError:
    """Run a prompt that cannot have a server; return its error."""
    with pytest.raises(OpenCodeError) as raised:
        await fleet.prompt()
    return raised.value


def test_a_failed_start_is_told_to_each_that_waits() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.broken = 1
        waiting = [fleet.prompt() for _ in range(3)]
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [UnknownOpenCodeError] * 3
        assert len(set(map(id, errors))) == 3, "each adds its own partial result"
        assert fleet.pool.stats().failed_starts == 1
        await fleet.prompt()

    play(story)


def test_a_start_waits_the_longer_the_more_have_failed() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.broken = 8
        for _ in range(8):
            await fail(fleet)
        pauses = [
            later - sooner - START_SECONDS
            for sooner, later in zip(fleet.starts, fleet.starts[1:], strict=False)
        ]
        assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]

    play(story, crash_limit=100)


def test_a_crash_loop_ends_in_a_clear_error() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.broken = 4
        for _ in range(4):
            assert isinstance(await fail(fleet), UnknownOpenCodeError)
        error = await fail(fleet)
        assert isinstance(error, ConfigurationError)
        assert "ended 4 times in a row" in error.raw_message
        assert "ended before it was ready: no" in error.raw_message
        assert "doctor" in error.hint
        assert len(fleet.starts) == 4

    play(story, crash_limit=4)


def test_servers_that_die_before_a_prompt_ends_are_a_crash_loop_too() -> None:
    async def story(fleet: Fleet) -> None:
        for _ in range(3 * DEATHS_FOR_A_START):
            async with fleet.server() as server:
                server.died.set()
            await asyncio.sleep(1.0)
        error = await fail(fleet)
        assert isinstance(error, ConfigurationError)
        assert "its last words" in error.raw_message

    play(story, crash_limit=3)


def test_after_a_death_the_next_start_comes_soon() -> None:
    async def story(fleet: Fleet) -> None:
        for _ in range(6):
            async with fleet.server() as server:
                server.died.set()
            await asyncio.sleep(0.1)
        pauses = [
            later - sooner - START_SECONDS
            for sooner, later in zip(fleet.starts, fleet.starts[1:], strict=False)
        ]
        assert pauses == pytest.approx([0.5, 1.0, 2.0, 2.0, 2.0])

    play(story)


def test_after_a_crash_loop_a_start_is_tried_now_and_then() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.broken = 3
        for _ in range(2):
            await fail(fleet)
        await asyncio.sleep(60.0)
        assert isinstance(await fail(fleet), UnknownOpenCodeError)
        assert isinstance(await fail(fleet), ConfigurationError)
        await asyncio.sleep(60.0)
        await fleet.prompt()

    play(story, crash_limit=2)


def test_a_prompt_that_ends_clears_the_count() -> None:
    async def story(fleet: Fleet) -> None:
        for _ in range(5):
            server = await fleet.prompt()
            server.died.set()
            await asyncio.sleep(1.0)
        await fleet.prompt()
        assert fleet.pool.stats().crashed == 5

    play(story, crash_limit=2)


def test_a_prompt_whose_server_is_gone_does_not_clear_it() -> None:
    async def story(fleet: Fleet) -> None:
        for _ in range(2 * DEATHS_FOR_A_START):
            async with fleet.server() as server:
                server.api.gone = True  # its death is reported later
            server.died.set()
            await asyncio.sleep(1.0)
        assert isinstance(await fail(fleet), ConfigurationError)

    play(story, crash_limit=2)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("when", [step * 0.25 for step in range(20)])
def test_a_prompt_may_be_cancelled_at_any_time(when: float, exclusive: bool) -> None:
    async def story(fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            busy = await fleet.hold(stack, "busy", exclusive=True)
            waiting = asyncio.create_task(fleet.prompt("a", exclusive=exclusive))
            releasing = asyncio.create_task(_close_later(stack.pop_all(), 1.0))
            await asyncio.sleep(when)
            waiting.cancel()
            await asyncio.wait([waiting, releasing])
        await asyncio.sleep(10.0)
        assert busy.stopped
        assert fleet.pool.stats().prompts == 0
        assert fleet.pool.stats().starting == 0
        left = [server for server in fleet.running if server.plan.exclusive]
        assert left == []
        await asyncio.wait_for(fleet.prompt("b"), 20.0)  # there is room again

    play(story, max_servers=1)


async def _close_later(stack: AsyncExitStack, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await stack.aclose()


@pytest.mark.parametrize("steps", range(12))
def test_nor_does_it_matter_between_which_steps_of_the_loop(steps: int) -> None:
    async def story(fleet: Fleet) -> None:
        waiting = asyncio.create_task(fleet.prompt(seconds=0.0))
        await asyncio.sleep(START_SECONDS)
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(1.0)
        assert fleet.pool.stats().prompts == 0
        assert await fleet.prompt() is fleet.servers[0], "it was started for nothing, but is warm"

    play(story)


def test_a_start_goes_on_for_the_others_when_one_is_cancelled() -> None:
    async def story(fleet: Fleet) -> None:
        impatient, patient = (asyncio.create_task(fleet.prompt()) for _ in range(2))
        await asyncio.sleep(START_SECONDS / 2)
        impatient.cancel()
        await patient

    assert len(play(story).starts) == 1


def test_a_server_that_nobody_waited_for_any_more_expires() -> None:
    async def story(fleet: Fleet) -> None:
        waiting = asyncio.create_task(fleet.prompt())
        await asyncio.sleep(START_SECONDS / 2)
        waiting.cancel()
        await asyncio.sleep(START_SECONDS)
        assert len(fleet.running) == 1
        await asyncio.sleep(300.0)
        assert fleet.running == []

    play(story)
