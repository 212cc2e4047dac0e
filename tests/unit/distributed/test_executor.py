"""What a run on a cluster does on the driver; Ray itself is a stand-in here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running.executor import RunStart
from chutes_opencode.batch.store.shards import ShardWriter
from chutes_opencode.credentials import CHUTES
from chutes_opencode.distributed import executor as module
from chutes_opencode.distributed.executor import RayExecutor, durable
from chutes_opencode.distributed.work.orders import Receipt, slim
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.settings import load_settings
from tests.unit.batch.shard_room import bring, write_shard
from tests.unit.batch.store_room import record

KEY = "cpk_0123456789abcdef0123456789abcdef"
A, B, C = record("a"), record("b", at=2.0), record("c", at=3.0)


class Dispatcher:
    """Carries out whatever comes; has been ended so and so often."""

    places, waiting, closed = 3, "", 0

    async def run(self, _packed: bytes, _key: object) -> Receipt:
        return Receipt(1, fault="a fault of ours")

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "run")


class Ticket:
    def end(self) -> None:
        raise ConnectionError("the cluster is gone")


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> RayExecutor:
    monkeypatch.setattr(module, "drivers_version", lambda _llm: "1.2.3")
    monkeypatch.setattr(module, "Parcel", SimpleNamespace(of=lambda _llm: None))
    monkeypatch.setattr(module, "key_of", lambda _settings: KEY)
    llm: Any = SimpleNamespace(settings=None, options=SimpleNamespace(provider=CHUTES))
    executor = RayExecutor(llm)
    monkeypatch.setattr(executor, "_dispatcher", Dispatcher())
    return executor


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the cluster was asked for; there is none."""
    asked: list[dict[str, Any]] = []

    def refuse(address: str | None, **how: Any) -> None:
        asked.append({"address": address, **how})
        raise ConfigurationError(raw_message="no Ray cluster")

    monkeypatch.setattr(module, "connect", refuse)
    return asked


def test_the_cluster_is_looked_for_when_a_run_begins(
    asked: list[dict[str, Any]], executor: RayExecutor
) -> None:
    assert (asked, executor.opencode_version()) == ([], "1.2.3")

    with pytest.raises(ConfigurationError, match="no Ray cluster"):
        asyncio.run(executor.begin(RunStart("place", "run")))

    assert len(asked) == 1


def test_a_job_that_was_sent_with_a_key_is_refused_before_anything_is_begun(
    asked: list[dict[str, Any]], executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {"runtime_env": {"env_vars": {"CHUTES_API_TOKEN": KEY}}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(sent))

    with pytest.raises(ConfigurationError, match="runtime_env holds a key"):
        RayExecutor(executor._llm)

    assert asked == []


def test_a_cluster_of_our_own_is_not_started_without_a_key(
    asked: list[dict[str, Any]], executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHUTES_API_TOKEN", "CHUTES_API_KEY", "CHUTES_API_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    without = load_settings(environ={"HOME": "/nowhere"}, cwd=Path("/nowhere"))
    settings = SimpleNamespace(with_fresh_token=lambda: without)
    monkeypatch.setattr(executor, "_llm", SimpleNamespace(settings=settings))
    with pytest.raises(ConfigurationError, match="no Ray cluster"):
        asyncio.run(executor.begin(RunStart("place", "run")))

    with pytest.raises(AuthenticationError):
        asked[0]["before_start"]()


def test_an_item_that_cannot_be_sent_fails_alone(executor: RayExecutor) -> None:
    finished = asyncio.run(executor.run(Task(BatchItem("one", f"my key is {KEY}"))))

    assert isinstance(finished.result.error, ConfigurationError)
    assert KEY not in str(finished.result.error)


def test_a_fault_of_ours_is_no_result(executor: RayExecutor) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        asyncio.run(executor.run(Task(BatchItem("one", "hello"))))


def test_its_end_may_be_asked_for_on_any_loop_and_costs_no_summary(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_ticket", Ticket())

    asyncio.run(executor.close())
    asyncio.run(executor.close())

    assert executor._dispatcher is not None
    assert executor._dispatcher.closed == 2  # type: ignore[attr-defined]


def test_of_a_lost_worker_only_what_is_asked_for_is_kept(place: str) -> None:
    write_shard(place, "w1", A, B, C)

    found = durable(place, "w1", {A.key, C.key, ("never", "", 0)})

    assert {key: finished.stored for key, finished in found.items()} == {
        A.key: slim(A),
        C.key: slim(C),
    }


def test_a_lost_worker_that_lives_on_stores_nothing_any_more(place: str) -> None:
    with ShardWriter.open(place, "w1") as writer:
        assert bring(writer, A) == [A]
        assert durable(place, "w1", {A.key, B.key}).keys() == {A.key}

        (refused,) = bring(writer, B)

    assert isinstance(refused, StoreError)
    assert durable(place, "w1", {B.key}) == {}
