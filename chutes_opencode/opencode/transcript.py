"""Read what opencode writes: the run's event stream, the session export, its log. Pure.

Everything is read leniently: a line or field of an unknown shape is passed over, since opencode's
own exit code says little (it is 0 after many failures).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chutes_opencode.events import Event, ReasoningDelta, StepEnd, TextDelta, ToolCall, ToolResult
from chutes_opencode.results import (
    Exchange,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)

STATUS_OK = 200
CHARACTERS_PER_TOKEN = 4

_SESSION_ID = re.compile(r"\bses_[A-Za-z0-9]+\b")
_LOG_FIELD = re.compile(r'([A-Za-z_][\w.\-]*)=("(?:[^"\\]|\\.)*"|\S*)')
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def parse_session_id(stdout: str) -> str | None:
    """Pull the opencode session id out of `run --format json` stdout.

    The first event that carries one counts; if no line is such an event, anything in the text that
    has the shape of a session id.

    Args:
        stdout: The whole output, one JSON event a line.

    Returns:
        The id, for example "ses_e06fe32e0ffePnSqYB8y1MBHaP", or None.
    """
    for event in json_lines(stdout):
        identifier = event.get("sessionID") or _mapping(event.get("part")).get("sessionID")
        if isinstance(identifier, str) and identifier:
            return identifier
    match = _SESSION_ID.search(stdout)
    return match[0] if match else None


def parse_run_error(stdout: str) -> dict[str, Any] | None:
    """Pull the first structured error out of `run --format json` stdout.

    Failures before the model request (an unknown model) stand only here: no assistant message is
    made, so the export knows nothing of them.

    Returns:
        opencode's error object `{"name": …, "data": …}`, or None.
    """
    for event in json_lines(stdout):
        error = event.get("error")
        if event.get("type") == "error" and isinstance(error, dict) and "name" in error:
            return error
    return None


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among the lines; other lines are passed over."""
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def transcript_from_export(export: Any, *, since_ms: int = 0) -> Transcript:
    """Read the JSON of `opencode export`.

    Args:
        export: `{info, messages: [{info: {role, tokens, cost, finish, error}, parts: […]}]}`.
        since_ms: Messages made before this time (milliseconds since the epoch) are left out: they
            are history of a continued session.
    """
    document = _mapping(export)
    messages = document.get("messages")
    rows = (
        [row for row in messages if isinstance(row, Mapping)] if isinstance(messages, list) else []
    )
    read = tuple(_message(row) for row in rows if _created_ms(row) >= since_ms)
    return Transcript(_text(_mapping(document.get("info")).get("id")) or None, read)


def _created_ms(row: Mapping[str, Any]) -> float:
    return _float(_mapping(_mapping(row.get("info")).get("time")).get("created"))


def transcript_from_events(stdout: str) -> Transcript:
    """Read the event stream of a run that was ended before it could be exported."""
    messages: dict[str, Message] = {}
    for event in json_lines(stdout):
        part = _mapping(event.get("part"))
        identifier = part.get("messageID")
        if isinstance(identifier, str):
            known = messages.get(identifier, Message("assistant"))
            messages[identifier] = _with_part(known, part)
    return Transcript(parse_session_id(stdout), tuple(messages.values()))


def _with_part(message: Message, raw: Mapping[str, Any]) -> Message:
    if raw.get("type") == "step-finish":
        return Message(
            message.role,
            message.parts,
            _usage(raw.get("tokens")),
            _float(raw.get("cost")),
            _text(raw.get("reason")) or None,
        )
    return Message(message.role, (*message.parts, *_parts([raw])), message.usage, message.cost_usd)


def _message(raw: Mapping[str, Any]) -> Message:
    info = _mapping(raw.get("info"))
    parts = raw.get("parts")
    error = info.get("error")
    assistant = info.get("role") == "assistant"
    return Message(
        role=_text(info.get("role")),
        parts=_parts(parts if isinstance(parts, list) else []),
        usage=_usage(info.get("tokens")) if assistant else Usage(),
        cost_usd=_float(info.get("cost")),
        finish_reason=_text(info.get("finish")) or None,
        model=_text(info.get("modelID")) or None,
        error=error if isinstance(error, dict) and "name" in error else None,
    )


def _parts(raw: Iterable[Any]) -> tuple[Part, ...]:
    read = (_part(item) for item in raw if isinstance(item, Mapping))
    return tuple(part for part in read if part is not None)


def _part(raw: Mapping[str, Any]) -> Part | None:
    kind = raw.get("type")
    if kind == "text":
        return TextPart(_text(raw.get("text")))
    if kind == "reasoning":
        return ReasoningPart(_text(raw.get("text")))
    if kind == "tool":
        return _tool(raw)
    return None


def _tool(raw: Mapping[str, Any]) -> ToolPart:
    state = _mapping(raw.get("state"))
    output = state.get("output", "")
    return ToolPart(
        tool=_text(raw.get("tool")) or "unknown",
        call_id=_text(raw.get("callID")),
        status=_text(state.get("status")),
        input=_mapping(state.get("input")),
        output=output if isinstance(output, str) else json.dumps(output),
        error=_text(state.get("error")) or None,
    )


