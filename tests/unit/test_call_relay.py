"""A call by the relay: what each turn may still do, and what the books come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chutes_opencode.call import Call, CallRunner
from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.errors import (
    BillingError,
    ConfigurationError,
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    ServerError,
    TruncatedStreamError,
)
from chutes_opencode.events import AttemptEnded, Event, PromptCancelled
from chutes_opencode.limits import Budget
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Message, QueryResult, TextPart, Transcript, Usage
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.structured import Schema

AT_ONCE = RetryPolicy(base_wait_s=0, rate_limit_wait_s=0, cold_wait_s=0)
TOKENS = Usage(input=10, output=5, num_requests=1)
SHARED = Budget("max_total_cost_usd", 9.0)


def terms_of(**fields: Any) -> Terms:
    upstream = Upstream("chutes", "http://127.0.0.1:1/v1", lambda: None)
    return Terms(upstream, {"m": Price(1.0, 1.0)}, "m", budgets=(SHARED,), **fields)


def exchange(**fields: Any) -> Exchange:
    whole: dict[str, Any] = {
        "status": 200,
        "finish_reason": "stop",
        "usage": TOKENS,
        "cost_usd": 0.25,
    }
    return Exchange(**whole | fields)


def broken(**fields: Any) -> Exchange:
    return exchange(finish_reason=None, **fields)


def said(*exchanges: Exchange, text: str = "42", **fields: Any) -> Evidence:
    turn = Message("assistant", (TextPart(text),), finish_reason="stop")
    seen = exchanges or (exchange(),)
    return Evidence(Transcript("ses_1", (turn,)), seen, returncode=0, relayed=True, **fields)


def ended(error: OpenCodeError, *exchanges: Exchange) -> Evidence:
    return Evidence(exchanges=exchanges, returncode=1, relayed=True, ended=error)


class Engine:
    """Sees what it is told to see, in order, and keeps the terms."""

    name = "fake"

    def __init__(self, *script: Evidence) -> None:
        self.script = list(script)
        self.terms: list[Terms] = []

    async def run(
        self,
        _request: PromptRequest,
        _observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        assert terms is not None
        self.terms.append(terms)
        evidence = self.script.pop(0)
        accept(evidence)
        return evidence

    async def forget(self, session_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


def run(engine: Engine, terms: Terms | None = None, **fields: Any) -> QueryResult:
    request = PromptRequest("Say 42.", "m", max_requests=fields.pop("max_requests", 100))
    call = Call(request, terms=terms or terms_of(), **{"policy": AT_ONCE} | fields)
    runner = CallRunner(call, engine, asyncio.Semaphore(1), lambda _event: None)
    return asyncio.run(runner.run())


def outcome(engine: Engine, **fields: Any) -> QueryResult:
    """Return the result, also where an error carries it."""
    try:
        return run(engine, **fields)
    except OpenCodeError as error:
        return error.result or pytest.fail("an error without its result")


def failure(number: int, *earlier: Exchange) -> Evidence:
    """A run that broke off at the attempt of that number, without the relay's doing."""
    last = broken(status=503, body="down", usage=None, cost_usd=0.0, attempt=number)
    return Evidence(exchanges=(*earlier, last), returncode=1, relayed=True)


# --- what a turn may still do ---------------------------------------------------------------------


def test_the_first_turn_gets_all_that_the_call_may_do() -> None:
    engine = Engine(said())

    run(engine, terms_of(max_tokens=100, max_cost_usd=0.5), max_requests=7)

    (terms,) = engine.terms
    assert (terms.max_requests, terms.max_tokens, terms.max_cost_usd) == (7, 100, 0.5)
    assert (terms.tries_left, terms.deadline) == (3, None)
    assert terms.budgets == (SHARED,)


def test_later_turns_get_what_the_earlier_ones_left() -> None:
    engine = Engine(failure(1, exchange(), broken(attempt=1)), said())

    run(engine, terms_of(max_tokens=100, max_cost_usd=0.75), max_requests=7)

    second = engine.terms[1]
    assert (second.max_requests, second.max_tokens, second.max_cost_usd) == (4, 70, 0.25)
    assert second.tries_left == 2


