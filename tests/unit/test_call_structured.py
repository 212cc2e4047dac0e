"""A call whose answer must fit a schema: the repair turn, and what becomes of the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.call import Call, CallRunner
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.errors import LimitExceededError, OpenCodeError, StructuredOutputError
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import ChatMessage, FilePart, PromptRequest
from chutes_opencode.results import Exchange, Message, QueryResult, TextPart, ToolPart, Transcript
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.structured import Schema

SCHEMA = Schema.from_any({"type": "object", "required": ["answer"]})
GOOD, BAD = '{"answer": 42}', '{"wrong": true}'


class Sessions:
    """An engine that answers in order and keeps sessions as the real one does."""

    name = "fake"

    def __init__(self, *answers: Evidence) -> None:
        self.answers = list(answers)
        self.requests: list[PromptRequest] = []
        self.kept: set[str] = set()

    async def run(
        self,
        request: PromptRequest,
        _observe: Observe,
        accept: Callable[[Evidence], bool],
        _terms: Terms | None = None,
    ) -> Evidence:
        self.requests.append(request)
        evidence = self.answers.pop(0)
        if (
            accept(evidence)
            and (request.hold or request.keep_session)
            and evidence.transcript.session_id
        ):
            self.kept.add(evidence.transcript.session_id)
        return evidence

    async def forget(self, session_id: str) -> None:
        self.kept.discard(session_id)

    async def close(self) -> None:
        pass


def said(text: str, session: str = "ses_1", *tools: ToolPart) -> Evidence:
    turn = Message("assistant", (*tools, TextPart(text)), finish_reason="stop")
    exchange = Exchange(200, finish_reason="stop")
    return Evidence(Transcript(session, (turn,)), (exchange,), returncode=0)


DOWN = Evidence(Transcript("ses_1"), (Exchange(503, body=""),), returncode=1)


def run(engine: Sessions, **fields: Any) -> QueryResult:
    request = PromptRequest("Answer.", "m", **fields)
    call = Call(request, schema=SCHEMA, policy=RetryPolicy(base_wait_s=0))
    runner = CallRunner(call, engine, asyncio.Semaphore(1), lambda _event: None)
    return asyncio.run(runner.run())


def error_of(engine: Sessions, **fields: Any) -> OpenCodeError:
    with pytest.raises(OpenCodeError) as caught:
        run(engine, **fields)
    return caught.value


def test_an_answer_that_fits_is_parsed() -> None:
    engine = Sessions(said(GOOD))

    result = run(engine)

    assert result.structured == {"answer": 42}
    assert (result.result, result.success) == (GOOD, True)
    assert len(engine.requests) == 1


def test_an_answer_that_does_not_fit_is_mended_in_its_own_session() -> None:
    engine = Sessions(said(BAD), said(GOOD))
    history = (ChatMessage("user", "before"), ChatMessage("assistant", "yes"))
    picture = FilePart("a.png", b"", "image/png")

    result = run(engine, history=history, attachments=(picture,))

    assert result.structured == {"answer": 42}
    first, repair = engine.requests
    assert (first.session_id, repair.session_id) == (None, "ses_1")
    assert (first.history, first.attachments) == (history, (picture,))
    assert (repair.history, repair.attachments) == ((), ())
    assert "'answer' is a required property" in repair.prompt
    assert [attempt.scope for attempt in result.attempts] == ["prompt", "repair"]
    assert [attempt.number for attempt in result.attempts] == [1, 1]


def test_an_answer_that_cannot_be_mended_is_tried_once_more() -> None:
    engine = Sessions(said(BAD), said(BAD), said(BAD, "ses_2"), said(GOOD, "ses_2"))

    result = run(engine)

    assert result.structured == {"answer": 42}
    assert [attempt.number for attempt in result.attempts] == [1, 1, 2, 2]
    assert engine.requests[2].session_id is None
    assert engine.requests[2].prompt == "Answer."


def test_an_answer_that_never_fits_is_an_error_with_its_text() -> None:
    error = error_of(Sessions(*[said(BAD)] * 4))

    assert isinstance(error, StructuredOutputError)
    assert error.partial_text == BAD
    assert error.validation_errors == ("$: 'answer' is a required property",)
    assert error.result is not None
    assert error.result.structured is None
    assert len(error.result.attempts) == 4


def test_the_repair_turn_counts_in_the_limit() -> None:
    engine = Sessions(said(BAD), said(GOOD))

    error = error_of(engine, max_requests=1)

    assert isinstance(error, LimitExceededError)
    assert len(engine.requests) == 1


# --- the session ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [(GOOD,), (BAD, GOOD)])
def test_a_session_that_nobody_wanted_is_forgotten(answers: tuple[str, ...]) -> None:
    engine = Sessions(*map(said, answers))

    run(engine)

    assert all(request.hold and not request.keep_session for request in engine.requests)
    assert engine.kept == set()


@pytest.mark.parametrize("answers", [(GOOD,), (BAD, GOOD)])
@pytest.mark.parametrize("keep", [True, Path("/kept")])
def test_a_session_that_was_wanted_is_kept(answers: tuple[str, ...], keep: bool | Path) -> None:
    engine = Sessions(*map(said, answers))

    run(engine, keep_session=keep)

    assert engine.kept == {"ses_1"}
    assert engine.requests[0].keep_session == keep


@pytest.mark.parametrize("keep", [False, True])
def test_a_new_session_of_a_failed_attempt_is_forgotten(keep: bool) -> None:
    """Else its folder would be taken when the next attempt begins."""
    engine = Sessions(said(BAD), said(BAD), said(GOOD, "ses_2"))

    run(engine, keep_session=keep)

    assert engine.kept == ({"ses_2"} if keep else set())


def test_a_new_session_is_forgotten_when_its_repair_fails() -> None:
    engine = Sessions(said(BAD), DOWN, said(GOOD, "ses_2"))

    run(engine)

    assert engine.kept == set()


def test_a_continued_session_survives_an_answer_that_does_not_fit() -> None:
    engine = Sessions(*[said(BAD)] * 4)
    engine.kept.add("ses_1")

    error_of(engine, session_id="ses_1")

    assert engine.kept == {"ses_1"}


def test_a_continued_session_that_is_not_to_be_kept_is_gone_afterwards() -> None:
    engine = Sessions(said(GOOD))
    engine.kept.add("ses_1")

    run(engine, session_id="ses_1")

    assert engine.kept == set()


def test_tools_of_the_first_turn_forbid_a_new_start_after_the_repair_turn_too() -> None:
    engine = Sessions(said(BAD, "ses_1", ToolPart("bash")), said(BAD), said(GOOD))

    error = error_of(engine, work_dir=Path("/w"))

    assert isinstance(error, StructuredOutputError)
    assert len(engine.requests) == 2
