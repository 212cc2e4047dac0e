"""DirectEngine: prompts by a real relay to a provider of ours, without opencode or socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import (
    BillingError,
    ConfigurationError,
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    ServerError,
    TruncatedStreamError,
)
from chutes_opencode.events import Retrying, StepEnd, StepRestarted, TextDelta
from chutes_opencode.relay.terms import SystemRule
from chutes_opencode.request import ChatMessage
from chutes_opencode.results import Message, TextPart, Transcript
from chutes_opencode.retry import RetryPolicy
from tests.unit.engines.direct.stage import ANSWER, MakePlay, messages
from tests.unit.relay.stage import (
    BROKEN,
    GOOD,
    KEY,
    MODEL,
    OTHER,
    Answer,
    chunk,
    closing,
    error,
    stalling,
    stream,
)

# --- an answer ------------------------------------------------------------------------------------


def test_an_answer_is_a_transcript_like_any_engines(play: MakePlay) -> None:
    p = play()

    evidence = p.run()

    (exchange,) = evidence.exchanges
    assert evidence.transcript == Transcript(None, (Message("user", (TextPart("hello"),)), ANSWER))
    assert (evidence.returncode, evidence.stopped, evidence.ended) == (0, None, None)
    assert (evidence.relayed, evidence.work_dir) == (True, None)
    assert (exchange.status, exchange.whole, exchange.cost_usd) == (200, True, ANSWER.cost_usd)
    assert evidence.duration_s >= (exchange.duration_s or 0)


def test_deltas_are_told_in_order_and_then_the_steps_end(play: MakePlay) -> None:
    p = play()

    p.run()

    assert p.told(TextDelta, StepEnd) == [
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        StepEnd(usage=ANSWER.usage, finish_reason="stop"),
    ]


def test_the_request_is_sent_with_the_key_and_a_session_of_its_own(play: MakePlay) -> None:
    p = play()

    evidence = [p.run(), p.run()]

    asked = p.provider.asked
    assert [one.headers["authorization"] for one in asked] == [f"Bearer {KEY}"] * 2
    sessions = [one.headers["x-session-id"] for one in asked]
    assert sessions == [each.exchanges[0].session_id for each in evidence]
    assert len(set(sessions)) == 2


def test_what_makes_opencodes_requests_the_callers_is_not_done_twice(play: MakePlay) -> None:
    p = play()
    history = (ChatMessage("user", "a"), ChatMessage("assistant", "b"))
    opencodes = p.terms(
        system=SystemRule("marker", "other"),
        body_keys=frozenset({"model"}),
        body_values={"temperature": 1},
        history=history,
        tool_prefixes=("x_",),
    )

    evidence = p.run(terms=opencodes, history=history, system_message="Be kind.")

    assert [row["content"] for row in messages(p)] == ["Be kind.", "a", "b", "hello"]
    assert "temperature" not in p.provider.asked[0].body
    assert evidence.returncode == 0


def test_a_tool_call_that_nobody_offered_is_no_answer(play: MakePlay) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    called = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}

    evidence = play(stream(chunk("", choices=[called]))).run()

    assert evidence.transcript.finish_reason == "tool-calls"


# --- failures -------------------------------------------------------------------------------------


def test_a_stream_that_broke_is_asked_again_and_its_text_is_void(play: MakePlay) -> None:
    p = play(closing(chunk("vain")), stream(*GOOD))

    evidence = p.run()

    assert evidence.transcript.text == "Hello"
    assert [exchange.attempt for exchange in evidence.exchanges] == [1, 2]
    assert [exchange.whole for exchange in evidence.exchanges] == [False, True]
    names = [type(event).__name__ for event in p.told(TextDelta, StepRestarted)]
    assert names == ["TextDelta", "StepRestarted", "TextDelta", "TextDelta"]


@pytest.mark.parametrize(
    ("answer", "tries_left", "requests", "kind", "partial"),
    [
        (closing(*BROKEN), 3, 3, TruncatedStreamError, "Hello"),
        (closing(*BROKEN), 1, 1, TruncatedStreamError, "Hello"),
        (error(500, "down"), 3, 3, ServerError, ""),
        (error(500, "down"), 2, 2, ServerError, ""),
        (error(402, "no money"), 3, 1, BillingError, ""),
        (stream(*BROKEN, chunk(finish="weird")), 3, 1, TruncatedStreamError, "Hello"),
    ],
)
def test_a_failure_is_tried_as_often_as_is_left_and_then_told(
    play: MakePlay,
    answer: Answer,
    tries_left: int,
    requests: int,
    kind: type[OpenCodeError],
    partial: str,
) -> None:
    p = play(answer)

    evidence = p.run(terms=p.terms(tries_left=tries_left))

    assert len(p.provider.asked) == len(evidence.exchanges) == requests
    assert type(evidence.ended) is kind
    assert (evidence.returncode, evidence.stopped) == (-1, None)
    assert evidence.transcript.text == partial
    assert evidence.transcript.finish_reason is None
    assert p.told(StepEnd) == []


def test_attempts_count_on_over_both_kinds_of_failure(play: MakePlay) -> None:
    p = play(error(500, "down"), closing(*BROKEN), error(500, "down"), stream(*GOOD))

    evidence = p.run()

    assert [exchange.attempt for exchange in evidence.exchanges] == [1, 2, 3]
    assert type(evidence.ended) is ServerError
    assert len(p.told(Retrying)) == 1


def test_a_wait_that_the_policy_does_not_allow_is_an_end(play: MakePlay) -> None:
    p = play(closing(*BROKEN))
    hasty = RetryPolicy(base_wait_s=10, max_wait_s=1)

    evidence = p.run(terms=p.terms(policy=hasty))

    assert type(evidence.ended) is TruncatedStreamError
    assert len(p.provider.asked) == 1


def test_what_ends_the_prompt_ends_its_wait(play: MakePlay) -> None:
    p = play(closing(*BROKEN))
    patient = RetryPolicy(base_wait_s=50, jitter=0)

    async def stop_in_the_wait() -> Evidence:
        running = asyncio.ensure_future(p.arun(terms=p.terms(policy=patient), timeout_seconds=1))
        return await running

    evidence = asyncio.run(stop_in_the_wait())

    assert evidence.stopped == "timeout"
    assert len(p.provider.asked) == 1


def test_the_deadline_ends_it(play: MakePlay) -> None:
    p = play(stalling(*BROKEN))

    async def run() -> Evidence:
        deadline = asyncio.get_running_loop().time() + 0.5
        return await p.arun(terms=p.terms(deadline=deadline))

    evidence = asyncio.run(run())

    assert type(evidence.ended) is PromptTimeoutError
    assert evidence.transcript.text in ("Hello", "")


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"max_requests": 1}, "max_requests"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"max_cost_usd": 1e-9}, "max_cost_usd"),
    ],
)
def test_a_limit_ends_it(play: MakePlay, limits: dict[str, Any], limit: str) -> None:
    p = play(closing(*BROKEN))

    evidence = p.run(terms=p.terms(**limits))

    assert isinstance(evidence.ended, LimitExceededError)
    assert evidence.ended.limit == limit
    assert len(p.provider.asked) <= 1


def test_another_model_stands_in(play: MakePlay) -> None:
    p = play(error(404, "model not found: x"), stream(*GOOD))

    evidence = p.run(terms=p.terms(fallback_models=(OTHER,)))

    assert [one.body["model"] for one in p.provider.asked] == [MODEL, OTHER]
    assert evidence.transcript.text == "Hello"


def test_a_price_that_is_unknown_is_refused_where_dollars_are_limited(play: MakePlay) -> None:
    p = play()

    with pytest.raises(ConfigurationError):
        p.run(terms=p.terms(prices={MODEL: None}, max_cost_usd=1.0))