def test_no_attempt_is_begun_for_which_no_money_is_left() -> None:
    engine = Engine(failure(1, exchange(cost_usd=0.5)), said())

    with pytest.raises(LimitExceededError) as caught:
        run(engine, terms_of(max_cost_usd=0.25))

    assert caught.value.limit == "max_cost_usd"
    assert caught.value.__cause__ is not None
    assert len(engine.terms) == 1


def test_without_limits_there_are_none_later_either() -> None:
    engine = Engine(failure(1), said())

    run(engine)

    assert (engine.terms[1].max_tokens, engine.terms[1].max_cost_usd) == (None, None)


def test_what_the_relay_gave_up_is_not_begun_again() -> None:
    error = TruncatedStreamError(raw_message="the stream ended in an unknown way")
    engine = Engine(ended(error, broken()), said())

    assert outcome(engine).error is error
    assert len(engine.terms) == 1


def test_a_relay_that_stopped_is_replaced() -> None:
    error = ServerError(raw_message="the relay stopped while the prompt ran")
    engine = Engine(replace(ended(error, broken()), stopped="relay"), said())

    assert run(engine).success


def test_errors_of_single_requests_say_where_they_happened() -> None:
    engine = Engine(said(broken(status=503, body="down"), exchange()))

    result = run(engine, node_id="node-7")

    assert [attempt.error.node_id for attempt in result.attempts if attempt.error] == ["node-7"]


def test_the_deadline_is_the_calls() -> None:
    engine = Engine(failure(1), said())

    before = time.monotonic()
    run(engine, deadline_seconds=50)

    first, second = engine.terms
    assert first.deadline == second.deadline
    assert first.deadline is not None
    assert before + 50 <= first.deadline <= time.monotonic() + 50


def test_a_repair_gets_what_the_answer_left() -> None:
    engine = Engine(said(text="{}"), said(text='{"a": 1}'))
    schema = Schema.from_any({"type": "object", "required": ["a"]})

    result = run(engine, terms_of(max_tokens=100), schema=schema)

    assert result.structured == {"a": 1}
    assert [terms.max_tokens for terms in engine.terms] == [100, 85]


# --- what is tried again --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tries", "prompts"),
    [
        pytest.param([1, 1, 1, 1], 3, id="one at a time"),
        pytest.param([2, 1, 1], 2, id="the relay has tried it again already"),
        pytest.param([3, 1], 1, id="the relay has tried all that there is"),
    ],
)
def test_the_relays_attempts_count_as_tries(tries: list[int], prompts: int) -> None:
    engine = Engine(*map(failure, tries))

    result = outcome(engine)

    assert len(engine.terms) == prompts
    assert isinstance(result.error, ServerError)


def test_a_failure_that_was_made_up_for_is_no_try() -> None:
    exchanges = (broken(attempt=1), exchange(attempt=2))
    late = Evidence(exchanges=exchanges, stopped="timeout", relayed=True)
    engine = Engine(late, late, said())

    assert run(engine).success
    assert [terms.tries_left for terms in engine.terms] == [3, 2, 1]


@pytest.mark.parametrize(
    "error",
    [
        LimitExceededError(raw_message="no tokens left", limit="max_tokens"),
        BillingError(raw_message="no balance"),
    ],
)
def test_an_end_that_no_repetition_helps_is_raised_with_what_there_is(
    error: OpenCodeError,
) -> None:
    engine = Engine(ended(error, exchange(), broken(cost_usd=0.125)))

    with pytest.raises(type(error)) as caught:
        run(engine)

    assert caught.value is error
    assert error.result is not None
    assert error.result.cost_usd == 0.375
    assert error.result.usage.num_requests == 2
    assert len(engine.terms) == 1


def test_the_relays_deadline_comes_back_as_a_result() -> None:
    late = PromptTimeoutError(raw_message="the prompt's deadline has passed")

    result = outcome(Engine(ended(late)), policy=RetryPolicy(retries=1))

    assert result.error is late


