"""A request that fails: asked again, asked of another model, or brought to an end."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

import pytest

from chutes_opencode.errors import (
    AuthenticationError,
    CapacityError,
    ConfigurationError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    TruncatedStreamError,
)
from chutes_opencode.events import Retrying, StepRestarted
from chutes_opencode.relay.endings import stop_event
from chutes_opencode.retry import RetryPolicy
from tests.patience import WAIT_SECONDS
from tests.unit.relay.stage import (
    BROKEN,
    DONE,
    GOOD,
    KEY,
    MODEL,
    OTHER,
    Answer,
    Reply,
    Stage,
    chunk,
    closing,
    ended,
    error,
    event,
    page,
    repeats,
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
    booking = s.open(idle_seconds=1.0)

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
    booking = s.open(tries_left=2, idle_seconds=1.0)

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
    waits = RetryPolicy(base_wait_s=3600, cold_wait_s=3600)
    booking = s.open(fallback_models=(OTHER,), policy=waits)

    assert whole(s.ask())
    assert whole(s.ask())
    booking.close()

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


# --- answers that do not end ---------------------------------------------------------------------


def dripping(status: int, drop: bytes, *pieces: bytes, content_type: str = "text/plain") -> Answer:
    """Send these, then a drop every now and then, for ever."""

    async def answer(reply: Reply) -> None:
        await reply.start(status, {"content_type": content_type})
        for piece in pieces:
            await reply.write(piece)
        while True:
            await reply.write(drop)
            await asyncio.sleep(0.02)

    return answer


def test_an_error_page_that_drips_is_read_for_a_while_only(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chutes_opencode.relay.whole.ERROR_SECONDS", 0.2)
    s = stage(dripping(500, b"x"), stream(*GOOD))
    s.open(deadline=time.monotonic() + WAIT_SECONDS)

    assert whole(s.ask())


@pytest.mark.parametrize(
    ("pieces", "window"), [(GOOD[:3], "AFTER_FINISH_SECONDS"), (GOOD, "AFTER_DONE_SECONDS")]
)
def test_a_stream_that_goes_on_after_its_answer_is_left(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...], window: str
) -> None:
    monkeypatch.setattr(f"chutes_opencode.relay.streaming.{window}", 0.2)
    s = stage(dripping(200, b": ping\n\n", *pieces, content_type="text/event-stream"))
    booking = s.open(deadline=time.monotonic() + WAIT_SECONDS)

    answer = s.ask()
    booking.close()

    assert answer.content.startswith(b"".join(pieces))
    assert not ended(answer)
    assert (booking.error, booking.exchanges()[0].whole) == (None, True)


def test_an_answer_with_empty_choices_is_no_fault_of_ours(stage: MakeStage) -> None:
    s = stage(page(200, '{"choices": [], "data": []}', "application/json"))
    booking = s.open()

    answer = s.ask(stream=False)
    booking.close()

    assert answer.json() == {"choices": [], "data": []}
    assert booking.error is None
