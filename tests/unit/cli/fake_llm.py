"""An instance that answers as it was told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chutes_opencode.events import Done, Event
from chutes_opencode.results import (
    Attempt,
    Message,
    QueryResult,
    ReasoningPart,
    TextPart,
    Transcript,
    Usage,
)

ANSWER = QueryResult(
    result="It is 42.",
    returncode=0,
    stderr="",
    stream_result="",
    success=True,
    usage=Usage(input=20, output=5, num_turns=1, num_requests=1),
    cost_usd=0.000123,
    model="acme/model",
    served_model="acme/model-TEE",
    session_id="ses_1",
    finish_reason="stop",
    attempts=(Attempt(number=1, engine="run"),),
    duration_s=1.5,
    transcript=Transcript(
        "ses_1", (Message("assistant", (ReasoningPart("Let me see."), TextPart("It is 42."))),)
    ),
)


class FakeLLM:
    """Answers as it was told; notes how it was made and asked."""

    def __init__(self) -> None:
        self.answer: QueryResult = ANSWER
        self.failure: BaseException | None = None
        self.events: tuple[Event, ...] = ()
        self.made: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self.closed: list[str] = []

    def open(self, **arguments: Any) -> FakeLLM:
        self.made = arguments
        return self

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.closed.append("llm")

    def prompt(self, message: str, **arguments: Any) -> QueryResult:
        self.asked = {"message": message, **arguments}
        if self.failure is not None:
            raise self.failure
        return self.answer

    def stream(self, message: str, **arguments: Any) -> Iterator[Event]:
        try:
            self.prompt(message, **arguments)
            yield from self.events
            yield Done(result=self.answer)
        finally:
            self.closed.append("stream")
