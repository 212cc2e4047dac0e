"""The truth table: what went wrong → class, tried again?, after how many seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from chutes_opencode.classify import (
    classify_error,
    classify_response,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    ContextOverflowError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.patterns import (
    CHUTES_PATTERNS,
)
from chutes_opencode.retry import RetryPolicy, Stop, Wait, decide

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)

NGINX_429 = (
    "<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n"
    "<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
VLLM = (
    "This model's maximum context length is 40960 tokens. However, you requested 50000 tokens "
    "(49000 in the messages, 1000 in the completion). Please reduce the length of the messages."
)
SGLANG_INPUT = "The input (50000 tokens) is longer than the model's context length (40960 tokens)."
SGLANG_TOTAL = (
    "Requested token count exceeds the model's maximum context length of 40960 tokens. "
    "You requested a total of 50000 tokens."
)


def chutes(detail: object) -> str:
    return json.dumps({"detail": detail})


def engine(message: str) -> str:
    """An engine's error as Chutes hands it on: text inside text."""
    body = {"object": "error", "message": message, "type": "BadRequestError", "code": 400}
    return chutes(f"Invalid request: Invalid request: {json.dumps(body)}")


def openai(message: str, kind: str = "", code: object = None) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "code": code}})


def answer(
    status: int, body: str | None, headers: Mapping[str, str] | None = None, **more: Any
) -> OpenCodeError:
    return classify_response(status, body, headers or {}, now=NOW, **more)


def wait_of(error: OpenCodeError) -> float | None:
    """Seconds that the default policy waits after a first failure; None: it does not try again."""
    decision = decide(RetryPolicy(), error, 1, now=NOW, random01=0.5)
    return decision.seconds if isinstance(decision, Wait) else None


# status, body → class, wait in seconds (None: never tried again)
CHUTES_TABLE: list[tuple[int, str, type[OpenCodeError], float | None]] = [
    (401, chutes("Authentication required."), AuthenticationError, None),
    (401, chutes("Invalid token or user not found"), AuthenticationError, None),
    (401, chutes("Invalid token."), AuthenticationError, None),
    (401, chutes("Token expired."), AuthenticationError, None),
    (
        402,
        chutes(
            {
                "message": "Quota exceeded and account balance is $0.0, please pay with fiat",
                "quota_reset_timestamp": "2026-11-22T00:00:00+00:00",
            }
        ),
        BillingError,
        None,
    ),
    (
        402,
        chutes("Subscription usage cap exceeded. Please add balance to continue."),
        BillingError,
        None,
    ),
    (
        402,
        chutes("TEE models require an active subscription or positive balance."),
        BillingError,
        None,
    ),
    (
        402,
        chutes("This model requires a higher subscription tier or positive balance."),
        BillingError,
        None,
    ),
    (
        402,
        chutes("Chute unavailable because the creator of this chute has zero balance."),
        BillingError,
        None,
    ),
    (404, chutes("model not found: no/Such-Model"), ModelNotFoundError, None),
    (404, chutes("No matching chute found!"), ModelNotFoundError, None),
    (400, engine("temperature must be non-negative, got -1.0."), InvalidRequestError, None),
    (400, chutes("Invalid request: Invalid request: bad 'stop'"), InvalidRequestError, None),
    (400, chutes({"object": "error", "message": "bad 'stop'"}), InvalidRequestError, None),
    (400, engine(VLLM), ContextOverflowError, None),
    (400, chutes({"object": "error", "message": VLLM}), ContextOverflowError, None),
    (400, chutes(f"Invalid request: Invalid request: {VLLM}"), ContextOverflowError, None),
    (400, engine(SGLANG_INPUT), ContextOverflowError, None),
    (400, engine(SGLANG_TOTAL), ContextOverflowError, None),
    (
        429,
        chutes("Infrastructure is at maximum capacity, try again later"),
        CapacityError,
        60.0,
    ),
    (429, chutes("infra_overload"), CapacityError, 60.0),
    (429, chutes("no_targets"), CapacityError, 60.0),
    (429, chutes("model is under maintenance"), RateLimitError, 60.0),
    (
        429,
        chutes("Free models limit reached for today - maintain >= $10 balance or upgrade"),
        BillingError,
        None,
    ),
    (429, NGINX_429, RateLimitError, 60.0),
    (503, chutes("No instances available (yet) for chute_id='8f2c'"), ColdModelError, 10.0),
    (503, chutes("This chute is currently disabled."), ModelNotFoundError, None),
    (500, chutes("exhausted all available targets to no avail"), ServerError, 1.0),
    (500, chutes("No result returned from upstream"), ServerError, 1.0),
    (504, "<html><body>504 Gateway Time-out</body></html>", ServerError, 1.0),
    (502, "<!DOCTYPE html><title>Bad gateway</title>", ServerError, 1.0),
]

