"""What opencode gets of a stream: fewer pieces that come to the same message, and soon enough."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chutes_opencode.relay.client import Client
from chutes_opencode.relay.gathering import GATHER_SECONDS, GatheringClient, gathered
from chutes_opencode.relay.merged import merge
from chutes_opencode.relay.stream import StreamCheck
from tests.unit.relay.stage import DONE, chunk, event
from tests.unit.relay.test_limiter import in_virtual_time
from tests.unit.relay.virtual_time import clock, settle

STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def said(delta: dict[str, Any], **choice: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, **choice}]})


def chunks(data: bytes) -> list[Any]:
    rows = [line.removeprefix(b"data:") for line in data.splitlines() if line.startswith(b"data:")]
    return [json.loads(row) for row in rows if row.strip() != b"[DONE]"]


def test_a_run_of_text_becomes_one_chunk_and_the_rest_stays() -> None:
    first = said({"role": "assistant", "content": ""})
    end = said({}, finish_reason="stop")
    told = gathered(first + b"".join(map(chunk, "Hello")) + end + DONE)

    assert told.startswith(first)
    assert told.endswith(end + DONE)
    assert [row["choices"][0]["delta"].get("content") for row in chunks(told)] == [
        "",
        "Hello",
        None,
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(said({"content": "a"}), said({"reasoning": "b"}), id="another-text"),
        pytest.param(
            said({"content": "a"}),
            event({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
            id="another-choice",
        ),
        pytest.param(
            said({"content": "a"}),
            event({"choices": [{"delta": {"content": "b"}}, {"delta": {"content": "c"}}]}),
            id="two-choices",
        ),
        pytest.param(
            said({"content": "a", "reasoning": "r"}),
            said({"content": "b", "reasoning": "s"}),
            id="two-texts-in-a-chunk",
        ),
        pytest.param(
            said({"content": "a"}, logprobs={"content": [1]}),
            said({"content": "b"}, logprobs={"content": [1]}),
            id="of-each-token",
        ),
        pytest.param(
            said({"content": "a", "tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}),
            said({"content": "b", "tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}),
            id="tool-calls",
        ),
        pytest.param(
            said({"content": "a"}, finish_reason="stop"),
            said({"content": "b"}, finish_reason="stop"),
            id="finish-reasons",
        ),
        pytest.param(
            event({"choices": [{"text": "a"}]}), event({"choices": [{"text": "b"}]}), id="plain"
        ),
        pytest.param(said({"content": "a"}), b": alive\n\n" + said({"content": "b"}), id="comment"),
        pytest.param(said({"content": "a"}), b"id: 7\n" + said({"content": "b"}), id="more-lines"),
        pytest.param(b"data: [1]\n\n", b"data: null\n\n", id="no-chunks"),
    ],
)
def test_what_is_not_one_text_stays_as_it_came(one: bytes, other: bytes) -> None:
    assert gathered(one + other) == one + other


def test_reasoning_that_is_told_twice_is_gathered_twice() -> None:
    told = gathered(b"".join(said({"reasoning": x, "reasoning_content": x}) for x in "abc"))

    [row] = chunks(told)
    assert row["choices"][0]["delta"] == {"reasoning": "abc", "reasoning_content": "abc"}


def test_the_usage_told_last_stays() -> None:
    told = gathered(chunk("a", usage={"n": 1}) + chunk("b", usage={"n": 2}) + chunk("c"))

    assert [row["usage"] for row in chunks(told)] == [{"n": 2}]


def test_a_character_in_two_halves_is_one_again() -> None:
    told = gathered(
        rb'data: {"choices":[{"delta":{"content":"\ud83d"}}]}' + b"\n\n"
        rb'data: {"choices":[{"delta":{"content":"\ude00"}}]}' + b"\n\n"
    )

    assert rb"\ud83d\ude00" in told


def test_events_may_end_as_on_windows() -> None:
    data = (chunk("a") + chunk("b")).replace(b"\n", b"\r\n")

    assert [row["choices"][0]["delta"]["content"] for row in chunks(gathered(data))] == ["ab"]


texts = st.text(max_size=3)
deltas = st.one_of(
    st.fixed_dictionaries({}, optional={"content": texts, "role": st.just("assistant")}),
    st.fixed_dictionaries({"reasoning_content": texts}, optional={"content": st.none() | texts}),
    st.fixed_dictionaries({"reasoning": texts, "reasoning_content": texts}),
)
rows = st.builds(
    lambda index, delta, more: {**more, "choices": [{"index": index, "delta": delta}]},
    st.integers(0, 1),
    deltas,
    st.fixed_dictionaries({}, optional={"usage": st.just({"prompt_tokens": 1})}),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, max_size=12))
def test_any_stream_comes_to_the_same_message(stream: list[dict[str, Any]]) -> None:
    data = b"".join(map(event, stream)) + DONE
    told = gathered(data)

    assert merge(chunks(told)) == merge(chunks(data))
    seen = []
    for each in (data, told):
        check = StreamCheck()
        check.feed(each)
        seen.append((check.output_bytes, check.usage, check.done, check.outcome))
    assert seen[0] == seen[1]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.just(chunk("a")), st.just(b"\n\n"))))
def test_no_bytes_make_it_fail(pieces: list[bytes]) -> None:
    told = gathered(b"".join(pieces))

    assert gathered(told) == told


class Wire(Client):
    """Notes when it got what; `slow` holds it up."""

    def __init__(self) -> None:
        self.started = self.ended = False
        self.got: list[tuple[float, bytes]] = []
        self.slow: asyncio.Event | None = None
        self.error: Exception | None = None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True

    async def write(self, data: bytes) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.error is not None:
            raise self.error
        self.got.append((clock(), data))

    async def end(self) -> None:
        self.ended = True


@in_virtual_time
async def test_the_first_piece_goes_at_once_and_later_ones_together() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, STREAM)
    for text in "Hello":
        await client.write(chunk(text))
        await asyncio.sleep(0.15)
    await client.end()

    assert [(round(at, 2), len(chunks(data))) for at, data in wire.got] == [
        (0.0, 1),
        (GATHER_SECONDS, 1),
        (0.75, 1),
    ]
    assert b"".join(data for _, data in wire.got).count(b"ell") == 1
    assert wire.ended


@in_virtual_time
async def test_what_is_held_goes_though_nothing_more_comes() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, STREAM)
    await client.write(chunk("a"))
    await client.write(chunk("b"))

    await asyncio.sleep(60)

    assert [at for at, _ in wire.got] == [0.0, GATHER_SECONDS]
    await client.close()


@in_virtual_time
async def test_an_answer_that_is_no_stream_is_not_held() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, {"content-type": "application/json"})
    await client.write(b"one\n\n")
    await client.write(b"two\n\n")

    assert [data for _, data in wire.got] == [b"one\n\n", b"two\n\n"]


@in_virtual_time
async def test_a_client_that_reads_slowly_holds_up_the_stream_and_loses_nothing() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, STREAM)
    await client.write(chunk("a"))
    wire.slow = asyncio.Event()
    await client.write(chunk("b"))
    await asyncio.sleep(GATHER_SECONDS * 2)  # the timer waits for the client now
    big = asyncio.create_task(client.write(chunk("c" * 2_000_000)))
    await settle()

    assert not big.done()
    wire.slow.set()
    await big
    await client.end()
    assert [len(data) > 1_000_000 for _, data in wire.got] == [False, False, True]


@in_virtual_time
async def test_what_the_connection_died_of_is_raised_at_the_next_piece() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, STREAM)
    await client.write(chunk("a"))
    wire.error = TimeoutError()
    await client.write(chunk("b"))
    await asyncio.sleep(GATHER_SECONDS * 2)

    with pytest.raises(TimeoutError):
        await client.write(chunk("c"))


@in_virtual_time
async def test_a_closed_one_sends_nothing_more() -> None:
    wire = Wire()
    client = GatheringClient(wire)
    await client.start(200, STREAM)
    await client.write(chunk("a"))
    await client.write(chunk("b"))
    await client.close()

    await asyncio.sleep(GATHER_SECONDS * 2)

    assert len(wire.got) == 1
