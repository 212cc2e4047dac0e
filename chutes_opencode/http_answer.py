"""Read an HTTP answer that failed: its innermost message, its fields, when to come back.

Pure, and without judgement: what the words mean is the matter of `classify`. Nothing here raises
on what a server sends.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

_NAMES: Mapping[int | None, str] = {status.value: status.phrase for status in HTTPStatus}

# Reason phrases of older and other servers beside those of the standard library.
_PHRASES: Mapping[str, int] = {
    **{status.phrase.lower(): status.value for status in HTTPStatus if status >= 400},
    "payload too large": 413,
    "content too large": 413,
    "unprocessable content": 422,
    "request time-out": 408,
    "service temporarily unavailable": 503,
    "gateway time-out": 504,
}

_HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
_PREFIX = re.compile(r"^(Invalid request:\s*)+", re.IGNORECASE)

# Real bodies are wrapped three deep; none may make us dig for ever.
_MAX_WRAPPERS = 8

_MAX_HINT_S = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The body of a failed answer, unwrapped.

    Attributes:
        text: The innermost message; empty for an HTML page.
        fields: The fields of all wrappers; an inner one hides an outer one.
        html: Whether it is an HTML page.
    """

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    html: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The message, then the machine words in `type` and `code`."""
        words = (self.fields.get("type"), self.fields.get("code"))
        return (self.text, *(word for word in words if isinstance(word, str)))

    @property
    def status(self) -> int | None:
        """The error status that an engine repeats inside its body (`"code": 400`)."""
        told = (read_status(self.fields.get(name)) for name in ("code", "status"))
        return next((status for status in told if status is not None and status >= 400), None)


def unwrap(text: str) -> ErrorBody:
    """Peel a body: `{"detail": …}`, `{"error": …}`, "Invalid request: " and JSON inside text."""
    if _HTML.match(text):
        return ErrorBody("", html=True)
    fields: dict[str, Any] = {}
    node: Any = text
    for _ in range(_MAX_WRAPPERS):
        if isinstance(node, str):
            text = _PREFIX.sub("", node.strip())
            node = load_json(text)
        elif isinstance(node, Mapping):
            fields.update(node)
            node = _inner(node)
        elif isinstance(node, list) and node:
            node = node[0]
        else:
            break
    return ErrorBody(text, fields)


def _inner(node: Mapping[str, Any]) -> Any:
    error = node.get("error")
    choices = (
        node.get("detail"),
        error if isinstance(error, Mapping) else None,
        node.get("message"),
        node.get("msg"),
        error,
    )
    return next((choice for choice in choices if choice), None)


def load_json(text: str) -> Any:
    """Return the JSON object, array or string that `text` is; None if it is something else."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def split_phrase(message: str) -> tuple[int | None, str]:
    """Split "Too Many Requests: {…}" into the phrase's status and the rest.

    Returns:
        The status, or None if the message begins with no reason phrase; then the whole message.
    """
    phrase, _, rest = message.partition(":")
    status = _PHRASES.get(phrase.strip().lower())
    return (None, message) if status is None else (status, rest.strip())


def describe_status(status: int | None, html: bool) -> str:
    """Say what a status is, for an answer without a message of its own."""
    told = f"HTTP {status} {_NAMES.get(status, '')}".rstrip()
    return f"{told} (an HTML page)" if html else told


def plain_headers(headers: Any) -> dict[str, str]:
    """Return headers with lower-case names, without what is no header."""
    pairs = headers.items() if isinstance(headers, Mapping) else ()
    return {str(name).lower(): str(value) for name, value in pairs if isinstance(value, str | int)}


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read how long to wait: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.

    Args:
        headers: Of an answer, in any case.
        now: The time (aware).

    Returns:
        Seconds, from 0 to a year; None if nothing legible was told.
    """
    plain = plain_headers(headers)
    told = plain.get("retry-after", "")
    milliseconds = _number(plain.get("retry-after-ms", ""))
    seconds = milliseconds / 1000 if milliseconds is not None else _number(told)
    if seconds is None:
        try:
            seconds = (_aware(parsedate_to_datetime(told)) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_HINT_S)


def read_status(value: object) -> int | None:
    """Return an HTTP status that is told as a number or by its digits, else None."""
    text = str(value)
    return int(text) if re.fullmatch(r"[1-5][0-9]{2}", text) else None


def read_moment(value: object) -> datetime | None:
    """Return an aware time told in ISO 8601 or as seconds since 1970, else None."""
    try:
        if isinstance(value, str):
            return _aware(datetime.fromisoformat(value))
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
