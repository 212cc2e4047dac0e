"""What opencode's reader would not take in a chunk is said before it passes."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.relay.chunk import CallBook, chunk_flaw
from chutes_opencode.relay.stream import StreamCheck
from tests.unit.relay.test_stream import DONE, ROLE, STOP, chunk, event, run

CALL = {"index": 0, "id": "call_1", "function": {"name": "bash", "arguments": ""}}


def with_choice(**choice: Any) -> dict[str, Any]:
    return {"choices": [choice]}


@pytest.mark.parametrize(
    "value",
    [
        {"choices": []},
        {"id": None, "created": None, "model": None, "choices": [], "usage": None},
        {"id": "a", "created": 1.5, "model": "m", "choices": [{}], "unknown": {"a": [1]}},
        with_choice(delta=None, finish_reason=None),
        with_choice(delta={"role": "assistant", "content": "a", "reasoning": None}),
        with_choice(delta={"role": "", "reasoning_content": "a", "tool_calls": None}),
        with_choice(delta={"tool_calls": [CALL]}, index="odd", logprobs=5),
        {"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": None}},
        {"choices": [], "usage": {"completion_tokens_details": {"reasoning_tokens": None}}},
    ],
)
def test_a_chunk_that_opencode_takes_has_no_flaw(value: dict[str, Any]) -> None:
    assert chunk_flaw(value) is None


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ({"id": 500, "choices": []}, "id is '500'"),
        ({"model": 5, "choices": []}, "model is '5'"),
        ({"created": "now", "choices": []}, "created is 'now'"),
        ({"created": True, "choices": []}, "created is 'True'"),
        ({"created": float("inf"), "choices": []}, "created is 'inf'"),
        ({"choices": ["odd"]}, "an item of choices is no object"),
        ({"choices": [None]}, "an item of choices is no object"),
        (with_choice(finish_reason=5), "finish_reason is '5'"),
        (with_choice(delta="odd"), "delta is no object"),
        (with_choice(delta={"role": "user"}), "role is 'user'"),
        (with_choice(delta={"content": 123}), "content is '123'"),
        (with_choice(delta={"content": [{"text": "a"}]}), "content is \"[{'text': 'a'}]\""),
        (with_choice(delta={"tool_calls": {}}), "tool_calls is no list"),
        (with_choice(delta={"tool_calls": [{"id": 5}]}), "id is '5'"),
        (with_choice(delta={"tool_calls": [{"function": []}]}), "function is no object"),
        (with_choice(delta={"tool_calls": [{"function": {"name": 5}}]}), "name is '5'"),
        ({"choices": [], "usage": "odd"}, "usage is no object"),
        ({"choices": [], "usage": {"prompt_tokens": "5"}}, "prompt_tokens is '5'"),
        ({"choices": [], "usage": {"prompt_tokens_details": 5}}, "prompt_tokens_details is no obj"),
    ],
)
def test_a_chunk_that_opencode_does_not_take_has_one(value: dict[str, Any], flaw: str) -> None:
    assert (chunk_flaw(value) or "").startswith(flaw)


@pytest.mark.parametrize(
    ("calls", "flaw"),
    [
        ([CALL, {"index": 0, "function": {"arguments": "{}"}}], None),
        ([CALL, {**CALL, "index": 5}], None),
        ([CALL, {"id": "call_2", "function": {"name": "b"}}], None),
        ([{"index": 0, "id": "a"}], "a tool call has no function"),
        ([{"index": 0, "function": {"name": "b"}}], "a tool call begins without its id"),
        ([{"index": 0, "id": "a", "function": {}}], "a tool call begins without its name"),
        ([CALL, {"function": {"arguments": "{}"}}], "a tool call begins without its id"),
    ],
)
def test_a_tool_call_begins_with_its_id_and_name(calls: list[Any], flaw: str | None) -> None:
    book = CallBook()

    flaws = [book.flaw(call, 0) for call in calls]

    assert next(filter(None, flaws), None) == flaw


def test_tool_calls_without_end_are_a_flaw() -> None:
    book = CallBook()
    flaws = [book.flaw({**CALL, "index": number}, 0) for number in range(10_001)]

    assert flaws[-2:] == [None, "there are more than 10000 tool calls"]
    assert book.flaw(CALL, 1) is None


@pytest.mark.parametrize(
    "odd", [{"content": 123}, {"tool_calls": [{"index": 0, "function": {"name": "a"}}]}]
)
def test_a_chunk_with_a_flaw_does_not_pass(odd: dict[str, Any]) -> None:
    check, passed = run(ROLE, chunk(odd, finish="stop"), STOP, DONE)

    assert passed == ROLE
    assert check.outcome == "malformed"
    assert "not as it should be" in str(check.malformed)


def test_an_odd_usage_after_the_finish_reason_does_not_pass_and_changes_nothing() -> None:
    odd = event({"choices": [], "usage": {"prompt_tokens": "x"}})
    check = StreamCheck()

    assert check.feed(ROLE + STOP + odd) == ROLE + STOP
    assert (check.outcome, check.usage) == ("whole", None)
