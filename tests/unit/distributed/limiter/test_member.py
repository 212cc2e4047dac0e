"""The limiter of one process, whose permits come from a desk that may die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chutes_opencode.distributed.limiter.member import MemberLimiter
from chutes_opencode.distributed.limiter.protocol import DeskClient, DeskLostError
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.relay.flow import Outcome, Pace
from chutes_opencode.relay.limiter import LimiterStats, Permit
from tests.unit.distributed.limiter.cluster import Cluster
from tests.unit.relay.test_limiter import ask, in_virtual_time
from tests.unit.relay.virtual_time import clock, settle


def cluster(**pace: Any) -> Cluster:
    return Cluster(Pace(**{"jitter": 0.0, **pace}), way_s=0.0)


async def release(*permits: Permit) -> None:
    for permit in permits:
        permit.release(Outcome.OK)
    await asyncio.sleep(0.01)


@in_virtual_time
async def test_a_free_account_gives_a_permit_at_once() -> None:
    made = cluster()
    limiter = made.member()

    permit = await limiter.acquire()
    assert made.desk.held() == {"n1": 1}
    await release(permit)

    assert made.desk.held() == {}
    assert clock() < 0.1


@in_virtual_time
async def test_two_processes_share_one_limit() -> None:
    made = cluster(start=1, max_in_flight=1)
    first, second = made.member("n1"), made.member("n2")
    permit = await first.acquire()
    waiting = await ask(second)

    await asyncio.sleep(30)
    assert not waiting.done()
    permit.release(Outcome.OK)

    await release(await waiting)
    assert clock() < 30.1


@in_virtual_time
async def test_priority_goes_first_on_the_whole_cluster() -> None:
    made = cluster(start=1, max_in_flight=1)
    first, second = made.member("n1"), made.member("n2")
    permit = await first.acquire()
    ordinary = [await ask(first), await ask(second)]
    await asyncio.sleep(0.1)
    urgent = await ask(second, priority=True)
    await asyncio.sleep(0.1)

    await release(permit)

    assert urgent.done()
    assert not any(task.done() for task in ordinary)
    for task in (urgent, *ordinary):
        await release(await task)


@in_virtual_time
async def test_waiting_ends_at_the_deadline_also_without_a_desk() -> None:
    async def find() -> DeskClient:
        raise DeskLostError("not there")

    limiter = MemberLimiter(find, "n1", clock=clock)

    with pytest.raises(TimeoutError):
        await limiter.acquire(deadline=7.0)

    assert clock() == 7.0
    assert limiter.stats().waiting == 0
    await asyncio.sleep(10)
    assert limiter._talking is not None
    assert limiter._talking.done(), "nobody is looked for any more"


@in_virtual_time
async def test_a_pause_beyond_the_deadline_is_told_at_once() -> None:
    limiter = cluster().member()
    permit = await limiter.acquire()
    permit.release(Outcome.RATE_LIMITED, pause_until=50.0)
    assert not await permit.is_collateral()

    with pytest.raises(TimeoutError):
        await limiter.acquire(deadline=49.0)

    assert clock() < 0.1
    await release(await limiter.acquire(deadline=60.0))
    assert 50.0 <= clock() < 50.1


@in_virtual_time
async def test_a_pause_holds_for_all() -> None:
    made = cluster()
    first, second = made.member("n1"), made.member("n2")
    permit = await first.acquire()
    permit.release(Outcome.RATE_LIMITED, pause_until=50.0)
    await permit.is_collateral()

    probe = await second.acquire()

    assert 50.0 <= clock() < 50.1
    assert second.stats().rate_limited == 1
    waiting = await ask(first)
    await asyncio.sleep(1)
    assert not waiting.done()
    probe.accepted()
    await asyncio.sleep(0.1)
    assert waiting.done()
    await release(probe, await waiting)


@in_virtual_time
async def test_who_is_patient_so_long_is_told_that_nothing_gets_through() -> None:
    made = cluster(start=1, max_in_flight=1)
    first, second = made.member("n1"), made.member("n2")
    permit = await first.acquire()
    impatient = asyncio.create_task(second.acquire(patience=5.0))
    patient = await ask(second)
    await asyncio.sleep(6)

    permit.release(Outcome.RATE_LIMITED)
    await asyncio.sleep(0.1)

    assert isinstance(impatient.exception(), TimeoutError)
    assert not patient.done()
    await release(await patient)


@in_virtual_time
async def test_refusals_of_one_burst_are_collateral_but_for_the_first() -> None:
    limiter = cluster().member()
    permits = [await limiter.acquire() for _ in range(4)]

    for permit, outcome in zip(
        permits, [Outcome.RATE_LIMITED] * 2 + [Outcome.CANCELLED, Outcome.OK], strict=True
    ):
        permit.release(outcome)

    verdicts = [await permit.is_collateral() for permit in permits]
    assert verdicts == [False, True, False, False]


@in_virtual_time
async def test_a_verdict_that_does_not_come_is_not_waited_for_long() -> None:
    made = cluster()
    limiter = made.member()
    permit = await limiter.acquire()

    async def find() -> DeskClient:
        raise DeskLostError("not there")

    limiter._find = find
    made.kill_desk()
    permit.release(Outcome.RATE_LIMITED)

    assert not await permit.is_collateral()
    assert clock() == pytest.approx(5.0, abs=0.1)
    limiter._find = made.find
    await asyncio.sleep(3)  # the verdict comes after all, and nobody minds


@in_virtual_time
async def test_a_permit_is_released_and_taken_once() -> None:
    made = cluster()
    limiter = made.member()
    permit = await limiter.acquire()

    permit.accepted()
    permit.accepted()
    permit.release(Outcome.CAPACITY)
    permit.release(Outcome.CAPACITY)
    permit.accepted()

    assert not await permit.is_collateral()
    await settle()
    assert made.desk.stats().capacity == 1
    assert made.desk.stats().in_flight == 0


@in_virtual_time
async def test_a_wait_that_is_cancelled_costs_no_permit() -> None:
    made = cluster(start=1, max_in_flight=1)
    limiter = made.member()
    permit = await limiter.acquire()
    waiting = [await ask(limiter) for _ in range(3)]
    await asyncio.sleep(0.1)

    for task in waiting:
        task.cancel()
    await settle()
    permit.release(Outcome.OK)
    await asyncio.sleep(3)

    assert made.desk.held() == {}
    assert made.desk.idle_seconds() > 0
    lessons = made.desk._flow.lessons(clock())
    assert sum(count for _, count in lessons.recent) == 1, "what was not sent does not count"


@in_virtual_time
async def test_the_limit_of_a_process_is_its_fair_share() -> None:
    made = cluster(start=16, max_in_flight=16)
    first, second = made.member("n1"), made.member("n2")
    assert first.stats() == LimiterStats(16, 0, 0, None, None, 0, 0, 0, 0)

    permit = await first.acquire()
    assert first.stats().limit == 16
    other = await second.acquire()
    stats = second.stats()

    assert (stats.limit, stats.in_flight, stats.waiting, stats.permits) == (8, 1, 0, 1)
    await release(permit, other)


@in_virtual_time
async def test_the_desk_dies_and_the_next_one_is_told_what_is_held() -> None:
    made = cluster(start=2, max_in_flight=2)
    first, second = made.member("n1"), made.member("n2")
    held = [await first.acquire(), await second.acquire()]
    waiting = await ask(second)

    made.kill_desk()
    await asyncio.sleep(10)

    assert len(made.desks) == 2
    assert made.desk.held() == {"n1": 1, "n2": 1}
    assert not waiting.done()
    held[0].release(Outcome.OK)
    await release(held[1], await waiting)
    assert made.desk.held() == {}


@in_virtual_time
async def test_what_is_told_just_when_the_desk_dies_is_told_again() -> None:
    made = cluster()
    limiter = made.member()
    permits = [await limiter.acquire() for _ in range(3)]

    permits[0].release(Outcome.OK)
    permits[1].release(Outcome.RATE_LIMITED)
    made.kill_desk()

    assert not await permits[1].is_collateral()
    assert made.desk.held() == {"n1": 1}
    assert made.desk.stats().rate_limited == 1
    await release(permits[2])
    assert made.desk.held() == {}


@in_virtual_time
async def test_a_desk_that_took_a_process_for_dead_hears_again_what_it_holds() -> None:
    made = cluster()
    limiter = made.member()
    permit = await limiter.acquire()

    made.desk.forget("n1")
    await asyncio.sleep(3)

    assert made.desk.held() == {"n1": 1}
    await release(permit)
    assert made.desk.held() == {}


@in_virtual_time
async def test_a_desk_is_looked_for_until_there_is_one() -> None:
    made = cluster()
    tries = []

    async def find() -> DeskClient:
        tries.append(clock())
        if len(tries) < 4:
            raise DeskLostError("not yet")
        return await made.find()

    limiter = MemberLimiter(find, "n1", clock=clock)

    await release(await limiter.acquire())

    assert tries == [pytest.approx(at) for at in (0.0, 0.05, 0.15, 0.35)]


@pytest.mark.parametrize("error", [ConfigurationError("no cluster"), ValueError("a fault")])
def test_without_a_cluster_nobody_waits(error: Exception) -> None:
    async def test() -> None:
        async def find() -> DeskClient:
            raise error

        limiter = MemberLimiter(find, "n1", clock=clock)
        with pytest.raises(type(error)):
            await limiter.acquire()

        assert limiter._talking is not None
        await asyncio.wait([limiter._talking])
        told = limiter._talking.exception()
        assert (told is None) == isinstance(error, ConfigurationError)

    in_virtual_time(test)()


@in_virtual_time
async def test_an_idle_process_says_nothing() -> None:
    made = cluster()
    limiter = made.member()
    await release(await limiter.acquire())
    calls = made.calls_made

    await asyncio.sleep(3600)
    assert made.calls_made == calls

    await release(await limiter.acquire())
    assert made.calls_made > calls
