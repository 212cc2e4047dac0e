"""The documented rule for tokens that nobody told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.relay.estimate import (
    PrefixMemory,
    count_bytes,
    estimate_usage,
    input_tokens,
    output_tokens,
    told_usage,
)
from chutes_opencode.results import Usage
from chutes_opencode.simulator import tokens as bill

SYSTEM = {"role": "system", "content": "s" * 40}
USER = {"role": "user", "content": "u" * 80}
ANSWER = {"role": "assistant", "content": "a" * 4}
TOOLS = [{"type": "function", "function": {"name": "bash"}}]  # 47 bytes of compact JSON


def body(*messages: Any, tools: Any = None, model: str = "m") -> dict[str, Any]:
    return {"model": model, "messages": list(messages)} | ({"tools": tools} if tools else {})


@pytest.mark.parametrize(
    ("text", "size"), [("", 0), ("abc", 3), ("é", 2), ("\ud83d", 3), ("😀", 4)]
)
def test_bytes_are_those_of_utf8(text: str, size: int) -> None:
    assert count_bytes(text) == size


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"content": ""}, 0),
        ({"content": "abcd"}, 1),
        ({"content": "abcde"}, 2),
        ({"content": None}, 0),
        ({"content": "é" * 4}, 2),
        ({"content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "cde"}]}, 2),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}, 256),
        ({"content": [{"type": "file", "file": {}}, "odd"]}, 2048),
        ({"content": "ab", "reasoning_content": "cd"}, 1),
        ({"tool_calls": [{"function": {"name": "bash", "arguments": '{"a":1}'}}]}, 3),
        ({"tool_calls": "odd"}, 0),
        ({"tool_calls": [None, {"function": None}]}, 0),
        ("odd", 0),
    ],
)
def test_a_message_is_one_text_and_its_parts(message: Any, tokens: int) -> None:
    assert input_tokens(body(message)) == tokens


def test_tools_are_counted_as_compact_json() -> None:
    assert input_tokens(body(USER, tools=TOOLS)) == 20 + 12


@pytest.mark.parametrize(
    ("request_body", "tokens"),
    [({"prompt": "abcde"}, 2), ({"prompt": ["abcd", "e", 5]}, 2), ({"input": "abcd"}, 1), ({}, 0)],
)
def test_a_request_without_messages_is_its_texts(request_body: Any, tokens: int) -> None:
    assert input_tokens(request_body) == tokens


def test_output_is_rounded_up_for_each_kind() -> None:
    assert output_tokens({"text": 1, "reasoning": 5, "tool": 4}) == 1 + 2 + 1


def test_an_estimate_says_so_and_splits_reasoning_and_cache_off() -> None:
    usage = estimate_usage(body(SYSTEM, USER), {"text": 40, "reasoning": 8, "tool": 4}, cached=10)

    assert usage == Usage(
        input=20, output=11, reasoning=2, cache_read=10, num_requests=1, estimated=True
    )


def test_no_more_can_be_cached_than_was_sent() -> None:
    usage = estimate_usage(body(USER), {}, cached=500)

    assert (usage.input, usage.cache_read) == (0, 20)


# --- usage that was told -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({}, Usage(num_requests=1)),
        ({"prompt_tokens": 123, "completion_tokens": 45}, Usage(123, 45, num_requests=1)),
        (
            {
                "prompt_tokens": 123,
                "completion_tokens": 45,
                "prompt_tokens_details": {"cached_tokens": 23},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(100, 40, 5, 23, num_requests=1),
        ),
        (
            {"prompt_tokens": 3, "completion_tokens": 9, "reasoning_tokens": 4},
            Usage(3, 5, 4, num_requests=1),
        ),
        ({"prompt_tokens": 10, "prompt_tokens_details": None}, Usage(10, num_requests=1)),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(0, cache_read=10, num_requests=1),
        ),
        ({"prompt_tokens": -5, "completion_tokens": "7"}, Usage(num_requests=1)),
        ({"prompt_tokens": True, "completion_tokens": 7.0}, Usage(output=7, num_requests=1)),
        ({"prompt_tokens": 1e300, "completion_tokens": 10**40}, Usage(num_requests=1)),
    ],
)
def test_what_a_server_tells_is_read_with_care(told: Any, usage: Usage) -> None:
    assert told_usage(told) == usage


# --- the cache -----------------------------------------------------------------------------------


def test_the_beginning_that_was_sent_before_is_cached_with_its_tools() -> None:
    memory = PrefixMemory()

    assert memory.accept("ses_a", body(SYSTEM, USER, tools=TOOLS)) == 0
    assert memory.accept("ses_a", body(SYSTEM, USER, ANSWER, tools=TOOLS)) == 10 + 20 + 12
    assert memory.accept("ses_a", body(SYSTEM, USER, ANSWER, tools=TOOLS)) == 10 + 20 + 1 + 12


def test_a_beginning_of_any_earlier_request_counts() -> None:
    memory = PrefixMemory()
    memory.accept("ses_a", body(SYSTEM, USER))
    memory.accept("ses_a", body(SYSTEM, ANSWER))

    assert memory.accept("ses_a", body(SYSTEM, USER, ANSWER)) == 30


@pytest.mark.parametrize(
    ("session", "other"),
    [
        ("ses_b", body(SYSTEM, USER)),
        ("ses_a", body(SYSTEM, USER, model="n")),
        ("ses_a", body(SYSTEM, USER, tools=TOOLS)),
        ("ses_a", body(USER, SYSTEM)),
        ("ses_a", {"prompt": "no messages"}),
    ],
)
def test_another_session_model_set_of_tools_or_order_shares_nothing(
    session: str, other: dict[str, Any]
) -> None:
    memory = PrefixMemory()
    memory.accept("ses_a", body(SYSTEM, USER))

    assert memory.accept(session, other) == 0


def test_the_last_thousand_sessions_are_remembered() -> None:
    memory = PrefixMemory()
    for number in range(1000):
        memory.accept(f"ses_{number}", body(USER))

    assert memory.accept("ses_0", body(USER)) == 20
    memory.accept("ses_new", body(USER))

    assert memory.accept("ses_0", body(USER)) == 20
    assert memory.accept("ses_1", body(USER)) == 0


# --- against the simulator's bill, whose rule is written apart from ours -------------------------

texts = st.text(max_size=20)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    st.just({"type": "file", "file": {"file_data": "AAAA"}}),
)
calls = st.builds(lambda name, text: {"function": {"name": name, "arguments": text}}, texts, texts)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": st.none() | texts | st.lists(parts, max_size=3)},
        optional={"reasoning_content": texts, "tool_calls": st.lists(calls, max_size=2)},
    ),
    max_size=4,
)


@given(st.lists(messages, min_size=1, max_size=4), st.sampled_from([[], TOOLS]))
def test_the_estimate_is_what_the_simulator_would_bill(requests: Any, tools: Any) -> None:
    ours, theirs = PrefixMemory(), bill.PrefixCache()

    for request in requests:
        asked = body(*request, tools=tools)
        assert input_tokens(asked) == bill.input_tokens(request, tools)
        assert ours.accept("ses_a", asked) == theirs.admit(("key", "m", "ses_a"), request, tools)
