"""What bounds a direct prompt: limits, the cache, the schema, the caller."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    CapacityError,
    ConfigurationError,
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    StructuredOutputError,
)
from chutes_opencode.engines.base import Evidence
from chutes_opencode.events import TextDelta
from chutes_opencode.relay.terms import ReplayKey
from chutes_opencode.structured import Schema
from tests.integration.direct.stage import PRICE, SCHEMA, MakeStage, Stage, verdict
from tests.patience import PROCESS_SECONDS, wait_until

# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "name", "requests"),
    [
        ({"max_requests": 1}, "max_requests", 1),
        ({"max_tokens": 5}, "max_tokens", 1),
        ({"max_cost_usd": 1e-9}, "max_cost_usd", 0),
    ],
)
def test_a_limit_holds(stage: Stage, limits: dict[str, Any], name: str, requests: int) -> None:
    evidence = stage.run("word " * 50, "sim/fault/stream-close", changes=limits)

    assert isinstance(evidence.ended, LimitExceededError)
    assert evidence.ended.limit == name
    assert len(stage.bodies) == requests


def test_the_deadline_of_the_call_ends_it(stage: Stage) -> None:
    async def run() -> Evidence:
        deadline = {"deadline": time.monotonic() + 1}
        return await stage.arun(model="sim/fault/stream-stall", changes=deadline)

    evidence = asyncio.run(run())

    assert type(evidence.ended) is PromptTimeoutError


def test_another_model_answers_where_one_is_full(stage: Stage) -> None:
    full, other = "sim/fault/429-capacity", "sim/echo"
    changes = {"prices": {full: PRICE, other: PRICE}, "fallback_models": (other,)}

    evidence = stage.run("hello", full, changes=changes)

    assert evidence.transcript.text == "hello"
    assert [body["model"] for body in stage.bodies] == [full, other]
    assert verdict(evidence).served_model == other


def test_without_another_model_a_full_one_is_an_error(stage: Stage) -> None:
    evidence = stage.run("hello", "sim/fault/429-capacity")

    assert type(evidence.ended) is CapacityError


# --- what was asked before ------------------------------------------------------------------------


def test_a_prompt_that_was_asked_before_costs_nothing(stage: Stage, tmp_path: Path) -> None:
    changes = {"replay": ReplayKey(tmp_path)}
    first = stage.run("hello", "sim/reasoning", changes=changes)
    told = list(stage.events)
    stage.events.clear()

    second = stage.run("hello", "sim/reasoning", changes=changes)

    assert len(stage.bodies) == 1
    assert second.transcript.trace == first.transcript.trace
    assert [exchange.replayed for exchange in second.exchanges] == [True]
    assert verdict(second).cost_usd == 0
    deltas = [event for event in told if isinstance(event, TextDelta)]
    assert deltas == [event for event in stage.events if isinstance(event, TextDelta)]


# --- structured answers ---------------------------------------------------------------------------


def saying(text: str) -> str:
    """Return a prompt to which sim/script says a text."""
    return json.dumps({"steps": [{"text": text}]})


def test_one_turn_mends_an_answer_that_does_not_fit(stage: Stage) -> None:
    prompt = saying(saying('{"answer": 7}'))

    result = stage.call(prompt, "sim/script", schema=Schema.from_any(SCHEMA))

    assert result.structured == {"answer": 7}
    assert [attempt.scope for attempt in result.attempts] == ["prompt", "repair"]
    first, second = stage.bodies
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert [row["role"] for row in second["messages"][-2:]] == ["assistant", "user"]
    with pytest.raises(ConfigurationError):
        stage.run("more", session_id=result.attempts[-1].session_id)
    assert result.cost_usd == pytest.approx(stage.billed(), abs=1e-12)


def test_what_cannot_be_mended_is_an_error(stage: Stage) -> None:
    with pytest.raises(StructuredOutputError) as raised:
        stage.call(saying('{"answer": "much"}'), "sim/script", schema=Schema.from_any(SCHEMA))

    # One attempt more is made of it, with its own repair.
    assert len(stage.bodies) == 4
    assert raised.value.result is not None


# --- many -----------------------------------------------------------------------------------------


def test_a_cancelled_prompt_leaves_nothing(stage: Stage) -> None:
    async def cancel() -> None:
        running = asyncio.ensure_future(stage.arun(model="sim/fault/stream-stall"))
        await asyncio.to_thread(wait_until, lambda: stage.events and stage.bodies)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())

    stats = stage.relay.stats()
    assert (stats.prompts, stats.leases) == (0, 0)
    assert [known.in_flight for known in stats.limiters.values()] == [0]


def test_two_hundred_at_once_are_each_answered(stage: Stage) -> None:
    async def ask(number: int) -> OpenCodeError | str | None:
        evidence = await stage.arun(f"number {number}", timeout_seconds=PROCESS_SECONDS)
        return verdict(evidence).error or evidence.transcript.text

    async def all_of_them() -> list[OpenCodeError | str | None]:
        return await asyncio.gather(*map(ask, range(200)))

    assert asyncio.run(all_of_them()) == [f"number {number}" for number in range(200)]
    assert len(stage.bodies) == 200


def test_two_hundred_that_are_cancelled_leave_nothing(make_stage: MakeStage) -> None:
    stage = make_stage({"rules": [{"model": "sim/echo", "first_byte_delay_s": 100}]})

    async def cancel() -> None:
        running = [asyncio.ensure_future(stage.arun(f"number {n}")) for n in range(200)]
        await asyncio.to_thread(wait_until, lambda: len(stage.bodies) > 10)
        for each in running:
            each.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended)

    asyncio.run(cancel())

    stats = stage.relay.stats()
    assert (stats.prompts, stats.leases) == (0, 0)
    assert [known.in_flight for known in stats.limiters.values()] == [0]
