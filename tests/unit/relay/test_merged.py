"""Merging: a stream in a few chunks that say the same, or nothing where nobody can know that."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.relay.merged import merge


def chunk(delta: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta or {}, **choice}]}


def call(index: Any, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **fields.pop("function", {})}
    return chunk({"tool_calls": [{"index": index, **fields, "function": function}]})


def deltas(chunks: list[dict[str, Any]] | None) -> list[Any]:
    assert chunks is not None
    return [choice.get("delta") for row in chunks for choice in row["choices"]]


def test_each_run_stands_in_one_piece_and_their_order_stays() -> None:
    merged = merge(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning_content": "thi"}),
            chunk({"role": "assistant", "reasoning_content": "nk", "content": None}),
            chunk({"content": "a"}),
            chunk({"content": "b"}),
            call(0, "", id="c0", type="function", function={"name": "read"}),
            call(0, '{"p":'),
            call(1, "{}", id="c1", type="function", function={"name": "bash"}),
            call(0, "1}", function={"name": None}),
            chunk({"content": "c"}),
            chunk(finish_reason="tool_calls"),
        ]
    )

    read = {"name": "read", "arguments": '{"p":1}'}
    bash = {"name": "bash", "arguments": "{}"}
    assert deltas(merged) == [
        {"role": "assistant"},
        {"reasoning_content": "think"},
        {"content": "ab"},
        {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": read}]},
        {"tool_calls": [{"index": 1, "id": "c1", "type": "function", "function": bash}]},
        {"content": "c"},
        {},
    ]


def test_what_is_told_beside_the_message_is_told_once_at_its_end() -> None:
    merged = merge(
        [
            {"id": "x", "model": "m", "fingerprint": None, "choices": [], "usage": None},
            chunk({"content": "a"}, finish_reason=None, stop_reason=None),
            chunk(finish_reason="stop", stop_reason=7, logprobs=None),
            chunk(finish_reason=""),
            {"id": "x", "model": None, "choices": [], "usage": {"prompt_tokens": 3}},
        ]
    )

    assert merged is not None
    envelope = {"id": "x", "model": "m", "fingerprint": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 7}
    assert merged[-2:] == [
        {**envelope, "choices": [end]},
        {**envelope, "choices": [], "usage": {"prompt_tokens": 3}},
    ]


def test_choices_are_told_apart() -> None:
    merged = merge(
        [
            {"choices": [{"index": index, "delta": {"content": text}}]}
            for index, text in [(0, "a"), (1, "x"), (0, "b"), (1, "y")]
        ]
    )

    assert deltas(merged) == [{"content": "ab"}, {"content": "xy"}, {}, {}]


def test_reasoning_that_is_told_in_two_fields_stays_in_both() -> None:
    details = [{"type": "reasoning.text", "text": "a"}]

    merged = merge(
        [
            chunk({"reasoning": "a", "reasoning_content": "a", "reasoning_details": details}),
            chunk({"reasoning": "b", "reasoning_content": "b"}),
            chunk({"content": "c", "reasoning_content": "d"}),
        ]
    )

    assert deltas(merged) == [
        {"reasoning": "ab", "reasoning_content": "ab"},
        {"reasoning_content": "d"},
        {"content": "c"},
        {},
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        ["no object"],
        [{"choices": {}}],
        [{"choices": ["no object"]}],
        [{"choices": [{"index": 0, "text": "a"}]}],
        [chunk(logprobs={"content": [{"token": "a"}]})],
        [chunk({"audio": {"data": "AAAA"}})],
        [chunk({"tool_calls": "no list"})],
        [chunk({"tool_calls": ["no object"]})],
        [call(None, "{}")],
        [call(0, {"p": 1})],
        [call(0, id="one"), call(0, id="two")],
        [call(0, function={"name": "one"}), call(0, function={"name": "two"})],
    ],
    ids=range(12),
)
def test_what_nobody_knows_to_put_together_is_not_merged(chunks: list[Any]) -> None:
    assert merge(chunks) is None


def test_odd_chunks_that_say_nothing_do_no_harm() -> None:
    merged = merge([{"choices": None}, {"choices": [{"delta": None}]}, chunk({"tool_calls": None})])

    assert deltas(merged) == [{}]


def test_a_call_without_a_function_or_arguments_is_kept() -> None:
    merged = merge([chunk({"tool_calls": [{"index": 0, "id": "c"}]}), call(0, None, id="")])

    assert deltas(merged)[0]["tool_calls"] == [
        {"index": 0, "id": "c", "function": {"arguments": ""}}
    ]
