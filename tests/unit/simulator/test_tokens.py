import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.simulator import tokens
from chutes_opencode.simulator.tokens import (
    PrefixCache,
    count_tokens,
    input_tokens,
    message_tokens,
    tools_tokens,
)

SESSION = ("key", "model", "session")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é", 1), ("🙂🙂", 2), ("\ud800", 1)],
)
def test_a_text_has_a_token_for_every_four_bytes_rounded_up(text: str, expected: int) -> None:
    assert count_tokens(text) == expected


@given(st.text())
def test_a_text_has_at_most_as_many_tokens_as_bytes(text: str) -> None:
    size = len(text.encode())
    assert size / 4 <= count_tokens(text) <= size


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (user("12345678"), 2),
        ({"role": "assistant", "content": None}, 0),
        ({"role": "assistant", "content": "1234", "reasoning_content": "1234"}, 2),
        ({"role": "user", "content": [{"type": "text", "text": "12"}] * 2}, 1),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, 256),
        ({"role": "user", "content": [{"type": "file", "file": {}}, "odd"]}, 1024),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "bash", "arguments": "{}"}}, {}],
            },
            2,
        ),
        ({"role": "tool", "tool_call_id": "call_1", "content": "1234"}, 1),
    ],
)
def test_a_message_has_the_tokens_of_its_texts_and_attachments(
    message: dict[str, Any], expected: int
) -> None:
    assert message_tokens(message) == expected


def test_tools_have_the_tokens_of_their_compact_json() -> None:
    assert tools_tokens([]) == 0
    assert tools_tokens([{"a": 1}]) == 3  # [{"a":1}]
    assert input_tokens([user("1234")], [{"a": 1}]) == 4


def test_cached_tokens_are_those_of_the_longest_known_prefix() -> None:
    cache = PrefixCache()
    history = [user("system"), user("one"), user("two")]

    first = cache.admit(SESSION, history[:2])
    longer = cache.admit(SESSION, history)
    other_end = cache.admit(SESSION, [*history[:2], user("three")])

    assert first == 0
    assert longer == other_end == input_tokens(history[:2])


def test_another_first_message_or_other_tools_share_nothing() -> None:
    cache = PrefixCache()
    cache.admit(SESSION, [user("one"), user("two")])

    assert cache.admit(SESSION, [user("other"), user("two")]) == 0
    assert cache.admit(SESSION, [user("one"), user("two")], [{"a": 1}]) == 0
    assert cache.admit(SESSION, [user("one"), user("two")], [{"a": 1}]) == 3 + 2


def test_sessions_share_nothing_and_clear_forgets_them() -> None:
    cache = PrefixCache()
    cache.admit(SESSION, [user("one")])

    assert cache.admit(("key", "model", "other"), [user("one")]) == 0
    cache.clear()
    assert cache.admit(SESSION, [user("one")]) == 0


def test_the_sessions_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_SESSIONS", 2)
    cache = PrefixCache()
    names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
    for name in names:
        cache.admit(("key", "model", name), [user("one")])

    assert cache.admit(("key", "model", names[2]), [user("one")]) == 1
    assert cache.admit(("key", "model", names[0]), [user("one")]) == 0
