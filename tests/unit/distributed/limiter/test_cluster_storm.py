"""A hundred prompts from three nodes at once, against an account of 4 at once and 60 a minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from chutes_opencode.relay.flow import Pace
from tests.unit.distributed.limiter.cluster import Cluster
from tests.unit.relay.account import Account, Storm, storm, time_allowed
from tests.unit.relay.virtual_time import clock, run

PROMPTS = 99


def account(seed: int = 0, *, service_s: float = 1.0, hints: bool = False) -> Account:
    chance = random.Random(seed)
    return Account(
        service_s=lambda: service_s * (0.5 + chance.random()),
        way_s=lambda: 0.005 * (0.5 + chance.random()),
        hints=hints,
    )


async def storms(cluster: Cluster, target: Account) -> list[Storm]:
    members = [cluster.member(f"n{number}") for number in range(3)]
    outcomes = await asyncio.gather(
        *(storm(member, target, PROMPTS // len(members)) for member in members)
    )
    await asyncio.sleep(10)
    assert cluster.desk.held() == {}
    assert [member.stats().in_flight for member in members] == [0, 0, 0]
    return outcomes


def run_storms(cluster: Cluster, target: Account, *after: Coroutine[Any, Any, None]) -> list[Storm]:
    async def main() -> list[Storm]:
        others = [asyncio.create_task(each) for each in after]
        outcomes = await storms(cluster, target)
        await asyncio.gather(*others)
        return outcomes

    return run(main())


@pytest.mark.parametrize("hints", [False, True], ids=["silent", "with Retry-After"])
@pytest.mark.parametrize("seed", range(4))
def test_the_whole_cluster_stays_within_the_limits_and_no_node_starves(
    seed: int, hints: bool
) -> None:
    target = account(seed, hints=hints)

    outcomes = run_storms(Cluster(), target)

    assert [outcome.failed for outcome in outcomes] == [0, 0, 0]
    assert target.requests <= 1.3 * PROMPTS
    longest = [outcome.longest for outcome in outcomes]
    assert max(longest) <= 1.25 * time_allowed(PROMPTS, account(service_s=1.0))
    assert max(longest) <= 1.5 * min(longest), "the nodes take turns"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("moments", [(0.5,), (20.0,), (5.0, 6.5, 30.0, 70.0)], ids=str)
def test_also_when_the_desk_dies(seed: int, moments: tuple[float, ...]) -> None:
    cluster, target = Cluster(), account(seed)

    async def kill() -> None:
        for moment in moments:
            await asyncio.sleep(moment - clock())
            cluster.kill_desk()

    outcomes = run_storms(cluster, target, kill())

    assert len(cluster.desks) == len(moments) + 1
    assert [outcome.failed for outcome in outcomes] == [0, 0, 0]
    assert target.requests <= 1.3 * PROMPTS


def test_a_configured_rate_is_honoured_by_all_together() -> None:
    target = account()
    target.at_once = 1e9
    cluster = Cluster(Pace(requests_per_minute=30, jitter=0.0))

    run_storms(cluster, target)

    assert target.requests == PROMPTS
    assert sum(target.refused.values()) == target.requests


def test_calls_grow_instead_of_becoming_more() -> None:
    target = account(service_s=0.05)
    target.at_once = target.per_minute = 1e9
    cluster = Cluster(way_s=0.01)

    async def main() -> Storm:
        return await storm(cluster.member(), target, 5000)

    outcome = run(main())

    assert outcome.failed == 0
    assert cluster.calls_made < 5000 / 5