# --- what is cancelled ----------------------------------------------------------------------------


class Leaving(Engine):
    """An engine that leaves no evidence, after it has booked requests: by default, cancelled."""

    error: BaseException = asyncio.CancelledError()

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        if self.script:
            return await super().run(request, observe, accept, terms)
        assert terms is not None
        books = Booking(terms, "ses_1").ledger
        broken_one, whole_one = (books.begin("ses_1", "m", at=0.0) for _ in range(2))
        books.answer(broken_one, 200, "text/event-stream", {}, at=0.1)
        books.finish(broken_one, at=1.0, usage=TOKENS, error="cut before its end")
        books.answer(whole_one, 200, "text/event-stream", {}, at=0.1)
        books.finish(whole_one, at=1.0, whole=True, usage=TOKENS, finish_reason="stop")
        raise self.error


def cancelled(*script: Evidence, **fields: Any) -> tuple[PromptCancelled, list[Event]]:
    """Return the last of the events of a call that is cancelled, and all before."""
    events: list[Event] = []
    call = Call(PromptRequest("Say 42.", "m"), terms=terms_of(), policy=AT_ONCE, **fields)
    runner = CallRunner(call, Leaving(*script), asyncio.Semaphore(1), events.append)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(runner.run())
    last = events.pop()
    assert isinstance(last, PromptCancelled)
    return last, events


def test_a_call_that_is_cancelled_tells_what_was_paid_for() -> None:
    event, before = cancelled()

    result = event.result
    assert (result.success, result.error) == (False, None)
    assert result.usage == TOKENS + TOKENS
    assert result.cost_usd == pytest.approx(30 / 1e6)
    assert len(result.exchanges) == 2
    assert [(one.scope, one.error is None) for one in result.attempts] == [
        ("request", False),
        ("prompt", True),
    ]
    assert [type(one) for one in before] == [AttemptEnded]


def test_what_was_paid_for_before_is_part_of_it() -> None:
    event, _ = cancelled(failure(1, exchange()))

    assert event.result.usage.input == 30
    assert event.result.cost_usd == pytest.approx(0.25 + 30 / 1e6)


def test_what_was_paid_for_is_told_when_the_engine_fails_in_its_own_way() -> None:
    engine = Leaving()
    engine.error = ConfigurationError(raw_message="opencode serve refused: 400")

    result = outcome(engine)

    assert result.error is engine.error
    assert result.cost_usd == pytest.approx(30 / 1e6)
    assert result.attempts[-1].error is engine.error


# --- the books ------------------------------------------------------------------------------------


def test_requests_that_failed_are_listed_but_counted_once() -> None:
    made_up_for = (broken(attempt=1), exchange(attempt=2), exchange())

    result = run(Engine(said(*made_up_for)))

    assert [(one.scope, one.number) for one in result.attempts] == [("request", 1), ("prompt", 1)]
    assert isinstance(result.attempts[0].error, TruncatedStreamError)
    assert result.attempts[0].usage == TOKENS
    assert result.usage == Usage(30, 15, num_requests=3)
    assert result.cost_usd == 0.75


def test_the_cost_is_unknown_where_one_price_is() -> None:
    assert run(Engine(failure(1, exchange(cost_usd=None)), said())).cost_usd is None


def test_a_prompt_that_was_replayed_says_so() -> None:
    replayed = exchange(replayed=True, cost_usd=0.0)

    result = run(Engine(said(replayed, replayed)))

    assert (result.replayed, result.cost_usd, result.usage.num_requests) == (True, 0.0, 0)


def test_the_wait_for_the_first_permit_is_told() -> None:
    before = time.monotonic()

    result = run(Engine(said(queued_s=1.5)))

    assert 1.5 <= result.queued_s <= 1.5 + (time.monotonic() - before)


def test_only_the_first_attempts_wait_is_the_queue() -> None:
    first = failure(1)
    late = said(queued_s=9000.0)

    assert run(Engine(first, late)).queued_s < 9000
