"""Who is believed where the relay was on the way: it says itself what it ended a prompt for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import (
    ConfigurationError,
    InvalidRequestError,
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    ServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.results import Exchange, Message, TextPart, Transcript
from chutes_opencode.verdict import Scene, Verdict, judge

SCENE = Scene(datetime(2026, 11, 21, 12, 0, tzinfo=UTC))
NOTHING = Transcript()
GOOD = Exchange(200, finish_reason="stop")
DOWN = Exchange(503, body="<html>down</html>")
MODEL_REFUSED = Exchange(refused="model")
LIMIT = LimitExceededError(raw_message="no tokens left", limit="max_tokens")
REFUSED_422: dict[str, object] = {
    "name": "APIError",
    "data": {"message": "ended by chutes-opencode", "statusCode": 422},
}


def said(text: str, finish: str | None = "stop") -> Transcript:
    return Transcript("ses_a", (Message("assistant", (TextPart(text),), finish_reason=finish),))


def relayed(transcript: Transcript = NOTHING, *exchanges: Exchange, **fields: Any) -> Verdict:
    evidence = Evidence(transcript, exchanges, **{"returncode": 0, "relayed": True} | fields)
    return judge(evidence, price=None, scene=SCENE, timeout_seconds=7)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({}, id="opencode said nothing"),
        pytest.param({"run_error": REFUSED_422}, id="opencode tells of the refusal"),
        pytest.param({"stopped": "relay"}, id="the relay has stopped"),
        pytest.param({"stopped": "guard"}, id="before anything was sent"),
        pytest.param({"stopped": "attachment"}, id="before anything was sent, with a file"),
    ],
)
def test_what_the_relay_ended_a_prompt_for_is_its_error(seen: dict[str, Any]) -> None:
    judged = relayed(said("half", None), DOWN, ended=LIMIT, returncode=1, **seen)

    assert judged.error is LIMIT
    assert LIMIT.exit_code == 1


@pytest.mark.parametrize(
    ("stopped", "cls"), [("timeout", PromptTimeoutError), ("agent", ConfigurationError)]
)
def test_what_we_ended_ourselves_comes_before_the_relays_word(
    stopped: str, cls: type[OpenCodeError]
) -> None:
    assert type(relayed(NOTHING, DOWN, ended=LIMIT, stopped=stopped).error) is cls


def test_a_timeout_after_the_relays_end_has_that_as_its_cause() -> None:
    error = relayed(NOTHING, DOWN, ended=LIMIT, stopped="timeout").error

    assert error is not None
    assert error.__cause__ is LIMIT


def test_a_request_that_the_relay_refused_does_not_spoil_the_answer() -> None:
    assert relayed(said("whole"), GOOD, MODEL_REFUSED).error is None


@pytest.mark.parametrize(
    ("seen", "cls"),
    [
        pytest.param((MODEL_REFUSED,), InvalidRequestError, id="only refused"),
        pytest.param((DOWN, MODEL_REFUSED), ServerError, id="what the provider said"),
    ],
)
def test_a_request_that_the_relay_refused_is_told_by_opencode(
    seen: tuple[Exchange, ...], cls: type[OpenCodeError]
) -> None:
    assert type(relayed(NOTHING, *seen, run_error=REFUSED_422).error) is cls


def test_an_answer_that_did_not_come_by_the_relay_is_not_believed() -> None:
    error = relayed(said("42"), stopped="guard").error

    assert isinstance(error, ConfigurationError)
    assert "without a request to the relay" in error.raw_message


def test_a_replayed_answer_is_a_success() -> None:
    assert relayed(said("42"), Exchange(200, finish_reason="stop", replayed=True)).error is None


def test_a_relay_that_stopped_without_a_word_is_still_an_error() -> None:
    assert type(relayed(said("42"), stopped="relay").error) is UnknownOpenCodeError


def test_an_answer_that_the_relay_did_not_accept_is_no_estimate() -> None:
    page = Exchange(status=200, body="<html>", cost_usd=0.0)

    assert not relayed(NOTHING, page).usage.estimated


def test_a_request_that_nobody_answered_may_have_cost_something() -> None:
    assert relayed(NOTHING, Exchange(error="cut before its end", cost_usd=0.0)).usage.estimated
