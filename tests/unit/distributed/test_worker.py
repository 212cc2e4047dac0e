"""A worker, but for Ray's calls: what it begins with, and how it takes prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.running.executor import RunStart
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.distributed import worker as module
from chutes_opencode.distributed.worker import Station
from chutes_opencode.errors import ConfigurationError, WorkerLostError
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import answer
from tests.unit.batch.store_room import MANIFEST


class Instance:
    """Answers when it is let; counts what it was asked at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.door = asyncio.Event()

    async def _runtime(self) -> None:
        await asyncio.sleep(0)

    async def _ask(self, arguments: dict[str, Any], *_: object, **__: object) -> QueryResult:
        self.asked.append(arguments["prompt"])
        await self.door.wait()
        return answer(arguments["prompt"])


class Idle:
    """Runs no task of a run."""

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray and the engine are not asked."""
    monkeypatch.setattr(Station, "health", lambda _self: None)
    monkeypatch.setattr(module, "placed", lambda error: error)
    monkeypatch.setattr(module, "make_executor", lambda *_: Idle())


def run(work: Callable[[Station, Instance], Awaitable[None]], concurrency: int = 2) -> None:
    async def carry_out() -> None:
        nothing: Any = None
        station, instance = Station(nothing, nothing, concurrency), Instance()

        async def llm() -> Any:
            return instance

        station.llm = llm  # type: ignore[method-assign]
        await work(station, instance)

    asyncio.run(asyncio.wait_for(carry_out(), 60))


async def prompts(station: Station, *texts: str) -> list[asyncio.Task[QueryResult]]:
    asked = [asyncio.ensure_future(station.prompt(text, {})) for text in texts]
    await asyncio.sleep(0.0)
    return asked


def test_a_disk_of_its_own_is_no_place_for_answers(tmp_path: Path) -> None:
    place = tmp_path / "run"

    async def work(station: Station, _instance: Instance) -> None:
        with pytest.raises(ConfigurationError, match="has no run on this machine") as caught:
            await station.begin(RunStart(str(place), MANIFEST.run_id), None, "w1")
        assert "share" in caught.value.hint

    run(work)
    assert not place.exists()


def test_a_call_that_is_made_again_begins_nothing_twice(tmp_path: Path) -> None:
    RunStore.open(tmp_path, manifest=MANIFEST).close()
    start = RunStart(str(tmp_path), MANIFEST.run_id)

    async def work(station: Station, _instance: Instance) -> None:
        await asyncio.gather(*(station.begin(start, None, "w1") for _ in range(2)))
        await station.close()

    run(work)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["w1"]


def test_no_more_prompts_run_at_once_than_it_has_places_for() -> None:
    async def work(station: Station, instance: Instance) -> None:
        asked = await prompts(station, *"1234")
        assert instance.asked == ["1", "2"]
        assert station.busy

        instance.door.set()
        assert [(await each).result for each in asked] == ["1", "2", "3", "4"]
        assert not station.busy

    run(work)


def test_a_draining_worker_refuses_what_waits_and_ends_what_runs() -> None:
    async def work(station: Station, instance: Instance) -> None:
        first, second = await prompts(station, "first", "second")
        draining = asyncio.ensure_future(station.drain(60.0))
        await asyncio.sleep(0)
        with pytest.raises(WorkerLostError, match="begins no prompt any more"):
            await station.prompt("third", {})

        instance.door.set()
        assert (await first).result == "first"
        with pytest.raises(WorkerLostError, match="begins no prompt any more"):
            await second
        await draining
        assert instance.asked == ["first"]

    run(work, concurrency=1)
