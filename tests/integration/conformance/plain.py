"""Results, events and requests as plain data, without what is another one in each run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

from chutes_opencode import OpenCodeError, QueryResult
from chutes_opencode.events import Event, ReasoningDelta, TextDelta, Waiting
from chutes_opencode.simulator import RecordedRequest

# What the issue excepts, ids of the provider's and of ours, and waits, which hold a random part.
_NEVER_EQUAL = frozenset(
    {"duration_s", "queued_s", "waited_s", "wait_seconds", "first_byte_s"}
    | {"stderr", "request_id", "prompt_id"}
)
_HEADERS_NEVER_EQUAL = ("x-chutes-", "date", "x-request-id")
_ERRORS_OWN = ("limit", "partial_text", "validation_errors", "suggestions", "retry_after")
_CHANGING = (
    (r"\b(ses|msg|prt|tool)_[0-9A-Za-z]+", r"<\1>"),
    (r"\bdirect-[0-9a-f]{16}\b", "<ses>"),
    (r"\bcall_[0-9A-Za-z_-]+", "<call>"),
    (r"(?<=date: )\w{3} \w{3} \d\d? \d{4}", "<today>"),
    (r"\w{3}, \d\d \w{3} \d{4} [0-9:]{8} GMT", "<time>"),
    (r"(?<=/sessions/)[0-9a-f]{32}", "<kept>"),
    (r"\d{4}-\d\d-\d\dT[0-9:.]+(\+00:00|Z)", "<time>"),
    (r"(?<=within )[0-9.]+(?= s\b)", "<seconds>"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
)


def plain(value: Any, temp: Path) -> Any:
    """Return a value as dicts, lists and texts that can be compared.

    Args:
        value: Of any of our classes.
        temp: Folder of private folders.
    """
    if isinstance(value, str):
        return _settled(value, temp)
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, OpenCodeError):
        return _error(value, temp)
    if is_dataclass(value):
        return {
            field.name: _field(field.name, getattr(value, field.name), temp)
            for field in fields(value)
            if field.name not in _NEVER_EQUAL
        } | ({"kind": type(value).__name__} if isinstance(value, Event) else {})
    if isinstance(value, Mapping):
        return {plain(key, temp): plain(one, temp) for key, one in value.items()}
    if isinstance(value, Iterable):
        return [plain(one, temp) for one in value]
    return plain(str(value), temp)


def _settled(text: str, temp: Path) -> str:
    """Put names in the place of paths, ids and dates."""
    text = re.sub(rf"/?{re.escape(str(temp)[1:])}/[^\s\"'<>`*)]*", "<private>", text)
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    return text


def _field(name: str, value: Any, temp: Path) -> Any:
    if name in ("session_id", "parent_session_id", "call_id"):
        return bool(value)
    if name == "engine":
        return None
    if name == "headers":
        return {
            key: "<changes>" if key.startswith(_HEADERS_NEVER_EQUAL) else plain(one, temp)
            for key, one in value.items()
        }
    return plain(value, temp)


def _error(error: OpenCodeError, temp: Path) -> dict[str, Any]:
    own = {name: getattr(error, name) for name in _ERRORS_OWN if hasattr(error, name)}
    told = {
        "class": type(error).__name__,
        "exit_code": error.exit_code,
        "raw_message": error.raw_message,
        "status": error.status,
        "response_body": error.response_body,
        "model": error.model,
        "node_id": error.node_id,
        "hint": error.hint,
        "request_id": bool(error.request_id),
        "cause": type(error.__cause__).__name__,
    }
    return {name: plain(value, temp) for name, value in (told | own).items()}


def plain_result(result: QueryResult | None, temp: Path) -> Any:
    """Return a result."""
    return None if result is None else plain(result, temp)


def plain_events(events: Iterable[Event], temp: Path) -> list[Any]:
    """Return a stream's events, the deltas joined; waits depend on what else goes on."""
    told: list[Any] = []
    seen = (event for event in events if not isinstance(event, Waiting))
    for kind, run in groupby(seen, key=type):
        if kind in (TextDelta, ReasoningDelta):
            text = "".join(event.text for event in run)  # type: ignore[attr-defined]
            told.append({"kind": kind.__name__, "text": _settled(text, temp)})
        elif kind.__name__ != "Done":
            told += [plain(event, temp) for event in run]
        else:
            told.append({"kind": "Done"})
    return told


def plain_requests(requests: Iterable[RecordedRequest], temp: Path) -> list[Any]:
    """Return the bodies that a simulator got, session by session, the prompt's own first."""
    sessions: dict[str | None, list[Any]] = {}
    parents: dict[str | None, str | None] = {}
    for request in requests:
        sessions.setdefault(request.session_id, []).append(_body(request, temp))
        parents[request.session_id] = request.parent_session_id
    order = sorted(sessions, key=lambda session: parents[session] is not None)
    return [{"sub": bool(parents[session]), "bodies": sessions[session]} for session in order]


def _body(request: RecordedRequest, temp: Path) -> Any:
    body = plain(json.loads(request.body), temp)
    tools = {tool["function"]["name"]: tool for tool in body.pop("tools", [])}
    return body | {"tools": tools}


def differences(reference: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield where two plain values differ, and how; each place once, as deep as can be."""
    if isinstance(reference, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*reference, *other]):
            missing = {"<missing>": True}
            yield from differences(
                reference.get(key, missing), other.get(key, missing), f"{path}/{key}"
            )
    elif isinstance(reference, list) and isinstance(other, list):
        if len(reference) != len(other):
            yield f"{path}/length", f"{_short(reference)} != {_short(other)}"
        for number, (one, two) in enumerate(zip(reference, other, strict=False)):
            yield from differences(one, two, f"{path}/{number}")
    elif isinstance(reference, float) and isinstance(other, float):
        if abs(reference - other) > 1e-12:
            yield path, f"{reference!r} != {other!r}"
    elif reference != other:
        yield path, f"{_short(reference)} != {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]} … {text[-80:]} ({len(text)})"


def fits(path: str, pattern: str) -> bool:
    """Tell whether a place is one that a pattern names, or lies below it."""
    names, wanted = path.split("/"), pattern.split("/")
    return len(names) >= len(wanted) and all(map(fnmatchcase, names, wanted))
