"""How many tasks run at once, and what people are told that they wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running import executor as executor_module
from chutes_opencode.batch.running.executor import (
    ACCOUNT_SECONDS,
    Finished,
    LlmExecutor,
    _Running,
)
from chutes_opencode.limits import Budget
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.relay.limiter import LimiterStats
from chutes_opencode.relay.resources import account_name
from chutes_opencode.relay.server import RelayStats
from tests.patience import WAIT_SECONDS
from tests.unit.echo import KEY, EchoEngine, set_up_echo

T = TypeVar("T")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    return set_up_echo(tmp_path, monkeypatch)


def executor(concurrency: int = 4, **fields: Any) -> LlmExecutor:
    setup = fields.pop("setup", {})
    return LlmExecutor(ChutesOpenCodeLLM(**{"model": "m"} | setup), concurrency, **fields)


def task(prompt: str) -> Task:
    return Task(BatchItem("one", prompt), "", 0)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, WAIT_SECONDS))


def ask(one: LlmExecutor) -> None:
    """Have a task under way that has asked the model."""
    one._running[cast("asyncio.Task[Finished]", object())] = _Running(asked=True)


def know(monkeypatch: pytest.MonkeyPatch, one: LlmExecutor, key: str = KEY, **known: Any) -> None:
    """Have the relay know this of the account."""
    nothing = LimiterStats(16, 0, 0, None, None, 0, 0, 0, 0)
    stats = replace(nothing, **known)
    account = account_name(one.llm.settings.base_url, key)
    told = RelayStats(0, 0, 0, {account: stats, "another": nothing})
    monkeypatch.setattr(ChutesOpenCodeLLM, "relay_stats", staticmethod(lambda: told))


@pytest.mark.parametrize(
    ("known", "places"),
    [
        ({"in_flight": 16}, 20),
        ({"in_flight": 16, "waiting": 4}, 20),
        ({"in_flight": 4, "limit": 4, "waiting": 1}, 5),
        ({"in_flight": 1, "limit": 1}, 2),
        ({"in_flight": 100, "limit": 128}, 64),
        ({"limit": 4, "paused_until": 1.0}, 5),
    ],
)
def test_so_many_run_at_once_as_the_account_lets_through(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], places: int
) -> None:
    one = executor(64)
    know(monkeypatch, one, **known)
    ask(one)

    assert one.places() == places


@pytest.mark.parametrize(("relay", "asks"), [(True, False), (False, False), (False, True)])
def test_no_relay_is_looked_at_where_none_was_asked(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch, relay: bool, asks: bool
) -> None:
    looks: list[None] = []
    monkeypatch.setattr(ChutesOpenCodeLLM, "relay_stats", staticmethod(lambda: looks.append(None)))
    one = executor(64, setup={"relay": relay})
    if asks:
        ask(one)

    assert (one.places(), one.waiting()) == (20 if relay else 64, "")
    assert looks == []


def test_what_was_learned_of_the_account_holds_while_nothing_is_asked(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = executor(64)
    know(monkeypatch, one, limit=4, in_flight=4)
    ask(one)
    one.places()

    one._running.clear()

    assert one.places() == 5


def test_the_key_is_looked_up_once_a_second_and_may_change(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, now, names = executor(64), [0.0], [account_name("http://127.0.0.1:1/v1", KEY)]
    looked: list[str] = []

    def account(_: LlmExecutor) -> str:
        looked.append(names[-1])
        return names[-1]

    monkeypatch.setattr(executor_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(LlmExecutor, "_account_name", account)
    know(monkeypatch, one, limit=4, in_flight=4)
    ask(one)
    assert [one.places() for _ in range(3)] == [5, 5, 5]
    assert looked == names

    names.append(account_name("http://127.0.0.1:1/v1", "another"))
    now[0] += ACCOUNT_SECONDS
    assert one.places() == 5  # nothing is known of the new one yet
    assert looked == names

    know(monkeypatch, one, "another", limit=8, in_flight=8)
    assert one.places() == 10


def test_before_anything_was_asked_it_begins_like_the_limiter(engine: EchoEngine) -> None:
    assert executor(64).places() == 20
    assert executor(3).places() == 3
    assert executor(64, setup={"relay": False}).places() == 64


def test_permits_that_agents_do_not_use_go_to_more_of_them(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = executor(64)
    know(monkeypatch, one, limit=4, in_flight=1)

    async def main() -> list[int]:
        running = [asyncio.create_task(one.run(task("wait"))) for _ in range(6)]
        await asyncio.sleep(0)
        next(iter(one._running.values())).asked = True
        counts = [one.places()]
        for state in one._running.values():
            state.asked = True
        counts.append(one.places())
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return counts

    assert run(main()) == [5, 6 + 3]


def test_people_are_told_what_is_waited_for(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget("b", 1.0)
    one = executor(budget=budget)
    ask(one)
    know(monkeypatch, one)
    assert one.waiting() == ""

    know(monkeypatch, one, paused_until=time.monotonic() + WAIT_SECONDS)
    assert one.waiting().startswith("rate limit until ")

    know(monkeypatch, one, paused_until=0.0)
    remove = budget.add_waiter(lambda: None)
    assert one.waiting() == "rate limit, the budget: until requests under way have told their cost"
    remove()
