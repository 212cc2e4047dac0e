"""How long a call waits, and for what."""

from __future__ import annotations

import asyncio
from typing import Any

from chutes_opencode.distributed.limiter.desk import Desk
from chutes_opencode.distributed.limiter.protocol import (
    Answer,
    Ended,
    Grant,
    HandOver,
    Holding,
    News,
    Report,
)
from chutes_opencode.relay.flow import Outcome, Pace
from tests.unit.relay.test_limiter import in_virtual_time
from tests.unit.relay.virtual_time import clock, settle

ONE = Pace(start=1, max_in_flight=1, jitter=0.0)


def desk(pace: Pace = ONE, **arguments: Any) -> Desk:
    return Desk(pace, clock=clock, random01=lambda: 0.5, **arguments)


async def call(
    made: Desk,
    member: str = "a",
    *ended: Ended,
    ordinary: int = 0,
    holds: int = 0,
    received: int = 0,
    epoch: str | None = None,
    refusals: int = 0,
) -> Answer:
    return await made.exchange(
        Report(
            member,
            member,
            made.epoch if epoch is None else epoch,
            News(ended=ended),
            urgent=0,
            ordinary=ordinary,
            holds=holds,
            received=received,
            refusals=refusals,
        )
    )


async def begin(made: Desk, *arguments: Any, **named: Any) -> asyncio.Task[Answer]:
    task = asyncio.create_task(call(made, *arguments, **named))
    await settle()
    return task


@in_virtual_time
async def test_a_free_place_is_given_at_once() -> None:
    answer = await call(desk(), ordinary=1)

    assert answer.grants == (Grant(1, 1),)
    assert answer.known
    assert answer.view.members == 1
    assert clock() == 0.0


@in_virtual_time
async def test_without_a_place_the_call_waits_until_another_member_ends() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    waiting = await begin(made, "b", ordinary=1)

    await asyncio.sleep(1)
    assert not waiting.done()
    await call(made, "a", Ended(1, Outcome.ERROR), holds=1, received=1)
    await settle()

    assert waiting.result().grants == (Grant(2, 1),)
    assert clock() == 1.0


@in_virtual_time
async def test_a_call_waits_for_two_seconds_at_most() -> None:
    made = desk()
    await call(made, "a", ordinary=1)

    answer = await call(made, "b", ordinary=1)

    assert clock() == 2.0
    assert answer.grants == ()


@in_virtual_time
async def test_the_next_call_of_a_member_ends_the_one_before() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    waiting = await begin(made, "b", ordinary=1)

    second = await begin(made, "b", ordinary=2)

    assert waiting.done()
    assert not second.done()
    second.cancel()


@in_virtual_time
async def test_time_alone_opens_the_account() -> None:
    made = desk(Pace(requests_per_minute=1))
    await call(made, "a", ordinary=1)
    await call(made, "a", Ended(1, Outcome.ERROR), holds=1, received=1)

    grants: tuple[Grant, ...] = ()
    while not grants:
        grants = (await call(made, "a", ordinary=1, received=1)).grants

    assert clock() == 61.0


@in_virtual_time
async def test_verdicts_are_answered_at_once_and_everybody_hears_of_the_refusal() -> None:
    made = desk(Pace(start=2, max_in_flight=2))
    await call(made, "a", ordinary=2)
    waiting = await begin(made, "b", ordinary=1)

    answer = await call(made, "a", Ended(2, Outcome.RATE_LIMITED), holds=2, received=2)
    await settle()

    assert answer.verdicts == (False,)
    assert waiting.result().view.rate_limited == 1
    assert waiting.result().grants == ()
    assert clock() == 0.0


@in_virtual_time
async def test_verdicts_may_come_with_permits() -> None:
    made = desk(Pace(start=9, max_in_flight=9))
    await call(made, "a", ordinary=4)
    ended = (Ended(4, Outcome.CAPACITY), Ended(4, Outcome.ERROR, 3))

    answer = await call(made, "a", *ended, ordinary=1, holds=4, received=4)

    assert answer.verdicts == (False,)
    assert answer.grants == (Grant(5, 1),)
    assert clock() == 0.0


