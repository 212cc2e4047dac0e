"""One limiter for an account on a real cluster: shared, fair, and alive again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chutes_opencode.distributed.limiter.cluster_limiter import cluster_limiters, forget_node
from chutes_opencode.distributed.limiter.limiter_actor import (
    IDLE_SECONDS,
    MAX_CALLS,
    NAMESPACE,
    LimiterActor,
    actor_name,
    limiter_actor,
)
from chutes_opencode.relay.flow import Outcome, Pace
from chutes_opencode.relay.server import Relay
from tests.distributed.nodes import Nodes
from tests.unit.relay.stage import set_up, whole

WaitUntil = Callable[[Callable[[], Any]], None]

AT_ONCE = 4
PACE = Pace(start=AT_ONCE, max_in_flight=AT_ONCE)


class Provider:
    """What an account's requests meet; counts how many there are at once."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.most = 0
        self.requests = 0

    async def ask(self, seconds: float) -> None:
        self.requests += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(seconds)
        self.in_flight -= 1

    async def told(self) -> tuple[int, int]:
        return self.requests, self.most


class Process:
    """A process of the cluster that sends requests; each waits for its permit."""

    def __init__(self, account: str, node: str) -> None:
        self.limiter = cluster_limiters(node, PACE)(account)
        self.held: list[Any] = []

    async def ask(self, provider: Any, requests: int, seconds: float) -> int:
        await asyncio.gather(*(self._ask(provider, seconds) for _ in range(requests)))
        return requests

    async def _ask(self, provider: Any, seconds: float) -> None:
        permit = await self.limiter.acquire()
        try:
            await provider.ask.remote(seconds)
        finally:
            permit.release(Outcome.OK)

    async def hold(self, permits: int) -> None:
        self.held += [await self.limiter.acquire() for _ in range(permits)]

    async def release(self) -> None:
        while self.held:
            self.held.pop().release(Outcome.OK)


@pytest.fixture
def account(nodes: Nodes) -> Iterator[str]:
    """An account that nobody has used yet; its actor is gone after the test."""
    account = f"test#{uuid.uuid4().hex[:8]}"
    yield account
    ray.kill(limiter_actor(account))


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Start an actor of the test on a node."""
    with ExitStack() as stack:

        def make(kind: Any, node: str, *arguments: Any) -> Any:
            actor = (
                ray.remote(kind)
                .options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
                )
                .remote(*arguments)
            )
            stack.callback(ray.kill, actor)
            return actor

        yield make


@pytest.fixture
def processes(nodes: Nodes, account: str, start: Callable[..., Any]) -> list[Any]:
    """A process on each node that uses the account."""
    return [start(Process, node, account, node) for node in nodes.ids]


@pytest.fixture
def provider(nodes: Nodes, start: Callable[..., Any]) -> Any:
    return start(Provider, nodes.ids[0])


def on_node(node: str, account: str) -> Any:
    """Make the account's actor there."""
    return (
        ray.remote(LimiterActor)
        .options(
            name=actor_name(account),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0.01,  # Ray puts what needs nothing wherever it likes
            max_restarts=-1,
            max_concurrency=MAX_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
        )
        .remote(PACE, IDLE_SECONDS)
    )


def held(account: str) -> dict[str, int]:
    told: dict[str, int] = ray.get(limiter_actor(account, PACE).held.remote())
    return told


def requests(provider: Any) -> int:
    return int(ray.get(provider.told.remote())[0])


def test_all_nodes_together_stay_within_one_limit(
    account: str, processes: list[Any], provider: Any, wait_until: WaitUntil
) -> None:
    asked = [process.ask.remote(provider, 20, 0.02) for process in processes]

    assert ray.get(asked) == [20, 20, 20]

    assert ray.get(provider.told.remote()) == (60, AT_ONCE)
    wait_until(lambda: held(account) == {})
    assert ray.get(limiter_actor(account).stats.remote()).permits == 60


def kill(actor: Any) -> None:
    """End the actor as if by hand: Ray does not start it again."""
    ray.kill(actor)


def process_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


def kill_process(actor: Any) -> None:
    """End its process: Ray starts another one."""
    os.kill(process_of(actor), signal.SIGKILL)