OTHER_PROVIDERS_TABLE: list[tuple[int, str, type[OpenCodeError], float | None]] = [
    (400, openai("Bad value.", "invalid_request_error"), InvalidRequestError, None),
    (
        400,
        openai("Too long.", "invalid_request_error", "context_length_exceeded"),
        ContextOverflowError,
        None,
    ),
    (
        400,
        openai("The decoder prompt (length 9) is longer than the maximum model length of 8."),
        ContextOverflowError,
        None,
    ),
    (400, "", InvalidRequestError, None),
    (401, openai("Bad key.", code="invalid_api_key"), AuthenticationError, None),
    (403, openai("Country not supported."), AuthenticationError, None),
    (403, "", AuthenticationError, None),
    (404, openai("Gone.", code="model_not_found"), ModelNotFoundError, None),
    (405, "", InvalidRequestError, None),
    (408, openai("Request timed out."), ServerError, 1.0),
    (409, openai("Conflict."), InvalidRequestError, None),
    (409, openai("The resource is locked."), InvalidRequestError, None),
    (410, "", InvalidRequestError, None),
    (413, "Request Entity Too Large", InvalidRequestError, None),
    (418, "", InvalidRequestError, None),
    (422, json.dumps({"detail": [{"msg": "Field required"}]}), InvalidRequestError, None),
    (425, "", ServerError, 1.0),
    (429, openai("Slow down.", "rate_limit_exceeded"), RateLimitError, 60.0),
    (
        429,
        openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
        BillingError,
        None,
    ),
    (429, openai("Rate limit reached for requests."), RateLimitError, 60.0),
    (429, "", RateLimitError, 60.0),
    (451, "", InvalidRequestError, None),
    (499, "", ServerError, 1.0),
    (500, openai("The server had an error.", "server_error"), ServerError, 1.0),
    (529, openai("Overloaded", "overloaded_error"), ServerError, 1.0),
    (599, "", ServerError, 1.0),
    # Status first: words of another family say nothing.
    (503, "a long explanation of your billing plan and its quota", ServerError, 1.0),
    (402, openai("insufficient balance: invalid request"), BillingError, None),
    (500, chutes("Free models limit reached for today"), ServerError, 1.0),
    (429, openai(VLLM), RateLimitError, 60.0),
    (500, openai("Bad key.", code="invalid_api_key"), ServerError, 1.0),
    # A success that is none: what the error inside it says.
    (200, "<!DOCTYPE html><html>Welcome to nginx!</html>", ServerError, 1.0),
    (200, openai("The engine is restarting.", "server_error"), ServerError, 1.0),
    (200, openai("Who knows?"), ServerError, 1.0),
    (200, "", ServerError, 1.0),
    (200, openai("Slow down.", "rate_limit_exceeded"), RateLimitError, 60.0),
    (200, openai("No.", code=401), AuthenticationError, None),
    (200, openai("No.", code="503"), ServerError, 1.0),
    (
        200,
        json.dumps({"object": "error", "message": VLLM, "code": 400}),
        ContextOverflowError,
        None,
    ),
    (200, chutes("Infrastructure is at maximum capacity, try again later"), CapacityError, 60.0),
    (200, json.dumps({"code": 200, "message": "fine"}), ServerError, 1.0),
    # Not an error of anybody whom we know.
    (302, "", UnknownOpenCodeError, 1.0),
    (101, "", UnknownOpenCodeError, 1.0),
]


@pytest.mark.parametrize(("status", "body", "cls", "wait"), [*CHUTES_TABLE, *OTHER_PROVIDERS_TABLE])
def test_an_answer_becomes_its_error(
    status: int, body: str, cls: type[OpenCodeError], wait: float | None
) -> None:
    error = answer(status, body)

    assert type(error) is cls
    assert (error.status, error.response_body) == (status, body)
    assert wait_of(error) == wait


