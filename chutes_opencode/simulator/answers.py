"""Shapes of an answer that is not a good completion: whole HTTP answers, broken streams.

Texts may hold placeholders, filled in when they are sent: `{model}`, `{chute_id}`, `{tokens}`
(input tokens of the request), `{limit}` (context length of the model), `{max_tokens}`, `{total}`
(the sum of both), `{midnight}` (next UTC midnight, ISO 8601), `{http_date}` (two seconds from
now).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum


class End(Enum):
    """How a broken stream stops."""

    CLEAN = "the body ends as a whole one does"
    CLOSE = "the connection closes without the end mark of the body"
    RESET = "TCP reset"
    STALL = "silence until the client or the simulator gives up"


class Sent(Enum):
    """How much of the reply is sent before a stream breaks."""

    NOTHING = "nothing"
    HALF = "half"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer in place of a completion; nothing is billed."""

    status: int
    body: str
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that breaks: `sent` of the reply, the bytes of `tail`, then `end`."""

    sent: Sent
    end: End
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail; the fields that are set say how, the others leave the reply as it is.

    Attributes:
        name: the name that selects it.
        about: one sentence for a user.
        answer: sent in place of the completion.
        cut: where and how the stream breaks.
        finish_reason: told in place of the true one; "" for none at all.
        halved: only the first half of the reply's text is sent.
        empty: the reply has no text.
        endless_tools: every reply calls a tool that the request offers, else an unknown one.
        never_answers: no status line is ever sent.
        first_byte_delay_s: seconds before the status line.
        token_delay_s: seconds before each chunk.
    """

    name: str
    about: str
    answer: Answer | None = None
    cut: Cut | None = None
    finish_reason: str | None = None
    halved: bool = False
    empty: bool = False
    endless_tools: bool = False
    never_answers: bool = False
    first_byte_delay_s: float = 0.0
    token_delay_s: float = 0.0


def detail(value: object) -> str:
    """Body of a Chutes error: `{"detail": value}`."""
    return json.dumps({"detail": value})


def engine_error(message: str) -> dict[str, object]:
    """An inference engine's own error object."""
    return {
        "object": "error",
        "message": message,
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


def engine_detail(message: str) -> str:
    """Body of a Chutes 400 that carries an engine's error as text."""
    return detail(f"Invalid request: Invalid request: {json.dumps(engine_error(message))}")


def openai_error(message: str, kind: str, code: str | None = None) -> str:
    """Body of an error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error})


def nginx_page(status: int, phrase: str) -> Answer:
    """An error page of the edge server."""
    title = f"{status} {phrase}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Answer(status, body, "text/html")
