"""Who is believed: what was seen of an attempt, and what it is judged to be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import (
    BillingError,
    CapacityError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    EmptyResponseError,
    InvalidRequestError,
    LimitExceededError,
    MaxOutputTokensError,
    OpenCodeError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    ToolServerError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.results import Exchange, Message, TextPart, ToolPart, Transcript
from chutes_opencode.verdict import Scene, Verdict, judge

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PRICE = Price(1.0, 10.0, 0.1)
SCENE = Scene(NOON)
NOTHING = Transcript()


def said(text: str, finish: str | None = "stop", **fields: Any) -> Transcript:
    return Transcript(
        "ses_a", (Message("assistant", (TextPart(text),), **fields | {"finish_reason": finish}),)
    )


def exchange(finish: str | None = "stop", **fields: Any) -> Exchange:
    return Exchange(**{"status": 200, "finish_reason": finish, "requested_model": "m"} | fields)


def verdict(transcript: Transcript = NOTHING, *exchanges: Exchange, **fields: Any) -> Verdict:
    evidence = Evidence(transcript, exchanges, **{"returncode": 0} | fields)
    return judge(evidence, price=PRICE, scene=SCENE, timeout_seconds=7)


def error_of(
    transcript: Transcript = NOTHING, *exchanges: Exchange, **fields: Any
) -> OpenCodeError:
    error = verdict(transcript, *exchanges, **fields).error
    assert error is not None
    return error


def api_error(status: int, detail: str) -> dict[str, object]:
    return {"name": "APIError", "data": {"message": detail, "statusCode": status}}


REFUSED_422 = api_error(422, "ended by chutes-opencode")
BROKE_OFF = exchange(None, error=None)
FULL = exchange(
    None, status=429, body='{"detail": "Infrastructure is at maximum capacity, try again later"}'
)
POOR = exchange(None, status=402, body='{"detail": "Quota exceeded and account balance is $0.0"}')
DOWN = exchange(None, status=503, body="<html>down</html>")
GIVEN_UP = exchange(None, status=503, body="down", refused="the provider keeps failing")


# --- a whole answer ----------------------------------------------------------------------------


def test_a_turn_that_stopped_with_text_is_a_success() -> None:
    judged = verdict(said("42"), exchange(served_model="m-TEE"))

    assert judged.error is None
    assert judged.finish_reason == "stop"
    assert judged.served_model == "m-TEE"


def test_an_agents_answer_is_the_turn_after_its_tools() -> None:
    first = Message("assistant", (ToolPart("bash"),), finish_reason="tool-calls")
    transcript = Transcript("ses_a", (first, *said("42").messages))

    assert verdict(transcript, exchange("tool_calls"), exchange()).error is None


def test_an_earlier_failure_that_opencode_got_over_is_forgiven() -> None:
    assert verdict(said("42"), DOWN, exchange()).error is None


@pytest.mark.parametrize("returncode", [0, 1, -9])
def test_the_exit_code_is_not_believed(returncode: int) -> None:
    assert verdict(said("42"), exchange(), returncode=returncode).error is None
    assert verdict(returncode=returncode).error is not None


# --- the truth table -----------------------------------------------------------------------------

TABLE: list[Any] = [
    # What was seen, what it is, a word of the message.
    # 1. Our own hand.
    pytest.param({"stopped": "timeout"}, PromptTimeoutError, "within 7 s", id="deadline"),
    pytest.param(
        {"stopped": "timeout", "transcript": said("42")}, PromptTimeoutError, "7 s", id="even so"
    ),
    pytest.param(
        {"stopped": "timeout", "exchanges": (GIVEN_UP,)},
        PromptTimeoutError,
        "7 s",
        id="and failing",
    ),
    pytest.param(
        {"stopped": "agent", "stderr": '! agent "nope" not found', "transcript": said("42")},
        ConfigurationError,
        'agent "nope" not found',
        id="wrong agent",
    ),
    pytest.param(
        {"stopped": "failing", "exchanges": (FULL,)},
        CapacityError,
        "maximum capacity",
        id="failing",
    ),
    pytest.param(
        {"stopped": "failing", "log_errors": ("AI_APICallError: Too Many Requests",)},
        RateLimitError,
        "Too Many Requests",
        id="failing, only the log knows",
    ),
    pytest.param(
        {"stopped": "attachment"}, InvalidRequestError, "an attached file", id="attachment"
    ),
    pytest.param(
        {"stopped": "unkept", "stderr": "no space", "transcript": said("42")},
        ConfigurationError,
        "the session could not be kept: no space",
        id="unkept",
    ),
    pytest.param(
        {"stderr": "opencode run [message..]\n\nrun opencode"},
        ConfigurationError,
        "a flag of extra_cli_args",
        id="unknown flag",
    ),
    pytest.param({"stopped": "guard"}, ConfigurationError, "without its guard", id="no guard"),
    pytest.param({"stopped": "failing"}, UnknownOpenCodeError, "", id="failing, nobody knows"),
    # 1b. The guard's refusals.
    pytest.param(
        {"exchanges": (Exchange(refused="tool server web_"),), "run_error": REFUSED_422},
        ToolServerError,
        "no tool of the server 'web' reached the model",
        id="tool server",
    ),
    pytest.param(
        {"exchanges": (exchange("tool_calls"), Exchange(refused="max_requests"))},
        LimitExceededError,
        "limit of model requests",
        id="limit",
    ),
    pytest.param(
        {"exchanges": (DOWN, GIVEN_UP), "run_error": REFUSED_422},
        ServerError,
        "down",
        id="the provider keeps failing",
    ),
    pytest.param(
        {"exchanges": (BROKE_OFF, Exchange(refused="the stream broke off"))},
        TruncatedStreamError,
        "without a finish reason",
        id="the stream broke off",
    ),
    pytest.param(
        {
            "exchanges": (
                exchange(None, body="<html>hello</html>", refused="the answer is no event stream"),
            )
        },
        ServerError,
        "HTML",
        id="HTML on 200",
    ),
    pytest.param(
        {"exchanges": (exchange(), Exchange(refused="something new"))},
        UnknownOpenCodeError,
        "something new",
        id="a refusal of the future",
    ),
    # 2. The exchanges before opencode's own errors.
    pytest.param(
        {"exchanges": (POOR,), "run_error": api_error(422, "neutral")},
        BillingError,
        "balance",
        id="what the provider said, not what opencode was told",
    ),
    pytest.param(
        {"exchanges": (exchange(None, status=None, error="ECONNRESET"),)},
        ServerError,
        "ECONNRESET",
        id="no answer",
    ),
    pytest.param(
        {"exchanges": (exchange(None, status=None),)}, ServerError, "no answer", id="no word"
    ),
    pytest.param(
        {"exchanges": (BROKE_OFF,), "transcript": said("half", None)},
        TruncatedStreamError,
        "without a finish reason",
        id="a broken stream",
    ),
    pytest.param(
        {"exchanges": (exchange(None, error="boom"),), "transcript": said("half", None)},
        TruncatedStreamError,
        "boom",
        id="a broken stream that said something unknown",
    ),
    pytest.param(
        {
            "exchanges": (
                exchange(
                    None, error='{"error": "This model\'s maximum context length is 5 tokens."}'
                ),
            ),
            "transcript": said("half", None),
            "run_error": {"name": "UnknownError", "data": {"message": "x"}},
        },
        ContextOverflowError,
        "maximum context length",
        id="a broken stream that named its cause",
    ),
    # 3. opencode's structured errors.
    pytest.param(
        {"run_error": api_error(402, "Payment Required")}, BillingError, "Payment", id="run error"
    ),
    pytest.param(
        {
            "transcript": said("", None, error=api_error(402, "of the session")),
            "run_error": api_error(500, "of the run"),
        },
        BillingError,
        "of the session",
        id="the session's error before the run's",
    ),
    pytest.param(
        {
            "transcript": said("cut"),
            "run_error": {"name": "ContentFilterError", "data": {"message": "blocked"}},
            "exchanges": (exchange("content_filter"),),
        },
        ContentFilterError,
        "blocked",
        id="an error beside partial text",
    ),
    # 4. The finish reason.
    pytest.param({"transcript": said("4", "length")}, MaxOutputTokensError, "cut", id="length"),
    pytest.param(
        {"transcript": said("4", "length"), "exchanges": (exchange("length"),)},
        MaxOutputTokensError,
        "cut",
        id="length, provider agrees",
    ),
    pytest.param(
        {"transcript": said("4", "content-filter")}, ContentFilterError, "filter", id="filtered"
    ),
    pytest.param(
        {"transcript": said("4", "tool-calls")}, TruncatedStreamError, "tool call", id="unanswered"
    ),
    pytest.param(
        {"transcript": said("4", None)}, TruncatedStreamError, "no finish reason", id="unfinished"
    ),
    pytest.param({"transcript": said("4", "weird")}, TruncatedStreamError, "'weird'", id="weird"),
    # 5. Silence.
    pytest.param({"transcript": said("")}, EmptyResponseError, "said nothing", id="empty"),
    pytest.param({}, UnknownOpenCodeError, "without an answer", id="nothing at all"),
    pytest.param(
        {"stderr": "Config is invalid", "returncode": 1},
        UnknownOpenCodeError,
        "Config is invalid",
        id="only stderr",
    ),
]


@pytest.mark.parametrize(("seen", "cls", "word"), TABLE)
def test_evidence_becomes_an_error(
    seen: dict[str, Any], cls: type[OpenCodeError], word: str
) -> None:
    error = error_of(seen.pop("transcript", NOTHING), *seen.pop("exchanges", ()), **seen)

    assert type(error) is cls
    assert word in error.raw_message


def test_an_empty_last_turn_is_empty_though_an_earlier_one_spoke() -> None:
    first = Message(
        "assistant", (TextPart("I look."), ToolPart("bash")), finish_reason="tool-calls"
    )
    transcript = Transcript("ses_a", (first, *said("").messages))

    assert type(error_of(transcript, exchange("tool_calls"), exchange())) is EmptyResponseError


# --- what an error carries -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen", [{"stopped": "timeout"}, {"exchanges": (Exchange(refused="max_requests"),)}]
)
def test_an_end_by_us_keeps_the_providers_failure_as_its_cause(seen: dict[str, Any]) -> None:
    error = error_of(NOTHING, DOWN, *seen.pop("exchanges", ()), **seen)

    assert isinstance(error.__cause__, ServerError)
    assert error.__cause__.status == 503


def test_a_limit_is_named() -> None:
    error = error_of(NOTHING, Exchange(refused="max_requests"))

    assert isinstance(error, LimitExceededError)
    assert error.limit == "max_requests"
    assert error.__cause__ is None


def test_status_body_and_request_id_come_from_the_exchange() -> None:
    headers = {"x-chutes-invocationid": "inv-1", "retry-after": "9"}

    error = error_of(
        NOTHING, exchange(None, status=503, body="down", headers=headers), returncode=1
    )

    assert isinstance(error, ServerError)
    assert (error.status, error.response_body, error.model) == (503, "down", "m")
    assert (error.request_id, error.retry_after, error.exit_code) == ("inv-1", 9.0, 1)


def test_a_wait_in_seconds_becomes_a_time() -> None:
    error = error_of(
        Transcript(), exchange(None, status=429, body="", headers={"retry-after": "9"})
    )

    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOON + timedelta(seconds=9)


def test_a_broken_stream_carries_what_is_known_of_it() -> None:
    error = error_of(said("half", None), exchange(None, request_id="inv-1"), returncode=1)

    assert (error.status, error.request_id, error.model) == (200, "inv-1", "m")
    assert error.exit_code == 1


def test_partial_text_is_kept() -> None:
    error = error_of(said("half an ans", "length"))

    assert isinstance(error, MaxOutputTokensError)
    assert error.partial_text == "half an ans"


def test_stderr_is_attached_to_what_nobody_knows() -> None:
    error = error_of(stderr="odd words " * 100, returncode=3)

    assert isinstance(error, UnknownOpenCodeError)
    assert error.stderr == "odd words " * 100
    assert len(error.raw_message) == 300
    assert error.exit_code == 3


def test_a_refused_sub_agent_does_not_spoil_its_parents_answer() -> None:
    refused = Exchange(refused="the stream broke off", parent_session_id="ses_a")

    assert verdict(said("whole"), refused, exchange()).error is None
