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
    ConfigurationError,
    PromptTimeoutError,
    ServerError,
    ToolServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import ReasoningDelta, RequestStarted, TextDelta
from chutes_opencode.relay.endings import refusal_body, stop_event
from chutes_opencode.relay.terms import SystemRule
from tests.patience import join, longer_and_longer, wait_until
from tests.unit.relay.stage import (
    DONE,
    GOOD,
    KEY,
    MODEL,
    OTHER,
    USAGE,
    Answer,
    Stage,
    chunk,
    ended,
    error,
    event,
    nothing,
    page,
    stalling,
    stream,
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
    booking = s.open()

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


def test_a_flood_of_headers_does_not_reach_opencode(stage: MakeStage) -> None:
    many: dict[str, Any] = {f"x_chutes_{number}": "a" for number in range(200)}
    s = stage(stream(*GOOD, x_chutes_long="a" * 9000, **many))
    s.open()

    answer = s.ask()

    assert whole(answer)
    assert len(answer.headers) < 50
    assert "x-chutes-long" not in answer.headers


def test_the_observer_hears_the_deltas_of_the_main_session_only(stage: MakeStage) -> None:
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    s = stage(stream(thought, *GOOD))
    booking = s.open()

    s.ask()
    s.ask("ses_child", "ses_main")
    booking.close()

    assert s.events == [
        RequestStarted(model="org/model", step=1),
        ReasoningDelta(text="hm"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
    ]


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
    for seconds in longer_and_longer(0.4):
        s = stage(answer)
        booking = s.open(deadline=time.monotonic() + seconds)
        told = s.ask()
        if s.provider.asked:
            break

    assert len(s.provider.asked) == 1
    assert ended(told)
    assert booking.ended == "deadline"
    assert isinstance(booking.error, PromptTimeoutError)
    wait_until(lambda: s.provider.in_flight == 0)


def test_a_wait_beyond_the_deadline_is_not_waited(stage: MakeStage) -> None:
    s = stage(error(503, "no", retry_after="55"))
    booking = s.open(deadline=time.monotonic() + 50)
    started = time.monotonic()

    assert s.ask().status_code == 422
    assert time.monotonic() - started < 40
    assert isinstance(booking.error, ServerError)
    assert len(s.provider.asked) == 1


def test_a_client_that_goes_ends_the_request_and_is_booked(stage: MakeStage) -> None:
    s = stage(stalling(chunk("Hel" * 100)))
    booking = s.open()

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
    wait_until(lambda: s.limiter().in_flight == 0)


def test_close_cuts_what_runs_and_returns_when_it_is_booked(stage: MakeStage) -> None:
    s = stage(nothing)
    booking = s.open()
    told: list[int] = []
    asking = threading.Thread(target=lambda: told.append(s.ask().status_code))
    asking.start()
    wait_until(lambda: s.provider.in_flight == 1)

    booking.close()

    assert [exchange.duration_s is not None for exchange in booking.exchanges()] == [True]
    join(asking)
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
