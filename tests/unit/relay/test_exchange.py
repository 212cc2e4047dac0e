"""One request through the relay: what passes, what is tried again, what opencode is told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode.errors import (
    AuthenticationError,
    CapacityError,
    ConfigurationError,
    ModelNotFoundError,
    OpenCodeError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    ToolServerError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import ReasoningDelta, Retrying, StepRestarted, TextDelta
from chutes_opencode.relay.endings import refusal_body, stop_event
from chutes_opencode.relay.terms import SystemRule
from chutes_opencode.retry import RetryPolicy
from tests.unit.relay.stage import (
    BROKEN,
    DONE,
    GOOD,
    KEY,
    MODEL,
    OTHER,
    USAGE,
    Answer,
    Stage,
    chunk,
    closing,
    ended,
    error,
    event,
    nothing,
    page,
    repeats,
    stalling,
    stream,
    wait_until,
    whole,
)

MakeStage = Callable[..., Stage]

# What opencode retries, by its words (OPENCODE.md, section 5).
RETRIED = re.compile(
    r"429|50[0234]|524|rate.?limit|too many requests|overloaded|service unavailable"
    r"|internal|server error|try again|timed? ?out",
    re.IGNORECASE,
)


# --- good answers --------------------------------------------------------------------------------


def test_a_good_stream_passes_byte_for_byte_and_is_booked(stage: MakeStage) -> None:
    s = stage()
    booking = s.open()

    answer = s.ask()
    booking.close()

    assert answer.content == b"".join(GOOD)
    (exchange,) = booking.exchanges()
    assert (exchange.status, exchange.finish_reason, exchange.served_model) == (200, "stop", MODEL)
    assert exchange.usage is not None
    assert (exchange.usage.input, exchange.usage.output) == (10, 4)
    assert booking.cost_usd == pytest.approx((10 * 1 + 4 * 2) / 1e6)
    assert booking.usage.num_requests == 1
    assert (booking.ended, booking.error) == (None, None)
    assert exchange.first_byte_s is not None
    assert exchange.duration_s is not None


def test_the_first_byte_does_not_wait_for_the_second(stage: MakeStage) -> None:
    s = stage(stalling(chunk("first")))
    booking = s.open(idle_seconds=20)

    with s.http.stream(
        "POST", f"{s.relay.url}/chat/completions", headers=s.headers(), json=_chat()
    ) as answer:
        assert next(answer.iter_raw()) == chunk("first")

    booking.close()


def test_the_provider_gets_the_real_key_and_no_trace_of_the_lease(stage: MakeStage) -> None:
    s = stage()
    s.open()

    s.ask(headers={"cookie": "a=b", "user-agent": "opencode/1", "x-other": "1"})

    (asked,) = s.provider.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["user-agent"] == "opencode/1"
    assert asked.headers["x-session-id"] == "ses_main"
    assert asked.headers["accept-encoding"] == "identity"
    assert not {"cookie", "x-other"} & asked.headers.keys()
    assert s.lease.key not in str(asked.headers) + asked.raw.decode()


def test_the_providers_ids_go_on_to_opencode_but_not_what_makes_it_wait(stage: MakeStage) -> None:
    ids = stream(
        *GOOD, x_chutes_invocationid="id-1", x_request_id="日本", retry_after="9", set_cookie="a=b"
    )
    s = stage(ids)
    booking = s.open()

    answer = s.ask()
    booking.close()

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-chutes-invocationid"] == "id-1"
    assert not {"x-request-id", "retry-after", "set-cookie"} & answer.headers.keys()
    assert booking.exchanges()[0].request_id == "id-1"


def test_the_observer_hears_the_deltas_of_the_main_session_only(stage: MakeStage) -> None:
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    s = stage(stream(thought, *GOOD))
    booking = s.open()

    s.ask()
    s.ask("ses_child", "ses_main")
    booking.close()

    assert s.events == [ReasoningDelta(text="hm"), TextDelta(text="Hel"), TextDelta(text="lo")]


def test_an_observer_that_fails_harms_nobody(
    stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    s = stage()

    def observe(_event: object) -> None:
        raise LookupError("a fault of the caller's")

    booking = s.lease.open(s.terms(), "ses_main", observe)

    assert whole(s.ask())
    booking.close()
    assert "an observer failed" in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/chat/completions",
            {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]},
        ),
        ("/completions", {"choices": [{"text": "hi", "finish_reason": "stop"}]}),
        ("/embeddings", {"data": [{"embedding": [0.5]}]}),
    ],
)
def test_an_answer_without_a_stream_passes_whole(
    stage: MakeStage, path: str, body: dict[str, Any]
) -> None:
    text = f'{{"model": "{MODEL}", "usage": {{"prompt_tokens": 3}},' + json.dumps(body)[1:]
    s = stage(page(200, text, "application/json"))
    booking = s.open()

    answer = s.ask(path=path, stream=False)
    booking.close()

    assert (answer.status_code, answer.text) == (200, text)
    assert s.provider.asked[0].path == f"/v1{path}"
    assert booking.usage.input == 3


def test_a_stream_of_completions_passes_too(stage: MakeStage) -> None:
    pieces = (
        event({"choices": [{"text": "hi", "index": 0, "finish_reason": None}]}),
        event({"choices": [{"text": "", "index": 0, "finish_reason": "stop"}], "usage": USAGE}),
        DONE,
    )
    s = stage(stream(*pieces))
    booking = s.open()

    answer = s.ask(path="/completions", prompt="x")
    booking.close()

    assert answer.content == b"".join(pieces)
    assert booking.exchanges()[0].finish_reason == "stop"


def test_the_models_of_the_open_prompts_are_listed(stage: MakeStage) -> None:
    s = stage()
    s.open()

    listed = s.http.get(f"{s.relay.url}/models", headers=s.headers()).json()

    assert [row["id"] for row in listed["data"]] == [MODEL, OTHER]


# --- failures before the first byte --------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "attempts", "expected"),
    [
        (error(401, "Invalid token."), 1, AuthenticationError),
        (error(404, "model not found: org/model"), 1, ModelNotFoundError),
        (error(500, "No result returned from upstream"), 3, ServerError),
        (error(503, "No instances available (yet) for chute_id='x'"), 3, ServerError),
        (page(502, "<html>bad gateway</html>", "text/html"), 3, ServerError),
        (page(200, "<html>welcome</html>", "text/html"), 3, ServerError),
        (
            page(200, '{"error": {"message": "nope", "code": 500}}', "application/json"),
            3,
            ServerError,
        ),
        (stream(), 3, TruncatedStreamError),
        (stream(DONE), 3, TruncatedStreamError),
        (stream(b'{"error": "Unhandled exception"}'), 3, TruncatedStreamError),
        (stream(event({"error": {"message": "no", "code": 500}})), 3, ServerError),
        (stream(b"data: {broken\n\n"), 3, TruncatedStreamError),
        (stream(b"<html>no stream at all</html>"), 3, TruncatedStreamError),
        (stalling(), 3, TruncatedStreamError),
        (closing(), 3, TruncatedStreamError),
        (page(302, "", "text/html", location="http://127.0.0.1:9/x?secret"), 1, ConfigurationError),
    ],
)
def test_a_lasting_failure_ends_the_prompt_with_the_real_error(
    stage: MakeStage, bad: Answer, attempts: int, expected: type[OpenCodeError]
) -> None:
    s = stage(bad)
    booking = s.open()

    answer = s.ask()
    again = s.ask()
    booking.close()

    assert len(s.provider.asked) == attempts
    assert (answer.status_code, again.status_code) == (422, 422)
    assert not RETRIED.search(answer.text)
    assert booking.ended == "failing"
    assert isinstance(booking.error, expected), booking.error
    sent = [e for e in booking.exchanges() if e.status is not None]
    assert [exchange.attempt for exchange in sent] == list(range(1, attempts + 1))
    assert sent[-1].refused == "failing"
    assert "secret" not in booking.error.raw_message


def test_no_answer_at_all_is_a_server_error(stage: MakeStage) -> None:
    s = stage()
    upstream = s.terms().upstream
    gone = type(upstream)("stage", "http://127.0.0.1:9/v1", lambda: KEY)
    booking = s.open(upstream=gone, tries_left=2)

    answer = s.ask()
    booking.close()

    assert answer.status_code == 422
    assert isinstance(booking.error, ServerError)
    assert [exchange.status for exchange in booking.exchanges()] == [None, None]
    assert booking.cost_usd == 0.0


def test_a_failure_that_passes_goes_unnoticed_by_opencode(stage: MakeStage) -> None:
    s = stage(error(500, "no"), stream(), stream(*GOOD))
    booking = s.open()

    answer = s.ask()
    booking.close()

    assert answer.content == b"".join(GOOD)
    assert [exchange.attempt for exchange in booking.exchanges()] == [1, 2, 3]
    assert (booking.ended, booking.error) == (None, None)
    retries = [told for told in s.events if isinstance(told, Retrying)]
    assert [(told.attempt, told.scope) for told in retries] == [(1, "request"), (2, "request")]


def test_each_step_has_all_its_attempts(stage: MakeStage) -> None:
    s = stage(error(500, "no"), stream(*GOOD), error(500, "no"), stream(*GOOD))
    booking = s.open(tries_left=2)

    assert whole(s.ask())
    assert whole(s.ask())
    booking.close()
    assert [exchange.attempt for exchange in booking.exchanges()] == [1, 2, 1, 2]


def test_what_the_provider_asks_to_wait_is_waited(stage: MakeStage) -> None:
    s = stage(error(503, "no", retry_after="1"), stream(*GOOD))
    booking = s.open()
    started = time.monotonic()

    assert whole(s.ask())
    assert time.monotonic() - started >= 1.0
    booking.close()


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_is_too_long_is_not_waited(stage: MakeStage, status: int) -> None:
    s = stage(error(status, "no", retry_after="3600"))
    booking = s.open()

    assert s.ask().status_code == 422
    booking.close()

    assert len(s.provider.asked) == 1
    assert isinstance(booking.error, RateLimitError if status == 429 else ServerError)


def test_a_known_pause_refuses_the_next_prompt_without_asking(stage: MakeStage) -> None:
    s = stage(error(429, "slow down", retry_after="3600"))
    s.open("ses_one")
    s.ask("ses_one")
    second = s.open("ses_two")

    assert s.ask("ses_two").status_code == 422
    assert len(s.provider.asked) == 1
    assert isinstance(second.error, RateLimitError)
    assert second.error.reset_time is not None


# --- failures after the first byte ---------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        stream(*BROKEN),
        stream(*BROKEN, DONE),
        stream(*BROKEN, b'{"error": "Unhandled exception: 503"}'),
        stream(*BROKEN, event({"error": {"message": "The server had an error", "code": 500}})),
        stream(*BROKEN, b"data: {broken\n\n"),
        closing(*BROKEN),
        closing(*BROKEN, reset=True),
        stalling(*BROKEN),
    ],
)
def test_a_stream_that_breaks_makes_opencode_repeat_then_stop(
    stage: MakeStage, broken: Answer
) -> None:
    s = stage(broken)
    booking = s.open(tries_left=2)

    first, second, third = s.ask(), s.ask(), s.ask()
    booking.close()

    assert first.content.startswith(b"".join(BROKEN))
    assert repeats(first)
    assert ended(second)
    assert not RETRIED.search(second.text.removeprefix(b"".join(BROKEN).decode()))
    assert third.status_code == 422
    assert len(s.provider.asked) == 2
    assert isinstance(booking.error, TruncatedStreamError | ServerError)
    assert booking.usage.estimated
    assert [type(told) for told in s.events if isinstance(told, StepRestarted)] == [StepRestarted]


def test_a_repeated_step_that_succeeds_is_a_success(stage: MakeStage) -> None:
    s = stage(stream(*BROKEN), stream(*GOOD))
    booking = s.open()

    assert repeats(s.ask())
    assert s.ask().content == b"".join(GOOD)
    booking.close()
    assert booking.ended is None


def test_an_unknown_finish_reason_passes_and_makes_opencode_stop(stage: MakeStage) -> None:
    odd = (chunk("Hel"), chunk(finish="weird"), DONE)
    s = stage(stream(*odd))
    booking = s.open()

    answer = s.ask()
    booking.close()

    assert answer.content == b"".join(odd) + stop_event("failing")
    assert len(s.provider.asked) == 1
    assert booking.exchanges()[0].finish_reason == "weird"
    assert "weird" in str(booking.error)


def test_what_comes_after_the_finish_reason_changes_nothing(stage: MakeStage) -> None:
    s = stage(closing(*GOOD[:3]))
    booking = s.open()

    assert s.ask().content == b"".join(GOOD[:3])
    booking.close()
    assert booking.ended is None


def test_a_sub_agent_that_fails_does_not_end_its_parent(stage: MakeStage) -> None:
    s = stage(error(401, "no"), stream(*GOOD))
    booking = s.open()

    child = s.ask("ses_child", "ses_main")
    parent = s.ask()
    booking.close()

    assert child.status_code == 422
    assert whole(parent)
    assert booking.ended is None
    assert booking.exchanges()[0].parent_session_id == "ses_main"


# --- other models --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "full",
    [
        error(429, "Infrastructure is at maximum capacity, try again later"),
        error(503, "No instances available (yet) for chute_id='x'"),
        error(404, "model not found: org/model"),
    ],
)
def test_the_next_model_is_asked_at_once_and_from_then_on(stage: MakeStage, full: Answer) -> None:
    s = stage(full, stream(*GOOD))
    booking = s.open(fallback_models=(OTHER,), policy=RetryPolicy(base_wait_s=60, cold_wait_s=60))
    started = time.monotonic()

    assert whole(s.ask())
    assert whole(s.ask())
    booking.close()

    assert time.monotonic() - started < 2
    assert [asked.body["model"] for asked in s.provider.asked] == [MODEL, OTHER, OTHER]
    assert [exchange.requested_model for exchange in booking.exchanges()] == [MODEL, OTHER, OTHER]


def test_the_last_model_that_is_full_is_tried_until_the_attempts_are_used(
    stage: MakeStage,
) -> None:
    s = stage(error(503, "No instances available (yet) for chute_id='x'"))
    booking = s.open(fallback_models=(OTHER,))

    assert s.ask().status_code == 422
    booking.close()
    assert [asked.body["model"] for asked in s.provider.asked] == [MODEL, OTHER, OTHER]


def test_a_full_model_without_another_one_is_a_capacity_error(stage: MakeStage) -> None:
    s = stage(error(429, "no_targets"))
    booking = s.open(tries_left=1)

    assert s.ask().status_code == 422
    booking.close()
    assert isinstance(booking.error, CapacityError)


# --- the request ---------------------------------------------------------------------------------


def test_the_marker_is_replaced_by_the_callers_message(stage: MakeStage) -> None:
    s = stage()
    s.open(system=SystemRule("MARK", "You are a cat."))
    system = {"role": "system", "content": "MARK\nYou are powered by …"}

    s.ask(messages=[system, {"role": "user", "content": "hello"}], temperature=0.3)

    asked = s.provider.asked[0].body
    assert asked["messages"][0] == {"role": "system", "content": "You are a cat."}
    assert asked["stream_options"] == {"include_usage": True}


def test_a_request_without_the_marker_is_not_sent(stage: MakeStage) -> None:
    s = stage()
    booking = s.open(system=SystemRule("MARK", "You are a cat."))

    assert s.ask().status_code == 422
    assert s.provider.asked == []
    assert booking.ended == "configuration"
    assert isinstance(booking.error, ConfigurationError)


def test_a_tool_server_that_is_missing_ends_the_prompt(stage: MakeStage) -> None:
    s = stage()
    booking = s.open(tool_prefixes=("calc_",))
    tools = [{"type": "function", "function": {"name": "bash"}}]

    assert s.ask(tools=tools).status_code == 422
    assert s.provider.asked == []
    assert booking.ended == "tool server calc_"
    assert isinstance(booking.error, ToolServerError)


def test_the_tools_are_looked_for_in_the_first_request_only(stage: MakeStage) -> None:
    s = stage()
    s.open(tool_prefixes=("calc_",))

    assert whole(s.ask(tools=[{"type": "function", "function": {"name": "calc_add"}}]))
    assert whole(s.ask(tools=[]))


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{broken", b'{"model": 1}', b'{"model": "org/unknown"}']
)
def test_a_request_that_is_none_of_the_prompts_is_not_sent(stage: MakeStage, raw: bytes) -> None:
    s = stage()
    booking = s.open()

    answer = s.http.post(f"{s.relay.url}/chat/completions", headers=s.headers(), content=raw)

    assert answer.status_code == 422
    assert s.provider.asked == []
    assert booking.ended is None
    assert booking.ledger.refusals == 1


def test_a_key_that_changes_is_read_anew(stage: MakeStage) -> None:
    s = stage()
    keys = iter(["cpk_first_key_0123", "cpk_second_key_012"])
    upstream = type(s.terms().upstream)("stage", s.provider.base_url, lambda: next(keys))
    s.open(upstream=upstream)

    s.ask()
    s.ask()

    sent = [asked.headers["authorization"] for asked in s.provider.asked]
    assert sent == ["Bearer cpk_first_key_0123", "Bearer cpk_second_key_012"]


def test_a_key_whose_source_fails_is_a_configuration_error(stage: MakeStage) -> None:
    s = stage()

    def fail() -> str:
        raise OSError("no such file")

    booking = s.open(upstream=type(s.terms().upstream)("stage", s.provider.base_url, fail))

    assert s.ask().status_code == 422
    assert isinstance(booking.error, ConfigurationError)


# --- the end of the time -------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [nothing, stalling(chunk("Hel"))])
def test_the_deadline_cuts_what_runs(stage: MakeStage, answer: Answer) -> None:
    s = stage(answer)
    booking = s.open(deadline=time.monotonic() + 0.4, idle_seconds=20)
    started = time.monotonic()

    told = s.ask()

    assert time.monotonic() - started < 1.5
    assert ended(told)
    assert booking.ended == "deadline"
    assert isinstance(booking.error, PromptTimeoutError)
    wait_until(lambda: s.provider.in_flight == 0)


def test_a_wait_beyond_the_deadline_is_not_waited(stage: MakeStage) -> None:
    s = stage(error(503, "no", retry_after="30"))
    booking = s.open(deadline=time.monotonic() + 10)
    started = time.monotonic()

    assert s.ask().status_code == 422
    assert time.monotonic() - started < 2
    assert isinstance(booking.error, ServerError)


def test_a_client_that_goes_ends_the_request_and_is_booked(stage: MakeStage) -> None:
    s = stage(stalling(chunk("Hel" * 100)))
    booking = s.open(idle_seconds=20)

    with s.http.stream(
        "POST", f"{s.relay.url}/chat/completions", headers=s.headers(), json=_chat()
    ) as answer:
        next(answer.iter_raw())
        wait_until(lambda: s.provider.in_flight == 1)
    wait_until(lambda: s.provider.in_flight == 0)
    booking.close()

    (exchange,) = booking.exchanges()
    assert exchange.error == "cut before its end"
    assert exchange.usage is not None
    assert exchange.usage.estimated
    assert exchange.usage.output == 75
    assert s.limiter().in_flight == 0


def test_close_cuts_what_runs_and_returns_when_it_is_booked(stage: MakeStage) -> None:
    s = stage(nothing)
    booking = s.open()
    told: list[int] = []
    asking = threading.Thread(target=lambda: told.append(s.ask().status_code))
    asking.start()
    wait_until(lambda: s.provider.in_flight == 1)

    booking.close()

    assert [exchange.duration_s is not None for exchange in booking.exchanges()] == [True]
    asking.join(5)
    assert told == [422]
    assert booking.ended is None
    assert s.ask().status_code == 422


def test_a_fault_of_the_relay_itself_ends_the_prompt_and_hangs_nobody(
    stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    s = stage()
    booking = s.open(tool_prefixes=(None,))

    assert s.ask().status_code == 422
    assert isinstance(booking.error, UnknownOpenCodeError)
    assert "the relay failed" in caplog.text
    booking.close()


@pytest.mark.parametrize(
    "reason",
    [
        *("max_requests", "max_tokens", "max_cost_usd", "budget:batch-500", "tool server s503_"),
        *("failing", "configuration", "deadline", "relay", "stranger", "model", "malformed"),
        "closed",
    ],
)
def test_no_ending_has_words_that_opencode_retries(reason: str) -> None:
    assert not RETRIED.search(refusal_body(reason).decode())
    assert not RETRIED.search(stop_event(reason).decode())
    assert "503" not in refusal_body(reason).decode()


def _chat() -> dict[str, Any]:
    return {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
