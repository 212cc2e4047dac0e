"""Real output of opencode, and whatever else may come: nothing makes the judge raise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.classify import (
    classify_error,
    classify_reason,
    classify_response,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.patterns import (
    OPENCODE_NAMES,
)

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
CAPTURES = Path(__file__).parents[1] / "captures"
CURRENT = CAPTURES / "opencode-1.18.33"


def answer(
    status: int, body: str | None, headers: Mapping[str, str] | None = None, **more: Any
) -> OpenCodeError:
    return classify_response(status, body, headers or {}, now=NOW, **more)


def error_event(path: Path) -> dict[str, Any]:
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.startswith("{"))
    found: dict[str, Any] = next(line["error"] for line in lines if line["type"] == "error")
    return found


@pytest.mark.parametrize("version", ["1.15.13", "1.18.33"])
def test_a_captured_402(version: str) -> None:
    event = error_event(CAPTURES / f"opencode-{version}" / "run_402.jsonl")

    error = classify_error(event, returncode=1)

    assert type(error) is BillingError
    assert (error.status, error.exit_code) == (402, 1)
    assert error.response_body == '{"detail": "error 402"}'
    assert error.raw_message == 'Payment Required: {"detail": "error 402"}'


def test_a_captured_402_of_the_server() -> None:
    message = json.loads((CURRENT / "serve_message_402.json").read_text())

    assert type(classify_error(message["info"]["error"])) is BillingError


def test_a_captured_abort() -> None:
    message = json.loads((CURRENT / "serve_message_aborted.json").read_text())

    error = classify_error(message["info"]["error"], partial_text="w0")

    assert type(error) is UnknownOpenCodeError
    assert error.raw_message == "Aborted"


def test_a_captured_content_filter() -> None:
    event = error_event(CURRENT / "run_content_filter.jsonl")

    assert type(classify_error(event)) is ContentFilterError


@pytest.mark.parametrize(
    "path",
    [
        CAPTURES / "opencode-1.15.13" / "unknown_model.txt",
        CURRENT / "run_unknown_model.txt",
        CURRENT / "run_unknown_provider.txt",
        CURRENT / "run_model_noslash.txt",
    ],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_a_captured_unknown_model_is_unknown_without_the_log(path: Path) -> None:
    assert type(classify_error(error_event(path))) is UnknownOpenCodeError


def test_a_captured_unknown_model_is_known_with_the_log() -> None:
    event = error_event(CURRENT / "run_unknown_model_print-logs.jsonl")
    log = (CURRENT / "run_unknown_model_print-logs_ERROR.stderr.txt").read_text()

    error = classify_error(event, returncode=1, stderr=log)

    assert type(error) is ModelNotFoundError
    assert error.raw_message == "ProviderModelNotFoundError: Model not found: chutes/knowm."


def test_a_captured_429_in_the_log() -> None:
    log = (CURRENT / "run_429_print-logs_ERROR.stderr.txt").read_text()
    reason = log.split('error.error="')[1].split('"')[0]

    error = classify_reason(reason)

    assert reason == "AI_APICallError: Too Many Requests"
    assert type(error) is RateLimitError
    assert error.status == 429


def test_a_captured_429_of_the_server() -> None:
    lines = (CURRENT / "serve_events_429_retry.sse.txt").read_text().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    retries = [
        event["properties"]["status"]["message"]
        for event in events
        if event["type"] == "session.status" and event["properties"]["status"]["type"] == "retry"
    ]
    (failed,) = (event for event in events if event["type"] == "session.error")

    error = classify_error(failed["properties"]["error"], now=NOW)

    assert [type(classify_reason(words)) for words in retries] == [RateLimitError] * 5
    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOW


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
payload_keys = st.sampled_from(
    [
        "message",
        "statusCode",
        "responseBody",
        "responseHeaders",
        "isRetryable",
        "ref",
        "retry-after",
    ]
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["APIError", "UnknownError", *OPENCODE_NAMES]) | json_values,
        "data": st.dictionaries(payload_keys, json_values | st.integers(100, 599)) | json_values,
        "message": json_values,
    },
)


@given(payloads | json_values, st.text())
def test_no_payload_makes_it_raise(payload: Any, stderr: str) -> None:
    assert isinstance(classify_error(payload, stderr=stderr), OpenCodeError)


@given(
    st.integers(100, 599),
    st.text() | json_values.map(lambda value: json.dumps({"detail": value, "reset_at": value})),
    st.dictionaries(st.sampled_from(["retry-after", "Retry-After-Ms", "x-request-id"]), st.text()),
)
def test_no_answer_makes_it_raise_and_the_status_picks_the_family(
    status: int, body: str, headers: dict[str, str]
) -> None:
    error = answer(status, body, headers)

    assert error.status == status
    if status in (401, 403):
        assert isinstance(error, AuthenticationError)
    elif status in (408, 425, 499, 500, 502, 504):
        assert isinstance(error, ServerError)
    elif status in (400, 404, 409, 413, 422):
        assert isinstance(error, InvalidRequestError)


@given(st.text())
def test_no_words_make_it_raise(reason: str) -> None:
    assert isinstance(classify_reason(reason), OpenCodeError)
