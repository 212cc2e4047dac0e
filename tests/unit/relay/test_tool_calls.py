"""A tool call goes on with its whole answer only: opencode runs it, and again with the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode.errors import LimitExceededError, TruncatedStreamError
from chutes_opencode.events import RequestStarted, Retrying, StepRestarted, TextDelta
from chutes_opencode.relay.rewrite import rewrite
from chutes_opencode.relay.terms import Terms, Upstream
from tests.unit.relay.stage import DONE, MODEL, Answer, Stage, chunk, closing, event, stream

MakeStage = Callable[..., Stage]


def call(name: str, arguments: str, finish: str | None = None) -> bytes:
    function = {"name": name, "arguments": arguments}
    delta = {"tool_calls": [{"index": 0, "id": "call_1", "function": function}]}
    return event({"model": MODEL, "choices": [{"delta": delta, "finish_reason": finish}]})


CALL = (call("bash", '{"command": '), call("", '"date"}'))
WHOLE = (chunk("Let me see."), *CALL, chunk(finish="tool_calls"), DONE)


@pytest.mark.parametrize("answer", [stream(*CALL), closing(*CALL), stream(*CALL, DONE)])
def test_one_that_dies_is_asked_again_before_anyone_has_seen_it(
    stage: MakeStage, answer: Answer
) -> None:
    s = stage(answer, stream(*WHOLE))
    booking = s.open()

    assert s.ask().content == b"".join(WHOLE)
    booking.close()

    assert [exchange.attempt for exchange in booking.exchanges()] == [1, 2]
    assert [type(event) for event in s.events] == [RequestStarted, Retrying, TextDelta]


def test_one_that_dies_after_some_text_restarts_the_step_without_the_call(
    stage: MakeStage,
) -> None:
    s = stage(stream(chunk("Let me see."), *CALL, pause_s=0.05))
    booking = s.open()

    answer = s.ask()
    booking.close()

    assert answer.content.startswith(chunk("Let me see."))
    assert b"tool_calls" not in answer.content
    assert b"Overloaded" in answer.content
    assert s.events[1] == TextDelta(text="Let me see.")
    assert [type(event) for event in s.events] == [RequestStarted, TextDelta, StepRestarted]


def test_one_that_dies_for_good_never_reaches_opencode(stage: MakeStage) -> None:
    s = stage(stream(*CALL))
    booking = s.open(tries_left=2)

    answer = s.ask()
    booking.close()

    assert answer.status_code == 422
    assert type(booking.error) is TruncatedStreamError


def test_one_with_an_end_that_nobody_knows_never_reaches_opencode(stage: MakeStage) -> None:
    s = stage(stream(*CALL, chunk(finish="weird"), DONE))
    booking = s.open()

    assert b"tool_calls" not in s.ask().content
    booking.close()


def test_what_is_held_back_counts_against_the_limits(stage: MakeStage) -> None:
    s = stage(stream(*(call("write", "x" * 400) for _ in range(50)), pause_s=0.01))
    booking = s.open(max_tokens=1000)

    s.ask()
    booking.close()

    assert isinstance(booking.error, LimitExceededError)
    assert booking.usage.total < 1500


CALLED = [{"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "stays"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": None}, False),
        ({"role": "assistant", "content": [{"type": "text", "text": ""}]}, False),
        ({"role": "assistant", "content": "", "reasoning_content": "hm"}, False),
        ({"role": "assistant", "content": "", "tool_calls": CALLED}, True),
        ({"role": "assistant", "content": " "}, True),
        ({"role": "assistant", "content": [{"type": "image_url"}]}, True),
        ({"role": "user", "content": ""}, True),
        ({"role": "tool", "content": ""}, True),
    ],
)
def test_what_opencode_keeps_of_a_broken_step_is_not_sent_along(
    message: dict[str, Any], stays: bool
) -> None:
    terms = Terms(Upstream("chutes", "http://127.0.0.1/v1", lambda: "k"), {MODEL: None}, MODEL)
    last = {"role": "user", "content": "go on"}

    body = rewrite({"messages": [message, last]}, terms, main=True, model=MODEL)

    assert body["messages"] == ([message, last] if stays else [last])