@in_virtual_time
async def test_who_has_not_heard_of_a_refusal_is_told_at_once() -> None:
    made = desk(Pace(start=2, max_in_flight=2))
    await call(made, "a", ordinary=2)
    await call(made, "a", Ended(2, Outcome.RATE_LIMITED), holds=2, received=2)

    late = await call(made, "b", ordinary=1)
    assert clock() == 0.0
    await call(made, "b", ordinary=1, refusals=late.view.refusals)

    assert clock() == 2.0


@in_virtual_time
async def test_lessons_come_once_a_second_and_after_each_refusal() -> None:
    made = desk(Pace(start=9, max_in_flight=9, jitter=0.0))
    first = await call(made, "a", ordinary=3)
    second = await call(made, "a", ordinary=1, holds=3, received=3)
    await asyncio.sleep(0.5)
    refused = await call(made, "a", Ended(3, Outcome.RATE_LIMITED), holds=4, received=4)
    third = await call(made, "a", holds=3, received=4, refusals=1)

    assert first.lessons is not None
    assert first.holders == ("a",)
    assert second.lessons is None
    assert refused.lessons is not None
    assert refused.lessons.rate_limited == 1
    assert third.lessons is not None, "2 s later"


@in_virtual_time
async def test_who_has_nothing_and_wants_nothing_is_forgotten_at_once() -> None:
    made = desk()
    await call(made, "a", ordinary=1)

    await call(made, "a", Ended(1, Outcome.ERROR), holds=1, received=1)

    assert made.held() == {}
    assert made.stats().in_flight == 0
    assert clock() == 0.0


@in_virtual_time
async def test_a_member_that_the_desk_does_not_know_has_to_hand_over_what_it_holds() -> None:
    made = desk()

    stranger = await call(made, "a", ordinary=1, holds=1)
    other = await call(made, "a", ordinary=1, epoch="before")
    assert (stranger.known, other.known) == (False, False)
    told = HandOver("a", "a", "before", (Holding(7, 1, 0, 0.5),), received=1)
    assert (await made.hand_over(told)).known

    assert made.held() == {"a": 1}
    await call(made, "a", Ended(7, Outcome.ERROR), holds=1, received=1)
    assert made.held() == {}


@in_virtual_time
async def test_a_member_that_is_silent_for_too_long_loses_what_it_holds() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    answer = await call(made, "b", ordinary=1)

    while not answer.grants:
        answer = await call(made, "b", ordinary=1)

    assert 5.0 <= clock() <= 6.0
    assert made.held() == {"b": 1}


@in_virtual_time
async def test_a_node_can_be_forgotten_and_its_calls_end() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    silent = await begin(made, "a", ordinary=1, holds=1, received=1)
    waiting = await begin(made, "b", ordinary=1)

    made.forget("a")
    await settle()

    assert not silent.result().known
    assert waiting.result().grants == (Grant(2, 1),)


@in_virtual_time
async def test_it_tells_for_how_long_nobody_has_needed_it() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    assert made.idle_seconds() == 0.0

    await asyncio.sleep(30)
    assert made.idle_seconds() == 30.0
    await call(made, "a", epoch="before")
    assert made.idle_seconds() == 0.0


@in_virtual_time
async def test_a_successor_gives_nothing_before_the_others_could_hand_over() -> None:
    made = desk(is_successor=True)

    answer = await call(made, "a", ordinary=1)

    assert answer.grants == (Grant(1, 1),)
    assert clock() == 1.0


@in_virtual_time
async def test_a_call_that_was_given_up_harms_nobody() -> None:
    made = desk()
    await call(made, "a", ordinary=1)
    waiting = await begin(made, "b", ordinary=1)

    waiting.cancel()
    await settle()
    await call(made, "a", Ended(1, Outcome.ERROR), holds=1, received=1)
    await asyncio.sleep(7)

    assert made.held() == {}


def test_the_defaults_are_the_real_clock_and_chance() -> None:
    async def test() -> int:
        made = Desk()
        return made.stats().limit

    assert asyncio.run(test()) == 16
