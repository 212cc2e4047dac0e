"""Workers on every node that can hold one, as long as there is a cluster; else a clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from chutes_opencode.distributed.dispatch import fleet as fleet_module
from chutes_opencode.distributed.dispatch.fleet import Fleet, WorkerPlan
from chutes_opencode.distributed.dispatch.link import Link
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.work.orders import Load, Report
from chutes_opencode.distributed.worker import Health
from chutes_opencode.errors import ConfigurationError, NoWorkerError, OpenCodeError
from tests.unit.distributed.dispatch.test_link import Actor, Method

DEAD = ray.exceptions.RayActorError(error_msg="it was killed")
GIB = 1 << 30


def node(name: str, cpus: float = 4.0) -> dict[str, Any]:
    return {"NodeID": name, "Alive": True, "Resources": {"CPU": cpus, "memory": 8.0 * GIB}}


class Stage(Fleet):
    """A fleet whose actors are made here, and its crew."""

    def __init__(self, *nodes: dict[str, Any], begin: Iterable[Any] = (), **plan: Any) -> None:
        self.nodes = list(nodes)
        self.outcomes = list(begin)
        self.receipts = Method(...)
        self.actors: list[tuple[str, Actor]] = []
        self.gone: list[str] = []
        self.errors: list[OpenCodeError] = []
        stage: Any = self
        super().__init__(WorkerPlan(**plan), stage, stage, stage, look=self.look)

    def look(self) -> list[dict[str, Any]]:
        if not self.nodes:
            raise ConnectionError("the cluster is gone")
        return self.nodes

    def _start_actor(self, node_id: str) -> Any:
        outcome = self.outcomes.pop(0) if self.outcomes else None
        begin = Method(outcome or Health(node_id, 1, 0, Load(places=2), 0, 0.0))
        actor = Actor(begin=begin, close=Method(None), receipts=self.receipts)
        self.actors.append((node_id, actor))
        return actor

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        return (name,)

    def joined(self, link: Link, load: Load) -> None:
        """Nothing is to be done."""

    def reported(self, link: Link, report: Report) -> None:
        """Nothing is to be done."""

    async def left(self, link: Link, reason: str) -> None:
        self.gone.append(f"{link.node}: {reason}")

    def hopeless(self, error: OpenCodeError) -> None:
        self.errors.append(error)

    @property
    def states(self) -> list[tuple[str, str]]:
        return sorted((link.node, state) for link, state in self.links.items())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(fleet_module, "_FIRST_PAUSE_SECONDS", 0.005)


def run(stage: Stage, work: Callable[[], Awaitable[None]]) -> None:
    async def carry_out() -> None:
        try:
            await work()
        finally:
            await stage.close()

    asyncio.run(asyncio.wait_for(carry_out(), 60))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_every_node_gets_a_worker_and_one_that_comes_later_too() -> None:
    stage = Stage(node("a"), node("b"), node("thin", cpus=0.5))

    async def work() -> None:
        await stage.start()
        await until(lambda: stage.states == [("a", "ready"), ("b", "ready")])
        stage.nodes.append(node("c"))
        await until(lambda: stage.states == [("a", "ready"), ("b", "ready"), ("c", "ready")])

    run(stage, work)
    assert all(actor.close.calls for _, actor in stage.actors)  # type: ignore[attr-defined]


def test_more_workers_than_the_nodes_can_hold_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(node("a", cpus=2), workers=5)

    async def work() -> None:
        await stage.start()
        await until(lambda: stage.states == [("a", "ready"), ("a", "ready")])
        stage.nodes.append(node("b", cpus=2))
        await until(lambda: len(stage.states) == 4)

    run(stage, work)
    told = [record.message.split(":")[0] for record in caplog.records]
    assert told == [
        "5 workers were asked for, and the cluster has room for 2",
        "5 workers were asked for, and the cluster has room for 4",
    ]


def test_a_lost_worker_is_seen_to_and_replaced() -> None:
    stage = Stage(node("a"))
    stage.receipts = Method(DEAD)

    async def work() -> None:
        await stage.start()
        await until(lambda: len(stage.gone) >= 2)

    run(stage, work)
    assert set(stage.gone) == {"a: it was killed"}
    assert len(stage.actors) >= 2


def test_a_worker_that_cannot_be_begun_is_told_with_its_own_error() -> None:
    error = ConfigurationError("a", raw_message="no opencode of that version")
    raised: Any = ray.exceptions.RayTaskError
    stage = Stage(node("a"), begin=[raised("f", "", error)] * 50)

    async def work() -> None:
        with pytest.raises(ConfigurationError, match="no opencode of that version") as caught:
            await stage.start()
        assert caught.value is error

    run(stage, work)


def test_a_node_that_cannot_work_does_not_keep_the_others_from_it() -> None:
    error = ConfigurationError("a", raw_message="no opencode of that version")
    raised: Any = ray.exceptions.RayTaskError
    stage = Stage(node("a"), node("b"), begin=[raised("f", "", error)])

    async def work() -> None:
        await stage.start()
        await until(lambda: stage.states == [("a", "ready"), ("b", "ready")])

    run(stage, work)
    assert stage.errors == []


def test_a_cluster_without_a_place_is_waited_for_and_then_told() -> None:
    stage = Stage(node("thin", cpus=0.5), patience_seconds=0.02)

    async def work() -> None:
        with pytest.raises(NoWorkerError, match=r"a worker needs CPU 1, memory 1\.5 GiB"):
            await stage.start()

    run(stage, work)
    assert isinstance(stage.errors[0], NoWorkerError)


def test_a_worker_that_always_dies_is_told_with_the_reason() -> None:
    stage = Stage(node("a"), begin=[DEAD] * 10_000, patience_seconds=0.05)

    async def work() -> None:
        with pytest.raises(NoWorkerError, match="it was killed"):
            await stage.start()

    run(stage, work)


def test_a_cluster_that_cannot_be_asked_for_a_while_keeps_its_workers() -> None:
    stage, looked = Stage(node("a")), list[int]()

    def look() -> list[dict[str, Any]]:
        looked.append(len(looked))
        if len(looked) in range(2, 5):
            raise ConnectionError("the GCS is being started again")
        return stage.nodes

    stage._nodes = look

    async def work() -> None:
        await stage.start()
        stage.nodes.append(node("b"))
        await until(lambda: stage.states == [("a", "ready"), ("b", "ready")])

    run(stage, work)
    assert (stage.errors, stage.gone) == ([], [])


def test_what_is_put_back_when_nobody_replaces_workers_is_not_left_waiting() -> None:
    stage = Stage(node("a"))
    stage.receipts = Method(DEAD)

    async def left(_link: Link, _reason: str) -> None:
        stage.nodes.clear()
        await until(lambda: stage.errors)
        stage.gone.append("what it had was put back")

    stage.left = left  # type: ignore[assignment,method-assign]

    async def work() -> None:
        await stage.start()
        await until(lambda: stage.gone and not stage.links)

    run(stage, work)
    assert len(stage.errors) == 2, "told once more, for what was put back"
    assert "the cluster is gone" in stage.errors[-1].raw_message


def test_a_cluster_that_cannot_be_asked_is_told_at_once() -> None:
    stage = Stage()

    async def work() -> None:
        with pytest.raises(NoWorkerError, match="the cluster is gone"):
            await stage.start()
        assert len(stage.errors) == 1

    run(stage, work)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"concurrency": 0}, {"num_cpus": -1}])
def test_what_could_only_be_waited_for_in_vain_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"{name} must be at least"):
        WorkerPlan(**wrong)
