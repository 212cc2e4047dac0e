"""The bill of an attempt: what was sent, what was told, what is guessed, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import ServerError, TruncatedStreamError
from chutes_opencode.results import Exchange, Message, TextPart, Transcript, Usage
from chutes_opencode.verdict import Scene, Verdict, failed_requests, judge, total_usage

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PRICE = Price(1.0, 10.0, 0.1)
SCENE = Scene(NOON)
NOTHING = Transcript()
UNUSED = Usage()
GIVEN_UP = Exchange(503, body="down", refused="the provider keeps failing")


def said(text: str, finish: str | None = "stop", usage: Usage = UNUSED) -> Transcript:
    turn = Message("assistant", (TextPart(text),), usage=usage, finish_reason=finish)
    return Transcript("ses_a", (turn,))


def exchange(
    finish: str | None = "stop",
    *,
    status: int | None = 200,
    usage: Usage | None = None,
    served_model: str | None = None,
    body: str | None = None,
    error: str | None = None,
) -> Exchange:
    return Exchange(
        status,
        finish_reason=finish,
        usage=usage,
        served_model=served_model,
        body=body,
        error=error,
    )


def verdict(transcript: Transcript, *exchanges: Exchange) -> Verdict:
    evidence = Evidence(transcript, exchanges, returncode=0)
    return judge(evidence, price=PRICE, scene=SCENE, timeout_seconds=7)


TOLD = Usage(input=100, output=40, reasoning=5, cache_read=23, num_requests=1)


def usage_of(*exchanges: Exchange, transcript: Transcript = NOTHING) -> Usage:
    return total_usage(Evidence(transcript, exchanges))


def test_the_exchanges_tell_the_usage_and_the_transcript_the_turns() -> None:
    transcript = said("42", usage=Usage(input=9999, num_turns=1))

    assert usage_of(exchange(usage=TOLD), exchange(usage=TOLD), transcript=transcript) == Usage(
        200, 80, 10, 46, num_turns=1, num_requests=2
    )


def test_without_exchanges_the_transcript_is_believed_and_with_none_that_was_sent_it_is_not() -> (
    None
):
    transcript = said("42", usage=Usage(input=7, num_turns=1))

    assert usage_of(transcript=transcript) == Usage(input=7, num_turns=1)
    assert usage_of(Exchange(refused="max_requests"), transcript=transcript) == Usage(num_turns=1)


@pytest.mark.parametrize(
    ("seen", "requests", "estimated"),
    [
        pytest.param(exchange(usage=TOLD), 1, False, id="told"),
        pytest.param(exchange(usage=Usage(1, estimated=True)), 1, True, id="a stream that died"),
        pytest.param(exchange(None), 1, True, id="answered, nothing told"),
        pytest.param(exchange(None, status=None, error="reset"), 1, True, id="no answer"),
        pytest.param(exchange(None, status=503, body=""), 1, False, id="failures cost nothing"),
        pytest.param(GIVEN_UP, 1, False, id="sent, failed, then refused"),
        pytest.param(Exchange(refused="max_requests"), 0, False, id="refused before it was sent"),
        pytest.param(
            Exchange(error="reset", refused="the provider keeps failing"), 1, True, id="broke"
        ),
    ],
)
def test_what_was_sent_is_counted_and_what_is_guessed_is_marked(
    seen: Exchange, requests: int, estimated: bool
) -> None:
    usage = usage_of(seen)

    assert (usage.num_requests, usage.estimated) == (requests, estimated)


def test_a_failure_is_billed_too_and_an_unknown_price_is_no_cost() -> None:
    evidence = Evidence(said("half", None), (exchange(None, usage=Usage(input=1_000_000)),))

    priced = judge(evidence, price=PRICE, scene=SCENE, timeout_seconds=7)
    unpriced = judge(evidence, price=None, scene=SCENE, timeout_seconds=7)

    assert (priced.cost_usd, unpriced.cost_usd) == (1.0, None)
    assert priced.error is not None


def test_the_last_answering_model_is_the_served_one() -> None:
    judged = verdict(said("4"), exchange(served_model="a"), exchange(served_model="b"), exchange())

    assert judged.served_model == "b"
    assert verdict(said("4"), exchange()).served_model is None


# --- a native wire: the guard counts its requests, only opencode has read its streams ------------


def test_the_tokens_of_a_native_wire_are_what_opencode_has_counted() -> None:
    transcript = said("42", usage=Usage(input=7, output=3, cache_write=2, num_turns=2))

    assert usage_of(exchange("tool_calls"), exchange(), transcript=transcript) == Usage(
        7, 3, cache_write=2, num_turns=2, num_requests=2
    )


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(exchange(), id="a sub-agent's turn stands elsewhere"),
        pytest.param(exchange(None), id="a stream that broke off"),
    ],
)
def test_a_native_bill_that_may_be_higher_says_so(more: Exchange) -> None:
    transcript = said("42", usage=Usage(input=7, num_turns=1))

    usage = usage_of(exchange(), more, transcript=transcript)

    assert (usage.input, usage.num_requests, usage.estimated) == (7, 2, True)


def test_a_native_stream_that_only_opencode_can_read_is_no_failure() -> None:
    assert verdict(said("42", usage=Usage(output=1, num_turns=1)), exchange("unread")).error is None
    assert verdict(said("4", "length"), exchange("unread")).error is not None


@pytest.mark.parametrize(
    ("finish", "stopped", "ran"),
    [
        ("tool_calls", "timeout", True),
        ("unread", "timeout", True),
        ("stop", "timeout", False),
        ("unread", None, False),
    ],
)
def test_of_a_run_that_we_ended_the_last_tool_shows_by_the_request_that_may_have_called_it(
    finish: str, stopped: str | None, ran: bool
) -> None:
    assert Evidence(NOTHING, (exchange(finish),), stopped=stopped).tools_ran is ran


# --- by the relay: every request has its cost in the books ----------------------------------------


def relayed(*exchanges: Exchange) -> Verdict:
    evidence = Evidence(said("42"), exchanges, returncode=0, relayed=True)
    return judge(evidence, price=PRICE, scene=SCENE, timeout_seconds=7)


def booked(cost_usd: float | None, **fields: Any) -> Exchange:
    whole: dict[str, Any] = {"status": 200, "finish_reason": "stop", "cost_usd": cost_usd}
    return Exchange(**whole | fields)


REPLAYED = booked(0.0, usage=TOLD, replayed=True)


@pytest.mark.parametrize(
    ("exchanges", "dollars"),
    [
        pytest.param((booked(0.25), booked(0.5, requested_model="other")), 0.75, id="each its own"),
        pytest.param((booked(0.5, usage=TOLD),), 0.5, id="what is booked, not our price"),
        pytest.param((booked(0.5), booked(0.0, refused="max_requests")), 0.5, id="refusals"),
        pytest.param((REPLAYED,), 0.0, id="replayed"),
        pytest.param((), 0.0, id="nothing was asked"),
        pytest.param((booked(0.5), booked(None)), None, id="one price is unknown"),
    ],
)
def test_the_relays_books_are_the_cost(
    exchanges: tuple[Exchange, ...], dollars: float | None
) -> None:
    assert relayed(*exchanges).cost_usd == dollars


def test_a_replayed_answer_used_no_tokens() -> None:
    spoken = said("42", usage=Usage(input=7, num_turns=1))

    assert usage_of(REPLAYED, transcript=spoken) == Usage(num_turns=1)
    assert usage_of(REPLAYED, exchange(usage=TOLD), transcript=spoken) == replace(TOLD, num_turns=1)


DOWN = booked(0.0, status=503, finish_reason=None, body="down", requested_model="m")
CUT = booked(0.125, finish_reason=None, usage=TOLD, attempt=2, session_id="ses_a", duration_s=3.0)


def test_requests_that_the_relay_made_up_for_are_attempts_of_their_own() -> None:
    evidence = Evidence(said("42"), (DOWN, CUT, booked(0.5, attempt=3)), relayed=True)

    first, second = failed_requests(evidence, "run", SCENE)

    assert (first.scope, first.number, first.engine, first.model) == ("request", 1, "run", "m")
    assert (type(first.error), type(second.error)) == (ServerError, TruncatedStreamError)
    assert (first.usage, first.cost_usd, first.duration_s) == (Usage(num_requests=1), 0.0, 0.0)
    assert (second.number, second.session_id, second.duration_s) == (2, "ses_a", 3.0)
    assert (second.usage, second.cost_usd) == (TOLD, 0.125)


@pytest.mark.parametrize(
    "exchanges",
    [
        pytest.param((), id="none"),
        pytest.param((DOWN,), id="the attempt's own failure"),
        pytest.param((booked(0.1, finish_reason="tool_calls"), booked(0.1)), id="whole ones"),
        pytest.param((booked(0.0, refused="model", status=None), booked(0.1)), id="refused"),
        pytest.param((REPLAYED, booked(0.1)), id="replayed"),
    ],
)
def test_what_did_not_fail_or_was_not_made_up_for_is_no_attempt_of_its_own(
    exchanges: tuple[Exchange, ...],
) -> None:
    assert failed_requests(Evidence(exchanges=exchanges, relayed=True), "run", SCENE) == []


def test_without_the_relay_single_requests_are_no_attempts() -> None:
    assert failed_requests(Evidence(exchanges=(DOWN, booked(0.1))), "run", SCENE) == []
