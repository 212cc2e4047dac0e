from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chutes_opencode.relay.limiter import (
    AdaptiveLimiter,
    Limiter,
    LimiterStats,
    Outcome,
    Pace,
    Permit,
)
from tests.unit.relay.virtual_time import clock, run, settle


def limiter(**pace: Any) -> AdaptiveLimiter:
    pace.setdefault("jitter", 0.0)
    return AdaptiveLimiter(Pace(**pace), clock=clock)


def in_virtual_time(
    test: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    def call() -> None:
        run(test())

    call.__name__ = test.__name__
    return call


Asked = asyncio.Task[Permit]


async def ask(made: Limiter, *, priority: bool = False, deadline: float | None = None) -> Asked:
    task = asyncio.create_task(made.acquire(priority=priority, deadline=deadline))
    await settle()
    return task


@in_virtual_time
async def test_a_free_account_gives_a_permit_at_once() -> None:
    permit = await limiter().acquire()

    permit.release(Outcome.OK)
    assert not await permit.is_collateral()
    assert clock() == 0.0


@in_virtual_time
async def test_who_is_patient_so_long_is_told_that_nothing_gets_through() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    impatient = asyncio.create_task(made.acquire(patience=5.0))
    patient = await ask(made)

    permit.release(Outcome.RATE_LIMITED)
    await settle()
    assert not impatient.done()
    await asyncio.sleep(1)  # of virtual time
    probe = await ask(made, priority=True)
    await asyncio.sleep(6)
    (await probe).release(Outcome.RATE_LIMITED)
    await settle()

    assert isinstance(impatient.exception(), TimeoutError)
    assert not patient.done()
    patient.cancel()


@in_virtual_time
async def test_whoever_waits_while_others_get_through_goes_on_waiting() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    waiting = asyncio.create_task(made.acquire(patience=5.0))
    await asyncio.sleep(6)

    permit.accepted()
    permit.release(Outcome.RATE_LIMITED)
    await settle()

    assert not waiting.done()
    waiting.cancel()


@in_virtual_time
async def test_a_released_permit_goes_to_the_one_who_waits_longest() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    first, second = await ask(made), await ask(made)

    permit.release(Outcome.ERROR)
    await settle()

    assert first.done()
    assert not second.done()
    first.result().release(Outcome.ERROR)
    (await second).release(Outcome.ERROR)


@in_virtual_time
async def test_priority_goes_first() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    ordinary, urgent = await ask(made), await ask(made, priority=True)

    permit.release(Outcome.ERROR)
    await settle()

    assert urgent.done()
    assert not ordinary.done()
    urgent.result().release(Outcome.ERROR)
    (await ordinary).release(Outcome.ERROR)


@in_virtual_time
async def test_a_wait_that_is_cancelled_leaves_the_queue() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    first, second = await ask(made), await ask(made)

    first.cancel()
    await settle()
    assert made.stats().waiting == 1
    permit.release(Outcome.ERROR)

    (await second).release(Outcome.ERROR)
    assert made.stats().in_flight == 0


@in_virtual_time
async def test_a_wait_cancelled_in_the_moment_of_its_permit_passes_it_on() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    first, second = await ask(made), await ask(made)

    permit.release(Outcome.ERROR)
    first.cancel()
    await settle()

    assert first.cancelled()
    (await second).release(Outcome.ERROR)
    assert made.stats().in_flight == 0


@in_virtual_time
async def test_a_permit_passes_over_a_wait_that_was_cancelled_just_before() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    first, second = await ask(made), await ask(made)

    first.cancel()
    permit.release(Outcome.ERROR)
    await settle()

    assert first.cancelled()
    (await second).release(Outcome.ERROR)
    assert made.stats().in_flight == 0


@in_virtual_time
async def test_waiting_ends_at_the_deadline() -> None:
    made = limiter(start=1)
    permit = await made.acquire()

    with pytest.raises(TimeoutError):
        await made.acquire(deadline=7.0)

    assert clock() == 7.0
    assert made.stats().waiting == 0
    permit.release(Outcome.OK)


@in_virtual_time
async def test_a_deadline_that_has_passed_is_told_at_once() -> None:
    with pytest.raises(TimeoutError):
        await limiter().acquire(deadline=0.0)


@in_virtual_time
async def test_a_pause_beyond_the_deadline_is_told_at_once() -> None:
    made = limiter()
    (await made.acquire()).release(Outcome.RATE_LIMITED, pause_until=50.0)

    with pytest.raises(TimeoutError):
        await made.acquire(deadline=49.0)

    assert clock() == 0.0


@in_virtual_time
async def test_a_pause_is_slept_through_with_one_timer() -> None:
    made = limiter()
    (await made.acquire()).release(Outcome.RATE_LIMITED, pause_until=50.0)
    tasks = [await ask(made) for _ in range(3)]

    first = await tasks[0]

    assert clock() == 50.0
    assert not tasks[1].done()
    first.accepted()
    await settle()
    assert tasks[2].done()
    for task in (tasks[1], tasks[2]):
        task.result().release(Outcome.OK)
    first.release(Outcome.OK)


@pytest.mark.parametrize("hint", [None, 0.0, -5.0])
def test_a_hint_that_has_passed_is_none(hint: float | None) -> None:
    async def test() -> None:
        made = limiter()
        (await made.acquire()).release(Outcome.RATE_LIMITED, pause_until=hint)
        assert made.stats().paused_until == 2.0

    run(test())


@in_virtual_time
async def test_a_configured_rate_holds_requests_back_until_the_minute_has_room() -> None:
    made = limiter(requests_per_minute=2)
    for _ in range(2):
        (await made.acquire()).release(Outcome.OK)

    await made.acquire()

    assert clock() == 61.0


@in_virtual_time
async def test_a_permit_is_released_once() -> None:
    made = limiter()
    permit = await made.acquire()

    permit.release(Outcome.CAPACITY)
    permit.release(Outcome.CAPACITY)
    permit.accepted()

    assert made.stats().in_flight == 0
    assert made.stats().capacity == 1
    assert made.stats().refused_in_a_row == 1


@in_virtual_time
async def test_being_taken_counts_once() -> None:
    made = limiter(start=1)
    permit = await made.acquire()

    permit.accepted()
    permit.accepted()
    permit.release(Outcome.OK)

    assert made.stats().in_flight == 0


@in_virtual_time
async def test_a_permit_tells_whether_its_refusal_was_collateral() -> None:
    made = limiter()
    permits = [await made.acquire() for _ in range(3)]

    for permit, outcome in zip(
        permits, (Outcome.RATE_LIMITED, Outcome.RATE_LIMITED, Outcome.CANCELLED), strict=True
    ):
        permit.release(outcome)

    assert [await permit.is_collateral() for permit in permits] == [False, True, False]


@in_virtual_time
async def test_stats_tell_what_is_known() -> None:
    made = limiter(start=2)
    permits = [await made.acquire() for _ in range(2)]
    waiting = await ask(made)
    assert made.stats() == LimiterStats(
        limit=2,
        in_flight=2,
        waiting=1,
        paused_until=None,
        ceiling=None,
        permits=2,
        rate_limited=0,
        capacity=0,
        refused_in_a_row=0,
    )

    permits[0].release(Outcome.RATE_LIMITED)

    stats = made.stats()
    assert (stats.paused_until, stats.ceiling, stats.rate_limited) == (2.0, 5, 1)
    waiting.cancel()
    await settle()
    permits[1].release(Outcome.OK)


@in_virtual_time
async def test_two_thousand_waits_cancelled_at_once_cost_little() -> None:
    made = limiter(start=1)
    permit = await made.acquire()
    tasks = [asyncio.create_task(made.acquire()) for _ in range(2000)]
    await settle()

    for task in random.Random(1).sample(tasks, 1999):
        task.cancel()
    await settle()

    assert made.stats().waiting == 1
    permit.release(Outcome.OK)
    last = next(task for task in tasks if not task.cancelled())
    (await last).release(Outcome.OK)


def test_the_defaults_are_the_real_clock_and_chance() -> None:
    async def test() -> Limiter:
        made = AdaptiveLimiter()
        (await made.acquire()).release(Outcome.RATE_LIMITED)
        return made

    assert asyncio.run(test()).stats().paused_until is not None
