"""Read an OpenAI `messages` list: texts and turns. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]


def content_text(content: object) -> str:
    """Text of a message's `content`: a string as it is, the text parts of a list joined by ""."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part["text"] for part in content if is_text_part(part))


def is_text_part(part: object) -> bool:
    """Tell whether a content part is `{"type": "text", "text": "…"}`."""
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def last_user_index(messages: Sequence[Message]) -> int:
    """Index of the last message with role `user`; -1 when there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            return index
    return -1


def last_user_text(messages: Sequence[Message]) -> str:
    """Text of the last user message; "" when there is none."""
    index = last_user_index(messages)
    return content_text(messages[index].get("content")) if index >= 0 else ""


def answers_since_user(messages: Sequence[Message]) -> int:
    """Number of assistant messages after the last user message: the step an agent is at."""
    later = messages[last_user_index(messages) + 1 :]
    return sum(message.get("role") == "assistant" for message in later)
