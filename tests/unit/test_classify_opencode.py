"""opencode's error objects and log words: what counts where no status was told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chutes_opencode.classify import (
    classify_error,
    classify_reason,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ConfigurationError,
    ContextOverflowError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)

VLLM = (
    "This model's maximum context length is 40960 tokens. However, you requested 50000 tokens "
    "(49000 in the messages, 1000 in the completion). Please reduce the length of the messages."
)


def chutes(detail: object) -> str:
    return json.dumps({"detail": detail})


@pytest.mark.parametrize(
    ("message", "cls"),
    [
        ("Model not found: chutes/nope.", ModelNotFoundError),
        ('Agent not found: "nope". Available agents: build', ConfigurationError),
        ("Cannot connect to API: Unable to connect. Is the computer able …", ServerError),
        ("Connection reset by server", ServerError),
        ("The operation timed out.", ServerError),
        ("JSON parsing failed: Text: {…", ServerError),
        ("Response decompression failed", ServerError),
        ("Provider response headers timed out after 3000ms", ServerError),
        ("SSE read timed out", ServerError),
        ("Failed to process successful response", ServerError),
        ("Session not found", InvalidRequestError),
        ("You must provide a message or a command", InvalidRequestError),
        ("Configuration is invalid at /x", ConfigurationError),
        ("Config file at /x is not valid JSON(C)", ConfigurationError),
        ("bad file reference: {file:x}", ConfigurationError),
        ("Infrastructure is at maximum capacity, try again later", CapacityError),
        ("Rate limit reached for requests.", RateLimitError),
        ("Too Many Requests", RateLimitError),
        ("Too Many Requests: " + chutes("no_targets"), CapacityError),
        ("Service Unavailable: " + chutes("This chute is currently disabled."), ModelNotFoundError),
        ("Gateway Time-out", ServerError),
        ("Not Found", ModelNotFoundError),
        ("Aborted", UnknownOpenCodeError),
        ("Unexpected server error. Check server logs for details.", UnknownOpenCodeError),
        ("explanation of a plan", UnknownOpenCodeError),
        ("", UnknownOpenCodeError),
    ],
)
def test_words_count_where_no_status_was_told(message: str, cls: type[OpenCodeError]) -> None:
    event = {"name": "UnknownError", "data": {"message": message}}
    reasons = (f"AI_APICallError: {message}", f"Error: {message}", message)

    assert type(classify_error(event)) is cls
    assert [type(classify_reason(reason)) for reason in reasons] == [cls] * 3


@pytest.mark.parametrize(
    ("event", "cls"),
    [
        ({"message": "Overloaded"}, ServerError),
        ({"message": "The server had an error.", "type": "server_error"}, ServerError),
        ({"message": "who knows?"}, ServerError),
        ("a bare string", ServerError),
        ({"message": "x", "type": "rate_limit_exceeded"}, RateLimitError),
        ({"message": "x", "code": 429}, RateLimitError),
        ({"message": "x", "status": "401"}, AuthenticationError),
        ({"message": "x", "code": "insufficient_quota"}, BillingError),
        ({"message": VLLM, "type": "BadRequestError", "code": 400}, ContextOverflowError),
        ({"message": "x", "code": "context_length_exceeded"}, ContextOverflowError),
        ({"message": "x", "type": "invalid_request_error"}, InvalidRequestError),
        ({"type": "error", "error": {"message": "x", "type": "overloaded_error"}}, ServerError),
    ],
)
def test_an_error_inside_a_stream_is_judged_by_what_it_says(
    event: object, cls: type[OpenCodeError]
) -> None:
    # Where the provider sends an error event, opencode's message is the event as JSON.
    error = classify_error({"name": "UnknownError", "data": {"message": json.dumps(event)}})

    assert type(error) is cls
    assert (error.status, error.response_body) == (None, None)


def test_an_error_event_that_opencode_understood_keeps_its_body() -> None:
    body = json.dumps({"type": "error", "error": {"code": "insufficient_quota", "message": "x"}})
    data = {"message": "Quota exceeded. Check your plan.", "isRetryable": False}

    error = classify_error({"name": "APIError", "data": {**data, "responseBody": body}})

    assert type(error) is BillingError
    assert error.raw_message == "Quota exceeded. Check your plan."
    assert error.response_body == body


@pytest.mark.parametrize(
    ("name", "data", "cls"),
    [
        ("APIError", {"message": "???", "isRetryable": True}, ServerError),
        ("APIError", {"message": "???", "isRetryable": False}, InvalidRequestError),
        ("APIError", {"message": "Check your billing", "isRetryable": False}, BillingError),
        ("APIError", {"message": "an explanation", "isRetryable": False}, InvalidRequestError),
        ("APIError", {"message": "Check your billing", "isRetryable": True}, ServerError),
        ("APIError", {"message": "???", "isRetryable": "yes"}, UnknownOpenCodeError),
        ("UnknownError", {"message": "???", "isRetryable": True}, UnknownOpenCodeError),
    ],
)
def test_what_opencode_calls_final_is_final(
    name: str, data: dict[str, Any], cls: type[OpenCodeError]
) -> None:
    assert type(classify_error({"name": name, "data": data})) is cls


def test_the_fields_of_the_helper_arrive() -> None:
    def made(name: str) -> Any:
        return classify_error(
            {"name": name, "data": {"message": "m"}},
            returncode=1,
            stderr="log",
            partial_text="half",
            node_id="node-1",
            model="org/M",
        )

    cut, odd, unknown = made("MessageOutputLengthError"), made("StructuredOutputError"), made("X")

    assert (cut.partial_text, odd.partial_text, unknown.stderr) == ("half", "half", "log")
    assert {(e.exit_code, e.node_id, e.model) for e in (cut, odd, unknown)} == {
        (1, "node-1", "org/M")
    }


def test_suggestions_of_opencode_are_kept() -> None:
    message = "Model not found: chutes/Qwen3. Did you mean: Qwen/Qwen3-32B, Qwen/Qwen3-8B?"

    error = classify_error({"name": "UnknownError", "data": {"message": message}})

    assert isinstance(error, ModelNotFoundError)
    assert error.suggestions == ("Qwen/Qwen3-32B", "Qwen/Qwen3-8B")


def test_headers_of_opencode_tell_when_to_come_back() -> None:
    data = {"statusCode": 429, "message": "x", "responseHeaders": {"Retry-After": "5", "a": None}}

    error = classify_error({"name": "APIError", "data": data}, now=NOW)

    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOW + timedelta(seconds=5)


def test_without_a_given_time_the_clock_is_read() -> None:
    data = {"statusCode": 429, "message": "x", "responseHeaders": {"retry-after": "5"}}

    before = datetime.now(UTC)
    error = classify_error({"name": "APIError", "data": data})
    after = datetime.now(UTC)

    assert isinstance(error, RateLimitError)
    assert error.reset_time is not None
    assert before <= error.reset_time - timedelta(seconds=5) <= after


@pytest.mark.parametrize(
    ("logged", "cls"),
    [
        ('ref=err_1 error="ProviderModelNotFoundError: Model not found: a/b."', ModelNotFoundError),
        ('ref=err_1 a=1 error="say \\"x\\"" cause="y"', UnknownOpenCodeError),
        ("ref=err_1 error=ConfigInvalidError:x", UnknownOpenCodeError),
        ('ref=err_1 error="AI_LoadAPIKeyError: no key"', AuthenticationError),
        ('ref=err_12 error="AI_LoadAPIKeyError: no key"', UnknownOpenCodeError),
        ('ref=err_1 message="no cause"', UnknownOpenCodeError),
        ("", UnknownOpenCodeError),
    ],
)
def test_the_log_tells_the_cause_behind_a_reference(logged: str, cls: type[OpenCodeError]) -> None:
    data = {"message": "Unexpected server error. Check server logs for details.", "ref": "err_1"}
    stderr = f"other line\ntimestamp=1 level=ERROR message=failed {logged}\n"

    assert type(classify_error({"name": "UnknownError", "data": data}, stderr=stderr)) is cls


@pytest.mark.parametrize("ref", [None, "", 7, ["err_1"]])
def test_a_malformed_reference_leads_nowhere(ref: object) -> None:
    data = {"message": "???", "ref": ref}

    error = classify_error({"name": "UnknownError", "data": data}, stderr='ref= error="x"')

    assert error.raw_message == "???"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"name": "MessageOutputLengthError", "data": {}}, "MessageOutputLengthError"),
        ({"name": "Odd", "data": {"n": 1}}, "{'name': 'Odd', 'data': {'n': 1}}"),
        ({"name": "Odd", "message": "beside"}, "beside"),
        ({}, "an error without content"),
        (None, "None"),
        ("text", "'text'"),
    ],
)
def test_an_error_without_a_message_shows_what_it_is(payload: Any, message: str) -> None:
    assert classify_error(payload).raw_message == message


def test_an_error_object_without_content_is_unknown() -> None:
    assert type(classify_error({})) is UnknownOpenCodeError


def test_a_circular_payload_is_described() -> None:
    payload: dict[str, Any] = {"name": 1}
    payload["data"] = payload

    assert type(classify_error(payload)) is UnknownOpenCodeError