@pytest.mark.parametrize("end", [kill, kill_process])
def test_the_actor_dies_and_nothing_is_lost(
    end: Callable[[Any], None],
    account: str,
    processes: list[Any],
    provider: Any,
    wait_until: WaitUntil,
) -> None:
    asked = [process.ask.remote(provider, 20, 0.2) for process in processes]
    wait_until(lambda: requests(provider) >= 10)

    end(limiter_actor(account))

    assert ray.get(asked) == [20, 20, 20]
    assert ray.get(provider.told.remote()) == (60, AT_ONCE)
    wait_until(lambda: held(account) == {})


def test_what_is_held_is_handed_over_to_the_next_actor(
    account: str, nodes: Nodes, processes: list[Any], wait_until: WaitUntil
) -> None:
    first, second, third = processes
    ray.get([first.hold.remote(3), second.hold.remote(1)])
    waiting = third.hold.remote(1)

    kill(limiter_actor(account))

    wait_until(lambda: held(account) == {nodes.ids[0]: 3, nodes.ids[1]: 1, nodes.ids[2]: 0})
    assert ray.wait([waiting], timeout=0)[0] == []
    ray.get(second.release.remote())
    ray.get(waiting)
    assert held(account) == {nodes.ids[0]: 3, nodes.ids[2]: 1}


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "silent"])
def test_the_permits_of_a_node_that_dies_come_back(
    is_told: bool, account: str, nodes: Nodes, start: Callable[..., Any]
) -> None:
    on_node(nodes.ids[0], account)  # not where it would die with the node
    first, second, third = (start(Process, node, account, node) for node in nodes.ids)
    ray.get([third.hold.remote(AT_ONCE - 1), first.hold.remote(1)])
    node, process = nodes.ids[2], process_of(third)

    nodes.kill_raylet(node)
    with suppress(ProcessLookupError):  # it ends without its raylet, but some time later
        os.kill(process, signal.SIGKILL)
    if is_told:
        forget_node(node)

    ray.get([first.hold.remote(1), second.hold.remote(2)])
    assert held(account) == {nodes.ids[0]: 2, nodes.ids[1]: 2}


def test_the_node_of_the_actor_dies(
    account: str, nodes: Nodes, start: Callable[..., Any], wait_until: WaitUntil
) -> None:
    head, other, last = nodes.ids
    actor = on_node(last, account)
    ray.get(actor.held.remote())
    first, second = start(Process, head, account, head), start(Process, other, account, other)
    ray.get([first.hold.remote(3), second.hold.remote(1)])
    waiting = second.hold.remote(2)

    nodes.kill_raylet(last)

    ray.get(first.release.remote())
    ray.get(waiting)
    wait_until(lambda: held(account) == {other: 3})


def test_the_relay_of_a_process_takes_its_permits_there(
    account: str, nodes: Nodes, wait_until: WaitUntil
) -> None:
    with ExitStack() as stack:
        relay = stack.enter_context(
            Relay(lambda _name: cluster_limiters(nodes.ids[0], PACE)(account))
        )
        stage = set_up(stack, relay)
        stage.open()

        assert all(whole(stage.ask()) for _ in range(3))

        assert stage.limiter().permits == 3
        assert ray.get(limiter_actor(account).stats.remote()).permits == 3
        wait_until(lambda: held(account) == {})


@pytest.mark.usefixtures("nodes")
def test_an_actor_that_nobody_needs_ends_itself(wait_until: WaitUntil) -> None:
    name = f"test#{uuid.uuid4().hex[:8]}"
    process: Any = ray.remote(Process).options(num_cpus=0).remote(name, "a node")
    actor = limiter_actor(name, PACE, idle_seconds=0.5)
    ray.get(process.hold.remote(1))
    ray.get(process.release.remote())

    def is_gone() -> bool:
        try:
            ray.get_actor(actor_name(name), NAMESPACE)
        except ValueError:
            return True
        return False

    wait_until(is_gone)
    ray.get(process.hold.remote(1))  # and is made again when it is needed
    ray.kill(limiter_actor(name))
    ray.kill(process)
    assert actor is not None
