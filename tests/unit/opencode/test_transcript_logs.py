"""opencode's log on stderr, and the guard's record of model requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.opencode.transcript import (
    exchanges_from_guard,
    openai_usage,
    parse_log_line,
    without_log_lines,
)
from chutes_opencode.results import Exchange, Usage

CAPTURES = Path(__file__).parents[2] / "captures" / "opencode-1.18.33"


def captured(name: str) -> str:
    return (CAPTURES / name).read_text("utf-8")


# --- the log ----------------------------------------------------------------------------------


def test_a_log_line_is_read_into_its_fields() -> None:
    first, *_, last = captured("run_429_print-logs_ERROR.stderr.txt").splitlines()

    assert parse_log_line(first) == {
        "timestamp": "2026-11-20T12:39:27.498Z",
        "level": "ERROR",
        "run": "b5a2a426",
        "message": "stream error",
        "providerID": "chutes",
        "modelID": "st/429/ra0",
        "session.id": "ses_e0707fd3affex4PsKNtZ8XhXCT",
        "small": "false",
        "agent": "chat",
        "mode": "primary",
        "error.error": "AI_APICallError: Too Many Requests",
    }
    fields = parse_log_line(last)
    assert fields["message"] == "process"
    assert fields["error"] == "Too Many Requests"
    assert fields["stack"].startswith("AI_APICallError: Too Many Requests\n    at <anonymous>")


def test_the_log_tells_the_cause_behind_a_reference() -> None:
    lines = captured("run_unknown_model_print-logs_ERROR.stderr.txt").splitlines()

    failed = parse_log_line(lines[-1])

    assert failed["ref"] == "err_0e2bc73a"
    assert failed["error"] == "ProviderModelNotFoundError: Model not found: chutes/knowm."


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", {}),
        ('level=ERROR message="x"', {}),
        (" timestamp=1", {}),
        ("timestamp=1 a=", {"timestamp": "1", "a": ""}),
        (r'timestamp=1 a="say \"hi\" \\ bye"', {"timestamp": "1", "a": r'say "hi" \ bye'}),
        ('timestamp=1 a="b=c d=e"', {"timestamp": "1", "a": "b=c d=e"}),
        ('timestamp=1 a="tab\there"', {"timestamp": "1", "a": "tab\there"}),
        (r'timestamp=1 a="bad \q escape"', {"timestamp": "1", "a": r"bad \q escape"}),
    ],
)
def test_values_may_be_quoted_and_odd(line: str, fields: dict[str, str]) -> None:
    assert parse_log_line(line) == fields


def test_what_is_left_of_stderr_are_opencodes_own_words() -> None:
    stderr = captured("run_429_print-logs_ERROR.stderr.txt") + "! something went wrong\n\n"

    assert without_log_lines(stderr) == "! something went wrong"


def test_colours_are_removed() -> None:
    stderr = captured("run_unknown_agent.txt").partition("--stderr--\n")[2]

    assert without_log_lines(stderr) == '!  agent "nope" not found. Falling back to default agent'


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_a_log_line_ends_only_at_a_newline(separator: str) -> None:
    """JSON leaves these characters as they are: half of a logged prompt must not remain."""
    assert without_log_lines(f'timestamp=1 prompt="one{separator}two"\nwords') == "words"


# --- the guard's record -----------------------------------------------------------------------

REQUEST = {
    "id": 1,
    "kind": "request",
    "time": 100.0,
    "model": "Qwen/Qwen3-32B",
    "session": "ses_a",
    "parent": None,
    "tools": ["bash", "read"],
    "size": 402,
}
STREAM = {
    "id": 1,
    "kind": "response",
    "time": 100.5,
    "status": 200,
    "type": "text/event-stream",
    "headers": {"x-chutes-invocationid": "inv-1", "retry-after": "3"},
}
USAGE = {
    "prompt_tokens": 123,
    "completion_tokens": 45,
    "prompt_tokens_details": {"cached_tokens": 23},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
END = {
    "id": 1,
    "kind": "end",
    "time": 102.0,
    "finish": "stop",
    "model": "Qwen/Qwen3-32B-TEE",
    "usage": USAGE,
    "chars": 99,
}


def read(*entries: dict[str, Any]) -> tuple[Exchange, ...]:
    return exchanges_from_guard("\n".join(map(json.dumps, entries)))


def test_a_whole_exchange() -> None:
    assert read(REQUEST, STREAM, END) == (
        Exchange(
            status=200,
            content_type="text/event-stream",
            headers={"x-chutes-invocationid": "inv-1", "retry-after": "3"},
            requested_model="Qwen/Qwen3-32B",
            served_model="Qwen/Qwen3-32B-TEE",
            session_id="ses_a",
            tools=("bash", "read"),
            finish_reason="stop",
            usage=Usage(input=100, output=40, reasoning=5, cache_read=23, num_requests=1),
            first_byte_s=0.5,
            duration_s=2.0,
            request_id="inv-1",
        ),
    )


def test_a_refused_request_was_never_sent() -> None:
    refused = {"id": 1, "kind": "refused", "time": 100.0, "reason": "max_requests"}

    (exchange,) = read(REQUEST, refused)

    assert exchange.refused == "max_requests"
    assert exchange.status is None
    assert exchange.usage is None
    assert (exchange.first_byte_s, exchange.duration_s) == (None, None)


def test_an_answer_that_is_no_stream_keeps_its_body_and_has_no_usage() -> None:
    answer = STREAM | {"status": 503, "type": "text/html", "body": "<html>", "headers": {}}

    (exchange,) = read(REQUEST, answer)

    assert (exchange.status, exchange.body, exchange.usage) == (503, "<html>", None)
    assert exchange.duration_s == 0.5


def test_html_on_200_is_not_billed() -> None:
    (exchange,) = read(REQUEST, STREAM | {"type": "text/html", "body": "<html>"})

    assert exchange.usage is None


def test_a_connection_that_failed_says_why() -> None:
    (exchange,) = read(REQUEST, {"id": 1, "kind": "response", "time": 101.0, "error": "reset"})

    assert (exchange.status, exchange.error, exchange.usage) == (None, "reset", None)


@pytest.mark.parametrize(
    ("end", "estimate"),
    [
        pytest.param({"id": 1, "kind": "end", "time": 101.0, "chars": 10}, (101, 3), id="died"),
        pytest.param({}, (101, 0), id="never ended"),
        pytest.param({"id": 1, "kind": "end", "usage": {}, "chars": 4}, (101, 1), id="empty usage"),
    ],
)
def test_a_stream_that_died_is_estimated_at_four_characters_a_token(
    end: dict[str, Any], estimate: tuple[int, int]
) -> None:
    (exchange,) = read(REQUEST, STREAM, end) if end else read(REQUEST, STREAM)

    assert exchange.usage == Usage(*estimate, num_requests=1, estimated=True)


@pytest.mark.parametrize("end", [{"finish": "stop"}, {"finish": "unread"}, {}])
def test_of_a_native_stream_only_opencode_knows_the_tokens(end: dict[str, Any]) -> None:
    ended = {"id": 1, "kind": "end", "time": 102.0, "chars": 0} | end

    (exchange,) = read(REQUEST | {"native": True}, STREAM, ended)

    assert (exchange.usage, exchange.finish_reason) == (None, end.get("finish"))


def test_the_error_of_a_stream_is_kept() -> None:
    (exchange,) = read(REQUEST, STREAM, END | {"finish": None, "error": '{"error": "boom"}'})

    assert (exchange.error, exchange.finish_reason) == ('{"error": "boom"}', None)


def test_requests_keep_their_order_though_answers_cross() -> None:
    second = {key: value | {"id": 2} for key, value in [("r", REQUEST), ("s", STREAM), ("e", END)]}
    second["r"] |= {"session": "ses_b", "parent": "ses_a"}

    exchanges = read(REQUEST, second["r"], second["s"], second["e"], STREAM, END)

    assert [exchange.session_id for exchange in exchanges] == ["ses_a", "ses_b"]
    assert [exchange.parent_session_id for exchange in exchanges] == [None, "ses_a"]


def test_another_provider_names_its_requests_otherwise() -> None:
    (exchange,) = read(REQUEST, STREAM | {"headers": {"x-request-id": "req-1"}}, END)

    assert exchange.request_id == "req-1"


def test_a_clock_that_jumps_back_gives_no_negative_time() -> None:
    (exchange,) = read(REQUEST, STREAM | {"time": 90.0}, END | {"time": 95.0})

    assert (exchange.first_byte_s, exchange.duration_s) == (0.0, 0.0)


@pytest.mark.parametrize("tools", [None, 5, "bash", {"a": 1}, True])
def test_a_list_of_tools_that_is_none_is_empty(tools: object) -> None:
    assert read(REQUEST | {"tools": tools})[0].tools == ()


@pytest.mark.parametrize("status", [True, "200", 200.0, None])
def test_a_status_that_is_no_number_is_none(status: object) -> None:
    assert read(REQUEST, STREAM | {"status": status})[0].status is None


def test_half_a_line_is_passed_over() -> None:
    assert exchanges_from_guard(json.dumps(REQUEST) + '\n{"id": 1, "ki')[0].status is None
    assert exchanges_from_guard("") == ()


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({}, Usage(num_requests=1)),
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3, num_requests=1)),
        (USAGE, Usage(100, 40, 5, 23, num_requests=1)),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(cache_read=9, num_requests=1),
        ),
        (
            {"completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(reasoning=9, num_requests=1),
        ),
        (
            {"prompt_tokens": None, "prompt_tokens_details": None, "completion_tokens": "3"},
            Usage(num_requests=1),
        ),
    ],
)
def test_cached_and_reasoning_tokens_are_counted_once(told: dict[str, Any], usage: Usage) -> None:
    assert openai_usage(told) == usage
