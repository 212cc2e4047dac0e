"""Any chunking of a good stream passes byte for byte; no bytes whatever make the check fail."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chutes_opencode.relay.stream import StreamCheck

OUTCOMES = {"whole", "truncated", "empty", "error", "malformed", "unknown_finish"}

texts = st.text(max_size=30)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
deltas = st.one_of(
    st.fixed_dictionaries({"content": texts}),
    st.fixed_dictionaries({"reasoning_content": texts}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none()}),
    st.builds(
        lambda text: {
            "tool_calls": [{"index": 0, "id": "c", "function": {"name": "t", "arguments": text}}]
        },
        texts,
    ),
)
extras = st.fixed_dictionaries(
    {},
    optional={
        "model": texts,
        "usage": st.one_of(st.none(), st.fixed_dictionaries({"prompt_tokens": st.integers(0, 99)})),
    },
)


@st.composite
def good_streams(draw: st.DrawFn) -> bytes:
    end = draw(ends)

    def event(delta: Any, finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        value = {"choices": [choice], **draw(extras)}
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
        lines = [b"data:" + draw(st.sampled_from([b"", b" "])) + text.encode()]
        before = draw(st.lists(st.sampled_from([b": ping", b"id: 1", b"event: m"]), max_size=2))
        return b"".join(line + end for line in [*before, *lines]) + end

    parts = [event(delta, None) for delta in draw(st.lists(deltas, max_size=5))]
    parts.append(event({}, draw(st.sampled_from(["stop", "length", "content_filter"]))))
    if draw(st.booleans()):
        parts.append(b"data: [DONE]" + end + draw(st.sampled_from([b"", end])))
    return b"".join(parts)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream at the given places, each taken as a share of its length."""
    marks = sorted({place % (len(stream) + 1) for place in places})
    return [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(good_streams(), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_chunking_of_any_good_stream_passes_byte_for_byte(
    stream: bytes, places: list[int]
) -> None:
    check = StreamCheck()

    passed = b"".join([check.feed(piece) for piece in cut(stream, places)]) + check.finish()

    assert passed == stream
    assert check.outcome == "whole"


@settings(max_examples=100, deadline=None)
@given(good_streams())
def test_a_stream_of_single_bytes_is_read_like_the_whole(stream: bytes) -> None:
    whole, bytewise = StreamCheck(), StreamCheck()

    whole.feed(stream)
    for number in range(len(stream)):
        bytewise.feed(stream[number : number + 1])
    whole.finish()
    bytewise.finish()

    told = ("outcome", "finish_reason", "done", "usage", "served_model", "output_bytes")
    assert [getattr(whole, name) for name in told] == [getattr(bytewise, name) for name in told]


snippets = st.sampled_from(
    [
        *(b"data: ", b"event: error", b":", b"\n", b"\r", b"\n\n", b"[DONE]", b"{", b"}"),
        *(b'{"choices":[{"delta":{"content":"a"}}]}', b'{"choices":[{"finish_reason":"stop"}]}'),
        *(b'{"choices":[{"index":-1}]}', b'{"choices":5}', b'{"error":1}', b"null"),
        *(b"\xef\xbb\xbf", b"\xff"),
    ]
)
noise = st.lists(st.one_of(snippets, st.binary(max_size=10)), max_size=30).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(noise, st.lists(st.integers(0, 10_000), max_size=10))
def test_no_bytes_make_it_fail_and_what_passes_is_what_came(
    stream: bytes, places: list[int]
) -> None:
    check = StreamCheck()

    passed = b"".join([check.feed(piece) for piece in cut(stream, places)])
    rest = check.finish()

    assert check.outcome in OUTCOMES
    # Nothing is made up but the line ends of a last chunk; nothing is told in another order.
    source = iter((stream + b"\n\n").replace(b"\r", b""))
    assert all(byte in source for byte in (passed + rest).replace(b"\r", b""))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "error", "usage", "index", "tool_calls", "function"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(json_values, max_size=4))
def test_no_json_makes_it_fail(values: list[Any]) -> None:
    check = StreamCheck()

    for value in values:
        check.feed(b"data: " + json.dumps(value).encode() + b"\n\n")
    check.finish()

    assert check.outcome in OUTCOMES
    assert check.usage is None or check.usage.total >= 0
