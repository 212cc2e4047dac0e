"""Answers that are no stream: those that were asked for whole, and those that tell of a failure."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from chutes_opencode.classify import classify_response
from chutes_opencode.errors import ConfigurationError, OpenCodeError, TruncatedStreamError
from chutes_opencode.patterns import ProviderPatterns
from chutes_opencode.relay.estimate import Kind, count_bytes, told_usage
from chutes_opencode.relay.upstream import Answer, BrokenAnswerError
from chutes_opencode.results import Usage

MAX_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
ERROR_SECONDS = 5.0  # an error page that does not end says enough by then

_REDIRECTS = range(300, 400)


@dataclass(slots=True)
class WholeAnswer:
    """What a whole answer says.

    Attributes:
        body: Its bytes.
        finish_reason: Of the first choice.
        served_model: Model that it names.
        usage: That it tells; None: none.
        output_bytes: UTF-8 bytes of its output, by kind.
    """

    body: bytes = b""
    finish_reason: str | None = None
    served_model: str | None = None
    usage: Usage | None = None
    output_bytes: dict[Kind, int] = field(default_factory=dict)


async def read_whole(answer: Answer, *, idle_seconds: float) -> WholeAnswer:
    """Read an answer that was asked for whole.

    Raises:
        BrokenAnswerError: It ended before its end, is too long, or is no JSON object.
        ValueError: It is JSON and tells an error; the message is its body.
    """
    body = bytearray()
    while (piece := await answer.read(idle_seconds)) is not None:
        body += piece
        if len(body) > MAX_BYTES:
            raise BrokenAnswerError(f"the answer is longer than {MAX_BYTES} bytes")
    return parse_whole(bytes(body))


def parse_whole(body: bytes) -> WholeAnswer:
    """Parse a whole answer; see `read_whole` for what is raised."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise BrokenAnswerError("the answer is no JSON, or only a part of it") from None
    if not isinstance(told, dict):
        raise BrokenAnswerError("the answer is no JSON object")
    if told.get("error") or not (told.get("choices") or isinstance(told.get("data"), list)):
        raise ValueError(body[:MAX_ERROR_BYTES].decode(errors="replace"))
    choices = told.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    choice = first if isinstance(first, dict) else {}
    model, usage = told.get("model"), told.get("usage")
    reason = choice.get("finish_reason")
    return WholeAnswer(
        body,
        finish_reason=reason if isinstance(reason, str) else None,
        served_model=model if isinstance(model, str) else None,
        usage=told_usage(usage) if isinstance(usage, dict) else None,
        output_bytes=_output_bytes(choice),
    )


def _output_bytes(choice: Mapping[str, Any]) -> dict[Kind, int]:
    told = choice.get("message")
    message: Mapping[str, Any] = told if isinstance(told, dict) else {}
    texts: dict[Kind, list[Any]] = {
        "text": [choice.get("text"), message.get("content")],
        "reasoning": [message.get("reasoning_content")],
        "tool": [json.dumps(message["tool_calls"])] if message.get("tool_calls") else [],
    }
    return {
        kind: sum(count_bytes(text) for text in said if isinstance(text, str))
        for kind, said in texts.items()
    }


async def read_error(answer: Answer) -> str:
    """Read the beginning of an answer that tells of a failure."""
    body = bytearray()
    end = time.monotonic() + ERROR_SECONDS
    try:
        while len(body) < MAX_ERROR_BYTES and (left := end - time.monotonic()) > 0:
            piece = await answer.read(left)
            if piece is None:
                break
            body += piece
    except BrokenAnswerError:
        pass  # its status and what came of it say enough
    return body[:MAX_ERROR_BYTES].decode(errors="replace")


def answer_error(
    answer: Answer, body: str, *, patterns: ProviderPatterns, model: str
) -> OpenCodeError:
    """Say what an answer stands for that is not what was asked for.

    Args:
        answer: Its status and headers.
        body: Its beginning.
        patterns: How the provider words its errors.
        model: The model asked.
    """
    if answer.status in _REDIRECTS:
        place = urlsplit(answer.headers.get("location", ""))
        host = f"{place.scheme}://{place.netloc}" if place.netloc else "another path"
        return ConfigurationError(
            raw_message=f"the provider redirects requests to {host}",
            status=answer.status,
            model=model,
            hint="Set the base URL to where the API is: requests are not redirected.",
        )
    return classify_response(
        answer.status, body, answer.headers, now=datetime.now(UTC), model=model, patterns=patterns
    )


def broken_error(error: BrokenAnswerError, answer: Answer, model: str) -> TruncatedStreamError:
    """Say that a whole answer broke off."""
    return TruncatedStreamError(raw_message=str(error), status=answer.status, model=model)
