"""One call: its attempts, what ends them, and the one result that they come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.call import Call, CallRunner
from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.errors import (
    BillingError,
    ConfigurationError,
    ContentFilterError,
    EmptyResponseError,
    LimitExceededError,
    MaxOutputTokensError,
    OpenCodeError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import AttemptEnded, Event, PromptCancelled, Retrying, TextDelta
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import McpServer, PromptRequest
from chutes_opencode.results import (
    Exchange,
    Message,
    QueryResult,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)
from chutes_opencode.retry import RetryPolicy

AT_ONCE = RetryPolicy(base_wait_s=0, rate_limit_wait_s=0, cold_wait_s=0)
TOKENS = Usage(input=10, output=5, num_requests=1)
Step = Evidence | OpenCodeError | Callable[[], Any]


class ScriptedEngine:
    """An engine that sees what it is told to see, in order."""

    name = "fake"

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.requests: list[PromptRequest] = []
        self.accepted: list[bool] = []
        self.forgotten: list[str] = []

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        assert terms is None
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, OpenCodeError):
            raise step
        if not isinstance(step, Evidence):
            step = await step()
        assert isinstance(step, Evidence)
        for turn in step.transcript.turns:
            observe(TextDelta(text=turn.text))
        self.accepted.append(accept(step))
        return step

    async def forget(self, session_id: str) -> None:
        self.forgotten.append(session_id)

    async def close(self) -> None:
        pass


def said(text: str = "42", finish: str | None = "stop") -> Evidence:
    turn = Message("assistant", (TextPart(text),), finish_reason=finish)
    provider = (finish or "").replace("-", "_") or None
    exchange = Exchange(200, finish_reason=provider, usage=TOKENS, served_model="m-TEE")
    return Evidence(Transcript("ses_1", (turn,)), (exchange,), returncode=0)


def failed(status: int, *tools: ToolPart) -> Evidence:
    error = {"name": "APIError", "data": {"message": "m", "statusCode": status}}
    turn = Message("assistant", tools, error=error)
    exchange = Exchange(status, body="")
    return Evidence(Transcript("ses_1", (turn,)), (exchange,), returncode=1)


DOWN = failed(503)
TIMEOUT = Evidence(stopped="timeout")
SILENCE = Evidence(stderr="odd", returncode=1)
BASH = ToolPart("bash")


class Stage:
    """Runs a call on an engine and keeps what was seen."""

    def __init__(self, *script: Step) -> None:
        self.engine = ScriptedEngine(*script)
        self.slots = asyncio.Semaphore(1)
        self.events: list[Event] = []

    async def arun(self, call: Call) -> QueryResult:
        return await CallRunner(call, self.engine, self.slots, self.events.append).run()

    def run(self, **fields: Any) -> QueryResult:
        return asyncio.run(self.arun(call_of(**fields)))

    def raises(self, cls: type[OpenCodeError], **fields: Any) -> OpenCodeError:
        with pytest.raises(cls) as caught:
            self.run(**fields)
        assert type(caught.value) is cls
        return caught.value

    def outcome(self, **fields: Any) -> QueryResult:
        """Return the result, also where an error carries it."""
        try:
            return self.run(**fields)
        except OpenCodeError as error:
            return error.result or pytest.fail("an error without its result")

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def call_of(**fields: Any) -> Call:
    names = {"work_dir", "session_id", "keep_session", "tools", "max_requests", "timeout_seconds"}
    request = {name: fields.pop(name) for name in list(fields) if name in names}
    return Call(PromptRequest("Say 42.", "m", **request), **{"policy": AT_ONCE} | fields)


# --- success ----------------------------------------------------------------------------------


def test_a_whole_answer_is_the_result() -> None:
    stage = Stage(said("42"))

    result = stage.run(price=Price(1e6, 2e6))

    assert (result.result, result.success, result.error) == ("42", True, None)
    assert result.stream_result == "[Response]\n42\n\n"
    assert (result.model, result.served_model) == ("m", "m-TEE")
    assert (result.session_id, result.finish_reason, result.returncode) == ("ses_1", "stop", 0)
    assert result.usage == Usage(10, 5, num_turns=0, num_requests=1)
    assert result.cost_usd == 20.0
    assert [attempt.number for attempt in result.attempts] == [1]
    assert stage.engine.accepted == [True]


def test_the_engine_gets_the_request_and_its_events_reach_the_observer() -> None:
    stage = Stage(said("42"))

    stage.run(max_requests=7, timeout_seconds=9)

    (request,) = stage.engine.requests
    assert (request.prompt, request.max_requests, request.timeout_seconds) == ("Say 42.", 7, 9)
    assert stage.seen(TextDelta) == [TextDelta(text="42")]
    assert stage.seen(AttemptEnded)[0].error is None


# --- what is tried again ----------------------------------------------------------------------


def test_a_transient_failure_is_tried_again() -> None:
    stage = Stage(DOWN, said("42"))

    result = stage.run()

    assert result.success
    assert [type(attempt.error) for attempt in result.attempts] == [ServerError, type(None)]
    assert [event.attempt for event in stage.seen(Retrying)] == [1]
    assert stage.engine.accepted == [False, True]


def test_usage_cost_and_exchanges_of_failed_attempts_are_counted() -> None:
    died = said("half", None)

    result = Stage(died, said("42")).run(price=Price(1e6, 0.0))

    assert result.usage.num_requests == 2
    assert result.usage.input == 20
    assert result.cost_usd == 20.0
    assert len(result.exchanges) == 2
    assert result.result == "42"


def test_the_wait_before_an_attempt_is_told_once() -> None:
    policy = RetryPolicy(base_wait_s=0.001, jitter=0)

    result = Stage(DOWN, said()).run(policy=policy)

    assert [attempt.waited_s for attempt in result.attempts] == [0.0, 0.001]


@pytest.mark.parametrize(
    ("evidence", "cls", "attempts"),
    [
        pytest.param(DOWN, ServerError, 3, id="server"),
        pytest.param(failed(429), RateLimitError, 3, id="rate limit"),
        pytest.param(said(""), EmptyResponseError, 3, id="empty"),
        pytest.param(said("4", "length"), MaxOutputTokensError, 2, id="cut: once more"),
        pytest.param(failed(402), BillingError, 1, id="no balance"),
        pytest.param(said("x", "content-filter"), ContentFilterError, 1, id="filtered"),
    ],
)
def test_what_outlives_its_attempts_is_raised(
    evidence: Evidence, cls: type[OpenCodeError], attempts: int
) -> None:
    stage = Stage(*[evidence] * 5)

    error = stage.raises(cls)

    assert len(stage.engine.requests) == attempts
    assert error.result is not None
    assert len(error.result.attempts) == attempts
    assert error.result.error is error
    assert error.result.success is False


@pytest.mark.parametrize(
    ("evidence", "cls"), [(TIMEOUT, PromptTimeoutError), (SILENCE, UnknownOpenCodeError)]
)
def test_a_timeout_and_an_unknown_error_come_back_as_a_result(
    evidence: Evidence, cls: type[OpenCodeError]
) -> None:
    stage = Stage(*[evidence] * 3)

    result = stage.run()

    assert result.success is False
    assert type(result.error) is cls
    assert result.error.result is result
    assert len(result.attempts) == 3
    with pytest.raises(cls):
        result.raise_for_error()


def test_an_attempt_that_could_not_begin_is_raised_with_an_empty_result() -> None:
    error = Stage(ConfigurationError(raw_message="work_dir x is no folder")).raises(
        ConfigurationError
    )

    assert error.result is not None
    assert (error.result.attempts, error.result.usage) == ((), Usage())
    assert (error.result.result, error.result.cost_usd) == ("", 0)


def test_an_error_names_machine_and_model() -> None:
    error = Stage(failed(402)).raises(BillingError, node_id="node-7")

    assert (error.node_id, error.model) == ("node-7", "m")
    assert str(error).startswith("billing_error on node-7: ")


def test_the_cost_is_unknown_without_a_price() -> None:
    assert Stage(said()).run().cost_usd is None


# --- tools have run ---------------------------------------------------------------------------

WEB = McpServer("web", url="http://host/mcp")
MIDWAY = Evidence(
    stopped="timeout", exchanges=(Exchange(200, finish_reason="tool_calls", usage=TOKENS),)
)


@pytest.mark.parametrize(
    ("evidence", "fields", "attempts"),
    [
        pytest.param(failed(503, BASH), {}, 2, id="a folder of ours is restored"),
        pytest.param(failed(503), {"work_dir": Path("/w")}, 2, id="no tool has run"),
        pytest.param(failed(503, BASH), {"work_dir": Path("/w")}, 1, id="the caller's folder"),
        pytest.param(failed(503, BASH), {"session_id": "ses_0"}, 1, id="a kept folder"),
        pytest.param(
            failed(503, ToolPart("web_post")), {"tools": (WEB,)}, 1, id="a server out there"
        ),
        pytest.param(failed(503, BASH), {"tools": (WEB,)}, 2, id="a server that was not called"),
        pytest.param(
            failed(503, ToolPart("bash", status="pending")),
            {"work_dir": Path("/w")},
            2,
            id="a tool that only waited",
        ),
        pytest.param(
            failed(503, ToolPart("bash", status="running")),
            {"work_dir": Path("/w")},
            1,
            id="a tool that still ran",
        ),
        pytest.param(MIDWAY, {"work_dir": Path("/w")}, 1, id="ended while a tool ran"),
        pytest.param(
            failed(503, BASH),
            {"work_dir": Path("/w"), "retry_after_tools": True},
            2,
            id="the caller allows it",
        ),
    ],
)
def test_a_prompt_whose_agent_used_a_tool_is_not_begun_again(
    evidence: Evidence, fields: dict[str, Any], attempts: int
) -> None:
    stage = Stage(evidence, said())

    result = stage.outcome(**fields)

    assert len(result.attempts) == attempts
    assert result.success is (attempts == 2)


# --- the limit of requests --------------------------------------------------------------------


def test_opencodes_own_repetitions_count_as_tries() -> None:
    twice = replace(DOWN, exchanges=DOWN.exchanges * 2)
    stage = Stage(twice, DOWN, said())

    with pytest.raises(ServerError):
        stage.run(policy=replace(AT_ONCE, retries=3))

    assert [request.max_failures for request in stage.engine.requests] == [2, 1]


def test_each_attempt_gets_what_the_earlier_ones_left() -> None:
    stage = Stage(DOWN, DOWN, said())

    stage.run(max_requests=5)

    assert [request.max_requests for request in stage.engine.requests] == [5, 4, 3]


def test_no_attempt_begins_without_a_request_left() -> None:
    stage = Stage(DOWN, DOWN, said())

    error = stage.raises(LimitExceededError, max_requests=2)

    assert isinstance(error, LimitExceededError)
    assert error.limit == "max_requests"
    assert isinstance(error.__cause__, ServerError)
    assert len(stage.engine.requests) == 2
    assert error.result is not None
    assert error.result.usage.num_requests == 2


# --- time -------------------------------------------------------------------------------------


def test_an_attempt_gets_no_more_time_than_the_call_has_left() -> None:
    stage = Stage(said())

    stage.run(timeout_seconds=6000, deadline_seconds=5000)

    assert 4000 < stage.engine.requests[0].timeout_seconds <= 5000


def test_a_timeout_tells_the_time_that_there_was() -> None:
    stage = Stage(*[TIMEOUT] * 3)

    result = stage.run(timeout_seconds=600, deadline_seconds=50)

    assert result.error is not None
    assert "600" not in result.error.raw_message


def test_no_wait_reaches_beyond_the_deadline() -> None:
    stage = Stage(DOWN, said())

    stage.raises(ServerError, deadline_seconds=5, policy=RetryPolicy(base_wait_s=60))

    assert len(stage.engine.requests) == 1


def test_without_the_relay_nobody_knows_what_a_cancelled_call_has_cost() -> None:
    async def cut() -> None:
        raise asyncio.CancelledError

    stage = Stage(cut)
    with pytest.raises(asyncio.CancelledError):
        stage.run(price=Price(1e6, 2e6))

    (event,) = stage.seen(PromptCancelled)
    assert (event.result.usage, event.result.cost_usd) == (Usage(estimated=True), None)
