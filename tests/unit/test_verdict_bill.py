"""The bill of an attempt: what was sent, what was told, what is guessed, and what it costs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence
from chutes_opencode.results import Exchange, Message, TextPart, Transcript, Usage
from chutes_opencode.verdict import Verdict, cost_usd, judge, total_usage

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PRICE = Price(1.0, 10.0, 0.1)
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
    return judge(evidence, price=PRICE, now=NOON, timeout_seconds=7)


TOLD = Usage(input=100, output=40, reasoning=5, cache_read=23, num_requests=1)


def usage_of(*exchanges: Exchange, transcript: Transcript = NOTHING) -> Usage:
    return total_usage(Evidence(transcript, exchanges))


def test_the_exchanges_tell_the_usage_and_the_transcript_the_turns() -> None:
    transcript = said("42", usage=Usage(input=9999, num_turns=1))

    assert usage_of(exchange(usage=TOLD), exchange(usage=TOLD), transcript=transcript) == Usage(
        200, 80, 10, 46, num_turns=1, num_requests=2
    )


def test_without_exchanges_the_transcript_is_believed() -> None:
    transcript = said("42", usage=Usage(input=7, num_turns=1))

    assert usage_of(transcript=transcript) == Usage(input=7, num_turns=1)
    assert usage_of(Exchange(refused="max_requests"), transcript=transcript).input == 7


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


@pytest.mark.parametrize(
    ("usage", "price", "dollars"),
    [
        (Usage(), PRICE, 0.0),
        (Usage(input=1_000_000), PRICE, 1.0),
        (Usage(output=1_000_000), PRICE, 10.0),
        (Usage(reasoning=1_000_000), PRICE, 10.0),
        (Usage(cache_read=1_000_000), PRICE, 0.1),
        (Usage(cache_read=1_000_000), Price(1.0, 10.0), 1.0),
        (Usage(cache_read=1_000_000), Price(1.0, 10.0, 0.0), 0.0),
        (Usage(cache_write=1_000_000), PRICE, 1.0),
        (Usage(100, 40, 5, 23), Price(1.0, 10.0, 0.5), 0.0005615),
    ],
)
def test_the_cost_of_a_usage(usage: Usage, price: Price, dollars: float) -> None:
    assert cost_usd(usage, price) == pytest.approx(dollars)


def test_a_failure_is_billed_too_and_an_unknown_price_is_no_cost() -> None:
    evidence = Evidence(said("half", None), (exchange(None, usage=Usage(input=1_000_000)),))

    priced = judge(evidence, price=PRICE, now=NOON, timeout_seconds=7)
    unpriced = judge(evidence, price=None, now=NOON, timeout_seconds=7)

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
