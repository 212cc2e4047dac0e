"""Frozen records of what happens: yielded by `stream()`, told to `on_event` observers.

The first block is what a caller of `stream()` sees of the answer; the second is what an observer
is told besides. Every record carries the prompt's id, so that concurrent prompts can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chutes_opencode.errors import OpenCodeError
from chutes_opencode.results import QueryResult, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all records.

    Attributes:
        prompt_id: Random id of the prompt within this process.
    """

    prompt_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(Event):
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Event):
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(Event):
    """The model called a tool."""

    tool: str
    call_id: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(Event):
    """A tool call ended; `error` says why if it failed or was refused."""

    tool: str
    call_id: str
    output: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd(Event):
    """A model request ended well, with its usage."""

    usage: Usage
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRestarted(Event):
    """The step's text so far is void: its stream broke and it is asked again."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """The prompt waits for a place, a rate limit or a backoff."""

    reason: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Event):
    """An attempt failed and another one follows.

    Attributes:
        attempt: Its number; of a request, within its model step.
        error: Why it failed.
        wait_seconds: Seconds until the next one.
        scope: "prompt": the prompt begins anew, all text so far is void. "request": the relay asks
            one model request again of which nothing was seen yet, so nothing is void.
    """

    attempt: int
    error: OpenCodeError
    wait_seconds: float
    scope: Literal["prompt", "request"] = "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    """The end of a stream, with the whole result."""

    result: QueryResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStarted(Event):
    """A prompt was accepted (observers only)."""

    model: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(Event):
    """A model request reached the relay (observers only).

    Attributes:
        model: Model asked.
        step: Its model step, 1 for the first; a step that is repeated keeps its number.
    """

    model: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded(Event):
    """An attempt ended, well or not (observers only)."""

    attempt: int
    error: OpenCodeError | None = None
    usage: Usage = field(default_factory=Usage)
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFailed(Event):
    """The prompt ended with an error (observers only)."""

    error: OpenCodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCancelled(Event):
    """The prompt was cancelled by its caller (observers only).

    Attributes:
        result: What it had come to, and cost, by then; no success, and no error.
    """

    result: QueryResult


FOR_OBSERVERS_ONLY = (
    PromptStarted,
    RequestStarted,
    AttemptEnded,
    PromptFailed,
    PromptCancelled,
)
"""Events that are no part of `stream()`."""
