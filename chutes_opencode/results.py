"""The values that come out: frozen, comparable, picklable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from chutes_opencode.errors import OpenCodeError

WHOLE_FINISH = frozenset(
    # "unread": of a native stream whose format the guard does not know; opencode has judged it.
    {"stop", "tool_calls", "function_call", "length", "content_filter", "unread"}
)
"""Finish reasons after which a model step is whole."""

# The seed's backend cuts tool arguments and results in its trace at this many characters.
TRACE_CUT = 2000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a prompt, over all its model requests, failed attempts and sub-agents included.

    `input` excludes `cache_read`, `output` excludes `reasoning` (opencode's own split).

    Attributes:
        input: Input tokens billed at full price.
        output: Visible output tokens.
        reasoning: Reasoning tokens, billed as output.
        cache_read: Input tokens read from the provider's cache.
        cache_write: Input tokens written to the provider's cache.
        num_turns: Assistant messages.
        num_requests: Model requests that were sent.
        estimated: True when a request was sent for which the provider told no usage (a stream
            that died, an attempt that was cut): the true bill may be higher.
    """

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0
    num_turns: int = 0
    num_requests: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """All tokens, cached ones included."""
        return self.input + self.output + self.reasoning + self.cache_read + self.cache_write

    def __add__(self, other: Usage) -> Usage:
        """Add field by field; estimated if either is."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)}
        sums["estimated"] = self.estimated or other.estimated
        return Usage(**sums)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request for a model and its answer, as far as they were seen.

    Attributes:
        status: HTTP status; None if no answer came.
        content_type: Media type of the answer.
        headers: The headers that matter, lower case: retry-after, request ids, quota.
        body: Body of an answer that was no stream, secrets masked.
        error: What the connection died of.
        requested_model: Model in the request.
        served_model: Model that the answer names.
        session_id: opencode's session, a sub-agent's its own.
        parent_session_id: The session that started the sub-agent.
        tools: Names of the tools that the request offered.
        finish_reason: As the provider spelled it.
        usage: Tokens that the provider told, None if it told none.
        first_byte_s: Seconds until the answer began.
        duration_s: Seconds until it ended.
        request_id: The provider's id.
        refused: Why we refused it, or ended it, ourselves; None: we did not.
        cost_usd: US dollars, by the price of the model asked; None if the price is unknown.
        replayed: Whether the answer came from disk and nothing was asked.
        attempt: Its number within its model step, 1 for the first.
    """

    status: int | None = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    error: str | None = None
    requested_model: str | None = None
    served_model: str | None = None
    session_id: str | None = None
    parent_session_id: str | None = None
    tools: tuple[str, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    first_byte_s: float | None = None
    duration_s: float | None = None
    request_id: str | None = None
    refused: str | None = None
    cost_usd: float | None = None
    replayed: bool = False
    attempt: int = 1

    @property
    def whole(self) -> bool:
        """Whether the model came to an end that opencode knows how to go on from."""
        return self.finish_reason in WHOLE_FINISH


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that the assistant (or the user) wrote."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What the model thought aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolPart:
    """A tool call and what came of it.

    Attributes:
        tool: Name of the tool.
        call_id: The model's id of the call.
        status: "completed", "error", "running" or "pending".
        input: Arguments.
        output: What the tool returned.
        error: Why it failed or was refused.
    """

    tool: str
    call_id: str = ""
    status: str = "completed"
    input: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    error: str | None = None


Part = TextPart | ReasoningPart | ToolPart


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a session; usage, cost, finish reason and error only on the assistant's.

    Attributes:
        role: "user" or "assistant".
        parts: In the order in which they were written.
        usage: Tokens of this message's model request.
        cost_usd: As opencode computed it from the configured prices.
        finish_reason: "stop", "tool-calls", "length", …; None: the message did not end.
        model: Model id, without the provider.
        error: opencode's error object `{name, data}`.
    """

    role: str
    parts: tuple[Part, ...] = ()
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    finish_reason: str | None = None
    model: str | None = None
    error: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Transcript:
    """What an engine saw of a session: the same value whichever engine it was."""

    session_id: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def turns(self) -> tuple[Message, ...]:
        """The assistant's messages."""
        return tuple(message for message in self.messages if message.role == "assistant")

    @property
    def text(self) -> str:
        """Text of the last assistant message that has any: the answer."""
        return next((turn.text for turn in reversed(self.turns) if turn.text), "")

    @property
    def finish_reason(self) -> str | None:
        """Finish reason of the last assistant message."""
        return self.turns[-1].finish_reason if self.turns else None

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The first error object of an assistant message."""
        return next((turn.error for turn in self.turns if turn.error), None)

    @property
    def usage(self) -> Usage:
        """Sum over the assistant's messages."""
        return sum((turn.usage for turn in self.turns), Usage())

    @property
    def cost_usd(self) -> float:
        """Sum over the assistant's messages, US dollars."""
        return sum(turn.cost_usd for turn in self.turns)

    @property
    def tool_calls(self) -> tuple[ToolPart, ...]:
        """Every tool call, in order."""
        return tuple(p for turn in self.turns for p in turn.parts if isinstance(p, ToolPart))

    @property
    def trace(self) -> str:
        """The seed's readable form: `[Response]`, `[Thinking]`, `[Tool Call: x]` and so on."""
        return "".join(_trace_part(part) for turn in self.turns for part in turn.parts)


def _trace_part(part: Part) -> str:
    if isinstance(part, TextPart):
        return f"[Response]\n{part.text}\n\n"
    if isinstance(part, ReasoningPart):
        return f"[Thinking]\n{part.text}\n\n"
    call = f"[Tool Call: {part.tool}]\nArgs: {_cut(json.dumps(dict(part.input)))}\n\n"
    output = part.output or part.error or ""
    return call + (f"[Tool Result]\n{_cut(output)}\n\n" if output else "")


def _cut(text: str) -> str:
    return text if len(text) <= TRACE_CUT else text[:TRACE_CUT] + "\n... [truncated]"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a prompt.

    Attributes:
        number: 1 for the first.
        engine: "run", "serve" or "direct".
        scope: What was tried again: "prompt" (from its beginning), "request" (one model request
            inside it, by the relay) or "repair" (the turn that mends a structured answer).
        model: Model asked.
        session_id: opencode's session.
        error: Why it failed; None: it did not.
        usage: What it used.
        cost_usd: What it cost, US dollars; None if the price is unknown.
        duration_s: Seconds it took.
        waited_s: Seconds waited before it (backoff, rate limit).
    """

    number: int
    engine: str
    scope: str = "prompt"
    model: str = ""
    session_id: str | None = None
    error: OpenCodeError | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    duration_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a prompt came to.

    Attributes:
        result: The answer's text; on failure the partial text, if any.
        returncode: opencode's exit code (direct: 0 or -1).
        stderr: What opencode wrote there, secrets masked, log lines left out.
        stream_result: Readable trace of the whole session, in the seed's form.
        success: True only for a whole answer.
        usage: Tokens over all attempts.
        cost_usd: US dollars over all attempts; None if the price is unknown.
        model: Model asked, in the provider's spelling.
        served_model: Model that answered, where the provider names it.
        session_id: opencode's session id.
        finish_reason: Why the last turn ended.
        attempts: Every try.
        duration_s: Seconds from the call to its end, waits included.
        queued_s: Seconds waited for a free place before the first attempt.
        transcript: The session's messages.
        exchanges: The HTTP exchanges that were seen.
        structured: The validated value where an output schema was given.
        work_dir: The agent's folder, where it still exists.
        error: Why there is no success.
        index: Position of the item in `batch`, `map` or `amap`.
    """

    result: str
    returncode: int
    stderr: str
    stream_result: str
    success: bool = False
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    model: str = ""
    served_model: str | None = None
    session_id: str | None = None
    finish_reason: str | None = None
    attempts: tuple[Attempt, ...] = ()
    duration_s: float = 0.0
    queued_s: float = 0.0
    transcript: Transcript = field(default_factory=Transcript)
    exchanges: tuple[Exchange, ...] = ()
    structured: Any = None
    work_dir: Path | None = None
    error: OpenCodeError | None = None
    index: int | None = None

    @property
    def replayed(self) -> bool:
        """Whether every model answer came from the `cache` folder, so that nothing was paid."""
        answered = [exchange for exchange in self.exchanges if exchange.status is not None]
        return bool(answered) and all(exchange.replayed for exchange in answered)

    @property
    def failed_usage(self) -> Usage:
        """What of `usage` was asked in vain: requests and attempts that failed.

        Where the prompt succeeded in the end, that was paid twice.
        """
        failed, requests = Usage(), Usage()
        for attempt in self.attempts:
            if attempt.scope == "request":  # one of the attempt that follows
                requests += attempt.usage
                continue
            failed += requests if attempt.error is None else attempt.usage
            requests = Usage()
        return failed

    def raise_for_error(self) -> QueryResult:
        """Return self, or raise the error that stands in `error`."""
        if self.error is not None:
            raise self.error
        return self