def _usage(raw: Any) -> Usage:
    tokens = _mapping(raw)
    cache = _mapping(tokens.get("cache"))
    return Usage(
        input=_int(tokens.get("input")),
        output=_int(tokens.get("output")),
        reasoning=_int(tokens.get("reasoning")),
        cache_read=_int(cache.get("read")),
        cache_write=_int(cache.get("write")),
        num_turns=1,
    )


def event_records(event: Mapping[str, Any]) -> tuple[Event, ...]:
    """Turn one event of the run's stream into the records that `stream()` yields.

    `run` writes whole parts, so a delta is a whole text (DESIGN rule 13).
    """
    part = _mapping(event.get("part"))
    if event.get("type") == "step_finish":
        return (StepEnd(usage=_usage(part.get("tokens")), finish_reason=_text(part.get("reason"))),)
    read = _part(part)
    if isinstance(read, TextPart):
        return (TextDelta(text=read.text),)
    if isinstance(read, ReasoningPart):
        return (ReasoningDelta(text=read.text),)
    if isinstance(read, ToolPart):
        call = ToolCall(tool=read.tool, call_id=read.call_id, input=read.input)
        end = ToolResult(tool=read.tool, call_id=read.call_id, output=read.output, error=read.error)
        return (call, end)
    return ()


def parse_log_line(line: str) -> dict[str, str]:
    """Read a line of opencode's log (`--print-logs`): `timestamp=… level=ERROR message="…" …`.

    Returns:
        The fields; empty when the line is no log line.
    """
    if not line.startswith("timestamp="):
        return {}
    return {name: _unquoted(value) for name, value in _LOG_FIELD.findall(line)}


def without_log_lines(stderr: str) -> str:
    """Return what opencode wrote to stderr besides its log, colours removed."""
    # Not splitlines: a logged prompt may hold a line end of another alphabet.
    lines = (_ANSI.sub("", line).rstrip("\r") for line in stderr.split("\n"))
    return "\n".join(line for line in lines if line and not line.startswith("timestamp="))


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')


def exchanges_from_guard(text: str) -> tuple[Exchange, ...]:
    """Read the guard's record: a line per request, one per answer, one per refusal."""
    records: dict[int, dict[str, dict[str, Any]]] = {}
    for entry in json_lines(text):
        records.setdefault(_int(entry.get("id")), {})[_text(entry.get("kind"))] = entry
    return tuple(_exchange(kinds) for _, kinds in sorted(records.items()))


def _exchange(kinds: Mapping[str, Mapping[str, Any]]) -> Exchange:
    request, response = kinds.get("request", {}), kinds.get("response", {})
    end = kinds.get("end", {})
    headers = _mapping(response.get("headers"))
    started, answered = _float(request.get("time")), _float(response.get("time"))
    ended = _float(end.get("time")) or answered
    return Exchange(
        status=_int(response.get("status")) or None,
        content_type=_text(response.get("type")),
        headers={name: _text(value) for name, value in headers.items()},
        body=_text(response.get("body")) or None,
        error=_text(response.get("error")) or _text(end.get("error")) or None,
        requested_model=_text(request.get("model")) or None,
        served_model=_text(end.get("model")) or None,
        session_id=_text(request.get("session")) or None,
        parent_session_id=_text(request.get("parent")) or None,
        tools=_names(request.get("tools")),
        finish_reason=_text(end.get("finish")) or None,
        usage=_exchange_usage(request, response, end),
        first_byte_s=max(0.0, answered - started) if started and answered else None,
        duration_s=max(0.0, ended - started) if started and ended else None,
        request_id=_text(headers.get("x-chutes-invocationid") or headers.get("x-request-id"))
        or None,
        refused=_text(kinds.get("refused", {}).get("reason")) or None,
    )


def _exchange_usage(
    request: Mapping[str, Any], response: Mapping[str, Any], end: Mapping[str, Any]
) -> Usage | None:
    """Return what the provider told, or an estimate for a stream that died before it told.

    The estimate: a token per four characters, of the request's body and of the deltas.
    """
    told = _mapping(end.get("usage"))
    if told:
        return openai_usage(told)
    if request.get("native"):
        return None  # its stream was not read; the session's transcript tells
    if response.get("status") != STATUS_OK or response.get("body") is not None:
        return None
    return Usage(
        input=-(-_int(request.get("size")) // CHARACTERS_PER_TOKEN),
        output=-(-_int(end.get("chars")) // CHARACTERS_PER_TOKEN),
        num_requests=1,
        estimated=True,
    )


def openai_usage(told: Mapping[str, Any]) -> Usage:
    """Read the `usage` object of a chat completion; cached and reasoning tokens are split off."""
    cached = _int(_mapping(told.get("prompt_tokens_details")).get("cached_tokens"))
    reasoning = _int(_mapping(told.get("completion_tokens_details")).get("reasoning_tokens"))
    return Usage(
        input=max(0, _int(told.get("prompt_tokens")) - cached),
        output=max(0, _int(told.get("completion_tokens")) - reasoning),
        reasoning=reasoning,
        cache_read=cached,
        num_requests=1,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _float(value: Any) -> float:
    """Return a finite number; JSON as Python reads it also holds NaN and numbers without end."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        number = float(value)
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()
