"""What passes of an event stream, what stays here, and what the stream is judged to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chutes_opencode.relay.stream import StreamCheck
from chutes_opencode.results import Usage


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: Any = None, finish: Any = None, *, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return event({"model": "m-TEE", "choices": [choice], **fields})


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk(finish="stop")
CALL = chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "bash"}}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"
GOOD = ROLE + HELLO + STOP + USAGE + DONE
BARE_ERROR = b'{"error":"Unhandled exception during response stream: gone"}'


def run(*chunks: bytes) -> tuple[StreamCheck, bytes]:
    """Feed a whole stream; return the check and all that passed."""
    check = StreamCheck()
    passed = b"".join([check.feed(data) for data in chunks])
    return check, passed + check.finish()


# --- good streams --------------------------------------------------------------------------------


def test_a_good_stream_passes_byte_for_byte_and_is_understood() -> None:
    check, passed = run(GOOD)

    assert passed == GOOD
    assert check.outcome == "whole"
    assert (check.finish_reason, check.done, check.served_model) == ("stop", True, "m-TEE")
    assert check.usage == Usage(input=12, output=3, num_requests=1)
    assert (check.error, check.malformed, check.stopped) == (None, None, False)


def test_each_event_passes_as_soon_as_it_is_complete() -> None:
    check = StreamCheck()

    assert check.feed(ROLE[:10]) == b""
    assert not check.started
    assert check.feed(ROLE[10:] + HELLO[:5]) == ROLE
    assert check.started
    assert check.feed(HELLO[5:]) == HELLO


@pytest.mark.parametrize(
    "stream",
    [
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + GOOD,
        b": keep-alive\n\n" + GOOD,
        GOOD.replace(b"data: ", b"data:"),
        b"event: message\nid: 7\nretry: 1000\n" + GOOD,
        b"unknown field\n\n" + GOOD,
        b"event: error\n\n" + GOOD,  # without data it says nothing
        GOOD.removesuffix(DONE),
        GOOD.removesuffix(b"\n\n"),
        GOOD.removesuffix(b"\n"),
        b"\n\n" + GOOD + b"\n\n",
        ROLE + b'data: {"choices":\ndata: [{"delta": {"content": "two lines"}}]}\n\n' + STOP,
        ROLE + chunk({"content": "é😀\u2028"}) + STOP,
        ROLE + b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n' + STOP,
        ROLE + HELLO + STOP + event({"choices": [{"index": 0, "delta": {}}]}),
        event({"choices": [{"delta": {"content": "no index"}, "finish_reason": "stop"}]}),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_every_shape_of_a_good_stream_passes_byte_for_byte(stream: bytes, size: int) -> None:
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]

    check, passed = run(*pieces)

    assert passed == stream
    assert check.outcome == "whole"


def test_a_last_chunk_without_its_empty_line_is_completed_so_that_its_reader_sees_it() -> None:
    for cut in (b"\n\n", b"\n"):
        check, passed = run(ROLE + HELLO + STOP.removesuffix(cut))

        assert passed == ROLE + HELLO + STOP
        assert check.outcome == "whole"


def test_a_comment_does_not_wait_for_an_empty_line() -> None:
    check = StreamCheck()

    assert check.feed(b": processing\n") == b": processing\n"
    assert check.feed(b"event: x\n: inside\n") == b""
    assert not check.started


@pytest.mark.parametrize(
    "reason", ["stop", "tool_calls", "function_call", "length", "content_filter"]
)
def test_a_finish_reason_that_we_know_makes_it_whole(reason: str) -> None:
    check, _ = run(ROLE + CALL + chunk(finish=reason))

    assert (check.outcome, check.finish_reason) == ("whole", reason)


@pytest.mark.parametrize("reason", ["tool_calls", "function_call"])
def test_an_end_for_tool_calls_without_any_does_not_pass(reason: str) -> None:
    check, passed = run(ROLE + HELLO + chunk(finish=reason) + DONE)

    assert passed == ROLE + HELLO
    assert (check.outcome, check.stopped) == ("malformed", True)


def test_usage_in_every_chunk_counts_once_and_the_last_one_is_believed() -> None:
    first = chunk({"content": "a"}, usage={"prompt_tokens": 12, "completion_tokens": 1})
    last = chunk(finish="stop", usage={"prompt_tokens": 12, "completion_tokens": 2})

    check, _ = run(first + last + chunk(usage=None))

    assert check.usage == Usage(input=12, output=2, num_requests=1)


def test_completions_are_read_too() -> None:
    first = event({"choices": [{"index": 0, "text": "abc", "finish_reason": None}]})
    check = StreamCheck()

    check.feed(first)
    assert check.deltas == [("text", "abc")]
    check.feed(event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}))

    assert (check.outcome, check.output_bytes) == ("whole", {"text": 3})


def test_several_choices_must_all_end() -> None:
    both = chunk({"content": "a"}) + chunk({"content": "b"}, index=1)

    one_ended, _ = run(both + chunk(finish="stop"))
    all_ended, _ = run(both + chunk(finish="stop") + chunk(finish="length", index=1))

    assert one_ended.outcome == "truncated"
    assert (all_ended.outcome, all_ended.finish_reason) == ("whole", "stop")


def test_observers_are_told_the_deltas_of_the_first_choice() -> None:
    check = StreamCheck()

    check.feed(chunk({"reasoning_content": "hm"}) + chunk({"content": "a"}))
    assert check.deltas == [("reasoning", "hm"), ("text", "a")]
    check.feed(chunk({"reasoning": "so"}) + chunk({"content": "b"}, index=1))
    assert check.deltas == [("reasoning", "so")]
    check.finish()
    assert check.deltas == []


def test_output_is_counted_in_bytes_by_kind_and_tools_by_name() -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "bash", "arguments": ""}}]
    more = [{"index": 0, "function": {"arguments": '{"é":1}'}}]

    check, _ = run(
        chunk({"content": "é", "reasoning_content": "abc"}),
        chunk({"tool_calls": calls}),
        chunk({"tool_calls": more}),
        chunk({"tool_calls": ["odd", {"function": None}]}),
        chunk({"tool_calls": "odd", "content": ["odd"]}),
    )

    assert check.output_bytes == {"text": 2, "reasoning": 3, "tool": 4 + 8}
    assert check.tool_names == ["bash"]


def test_of_tool_names_without_end_a_thousand_are_kept() -> None:
    calls = [{"id": "c", "function": {"name": "bash"}}] * 1500

    check, _ = run(chunk({"tool_calls": calls}))

    assert len(check.tool_names) == 1000
    assert check.output_bytes == {"tool": 6000}


# --- streams that are not whole ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [b"", DONE, b": ping\n\n", b"\n", USAGE, b"<html>\n</html>"])
def test_without_a_chunk_it_is_empty(stream: bytes) -> None:
    check, passed = run(stream)

    assert (check.outcome, check.started) == ("empty", False)
    assert passed == stream


@pytest.mark.parametrize(
    "stream",
    [
        ROLE,
        ROLE + HELLO + DONE,
        ROLE + chunk(finish=""),
        ROLE + HELLO + STOP[:30],
        ROLE + HELLO + b'data: {"cut"\n',
    ],
)
def test_without_a_finish_reason_it_is_truncated(stream: bytes) -> None:
    check, passed = run(stream)

    assert (check.outcome, check.malformed) == ("truncated", None)
    assert stream.startswith(passed)


def test_a_finish_reason_that_nobody_knows_is_told_before_those_that_are_known() -> None:
    check, passed = run(ROLE + chunk(finish="weird") + DONE)
    two, _ = run(chunk(finish="stop") + chunk(finish="weird", index=1))

    assert (check.outcome, check.finish_reason) == ("unknown_finish", "weird")
    assert passed == ROLE + chunk(finish="weird") + DONE
    assert (two.outcome, two.finish_reason) == ("unknown_finish", "weird")


@pytest.mark.parametrize(
    "tail",
    [
        BARE_ERROR + b"\n",
        BARE_ERROR + b"\n\ndata: [DONE]\n\n",
        b'data: {"error": {"message": "overloaded"}}\n\n',
        b'data: {"error": "gone", "choices": [{"finish_reason": "stop"}]}\n\n',
        b'data: {"object": "error", "code": 400}\n\n',
        b'data: {"detail": "gone"}\n\n',
        b'data: {"message": "gone"}\n\n',
        b'event: error\ndata: {"choices": []}\n\n',
        b"event: error\ndata: gone\n\n",
        b'event: error\ndata: "gone"\n\n',
    ],
)
def test_an_error_does_not_pass_nor_what_follows_it(tail: bytes) -> None:
    check, passed = run(ROLE + HELLO + tail + HELLO, STOP)

    assert passed == ROLE + HELLO
    assert (check.outcome, check.stopped) == ("error", True)
    assert check.error
    assert check.error in tail.decode()


@pytest.mark.parametrize("before", [b"", ROLE + HELLO])
def test_an_error_may_be_the_last_line_without_an_end(before: bytes) -> None:
    check, passed = run(before + BARE_ERROR)

    assert (passed, check.outcome, check.started) == (before, "error", bool(before))
    assert check.error == BARE_ERROR.decode()


def test_of_a_long_error_the_beginning_is_kept() -> None:
    check, _ = run(b'{"error": "' + b"x" * 100_000 + b'"}')

    assert check.error is not None
    assert len(check.error) == 65_536


@pytest.mark.parametrize(
    "tail",
    [
        b"data: {half\n\n",
        b"data: 5\n\n",
        b"data: null\n\n",
        b"data: <html>\n\n",
        b'data: {"choices": NaN}\n\n',
        b'data: {"choices": ["odd"]}\n\n',
        b"data: \xff\xfe\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        event({"choices": [{"index": number} for number in range(200)]}),
    ],
    ids=range(9),
)
def test_a_chunk_that_is_none_does_not_pass_nor_what_follows_it(tail: bytes) -> None:
    check, passed = run(ROLE + HELLO + tail, STOP)

    assert passed == ROLE + HELLO
    assert (check.outcome, check.stopped) == ("malformed", True)
    assert check.malformed


def test_an_event_without_choices_is_no_chunk_and_stays_here() -> None:
    usage = event({"usage": {"prompt_tokens": 5}})

    check, passed = run(ROLE + event({"type": "ping"}) + usage + STOP)

    assert passed == ROLE + STOP
    assert check.outcome == "whole"
    assert check.usage == Usage(input=5, num_requests=1)


@pytest.mark.parametrize(
    "junk", [BARE_ERROR + b"\n", b"data: {half\n\n", DONE + DONE, DONE + HELLO]
)
def test_what_comes_after_the_finish_reason_changes_nothing(junk: bytes) -> None:
    check, passed = run(ROLE + HELLO + STOP + junk)

    assert check.outcome == "whole"
    assert (ROLE + HELLO + STOP + DONE).startswith(passed)


@pytest.mark.parametrize("line", [b"data: " + b"x" * 200, b"data: 1\n" * 30])
def test_an_event_without_an_end_is_malformed_so_that_memory_stays_bounded(line: bytes) -> None:
    check = StreamCheck(max_event_bytes=100)

    passed = b"".join([check.feed(line[start : start + 10]) for start in range(0, len(line), 10)])

    assert (passed, check.outcome) == (b"", "malformed")
    assert check.malformed == "an event is longer than 100 bytes"
    assert check.finish() == b""