@pytest.mark.parametrize(("status", "body", "cls", "wait"), CHUTES_TABLE)
def test_opencode_tells_the_same_as_the_answer(
    status: int, body: str, cls: type[OpenCodeError], wait: float | None
) -> None:
    data = {"message": f"Some Phrase: {body}", "statusCode": status, "responseBody": body}

    error = classify_error({"name": "APIError", "data": data}, now=NOW)

    assert type(error) is cls
    assert (error.status, error.response_body) == (status, body)
    assert wait_of(error) == wait


@pytest.mark.parametrize(("status", "body", "cls", "wait"), CHUTES_TABLE)
def test_without_the_body_the_message_of_opencode_is_judged(
    status: int, body: str, cls: type[OpenCodeError], wait: float | None
) -> None:
    data = {"message": f"Too Many Requests: {body}", "statusCode": status}

    error = classify_error({"name": "APIError", "data": data}, now=NOW)

    assert type(error) is cls
    assert error.response_body is None
    assert wait_of(error) == wait


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (chutes("Invalid token."), "Invalid token."),
        (engine("bad 'stop'"), "bad 'stop'"),
        (chutes({"error": {"message": "deep"}}), "deep"),
        (json.dumps({"error": "bare"}), "bare"),
        (json.dumps({"message": "said", "error": "Bad Request"}), "said"),
        (json.dumps({"detail": [{"loc": ["body"], "msg": "Field required"}]}), "Field required"),
        (json.dumps({"error": {"message": json.dumps({"message": "in text"})}}), "in text"),
        ("plain words", "plain words"),
        ("[]", "[]"),
        ("{}", "{}"),
        ('{"detail": {"a": 1}}', '{"detail": {"a": 1}}'),
        ('{"detail": "half', '{"detail": "half'),
        ("[" * 100_000, "[" * 100_000),
        ("", "HTTP 400 Bad Request"),
        ("<html>no</html>", "HTTP 400 Bad Request (an HTML page)"),
    ],
)
def test_the_innermost_message_is_told(body: str, message: str) -> None:
    assert answer(400, body).raw_message == message


def test_wrappers_without_end_do_not_hold_us() -> None:
    nested: object = "bottom"
    for _ in range(30):
        nested = {"detail": nested}

    assert type(answer(400, json.dumps(nested))) is InvalidRequestError


def test_a_status_without_a_name_is_told_by_its_number() -> None:
    assert answer(599, "").raw_message == "HTTP 599"


def test_an_answer_whose_body_was_not_kept_is_judged_by_its_status() -> None:
    error = answer(429, None)

    assert type(error) is RateLimitError
    assert error.response_body is None


def test_the_error_says_where_and_what_was_asked() -> None:
    error = answer(500, "", model="org/M", node_id="node-1", exit_code=1)

    assert (error.model, error.node_id, error.exit_code) == ("org/M", "node-1", 1)


@pytest.mark.parametrize("body", ["<html>404</html>", chutes("Not Found"), ""])
def test_a_path_that_does_not_exist_hints_at_the_base_url(body: str) -> None:
    assert "base URL" in answer(404, body).hint
    assert "base URL" not in answer(404, chutes("model not found: x")).hint


# ---------------------------------------------------------------- the data itself


def test_each_pattern_of_chutes_is_reached() -> None:
    bodies = [(status, body) for status, body, *_ in (*CHUTES_TABLE, *OTHER_PROVIDERS_TABLE)]
    said = [(status, answer(status, body).raw_message, body) for status, body in bodies]
    unreached = [
        pattern.regex
        for pattern in CHUTES_PATTERNS.bodies
        if not any(
            pattern.matches(None if status == 200 else status, (message, *_machine_words(body)))
            for status, message, body in said
        )
    ]

    assert unreached == []


def _machine_words(body: str) -> tuple[str, ...]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError):
        return ()
    return tuple(word for word in (error["type"], error["code"]) if isinstance(word, str))


def test_a_stopped_decision_says_why() -> None:
    assert decide(RetryPolicy(), answer(401, ""), 1, now=NOW) == Stop("permanent")
