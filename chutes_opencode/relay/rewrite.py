"""Make a request of opencode's into the one that the caller meant. Pure.

opencode puts its own words around the caller's: an environment block after the system message,
announcements of attached files with their absolute paths, sampling parameters that nobody set.
What the provider is sent is what the caller said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chutes_opencode.relay.terms import SystemRule, Terms
    from chutes_opencode.request import ChatMessage

Body = dict[str, Any]

_SYSTEM_ROLES = frozenset({"system", "developer"})
# What opencode says of an attached image or PDF beside the file itself.
_READ_NOTES = frozenset({"Image read successfully", "PDF read successfully"})


class MarkerMissingError(ValueError):
    """A request of the prompt's own session holds no marker: it is not as we configured it."""


def read_body(raw: bytes) -> Body:
    """Read a request's body.

    Raises:
        ValueError: It is no JSON object, or holds a number that JSON cannot write again.
    """
    try:
        body = json.loads(raw, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return body


def write_body(body: Mapping[str, Any]) -> bytes:
    """Write a body as compact UTF-8; in ASCII where a lone surrogate leaves no other way."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def rewrite(body: Mapping[str, Any], terms: Terms, *, main: bool, model: str) -> Body:
    """Return the request as it goes to the provider; `body` stays as it is.

    Args:
        body: As opencode sent it.
        terms: The prompt's.
        main: Whether it is of the prompt's own session, not of a sub-agent's.
        model: The model string to ask.

    Raises:
        MarkerMissingError: The system message should hold the marker and does not.
    """
    changed: Body = {**body, "model": model}
    if terms.body_keys is not None and "messages" in changed:
        changed = {name: value for name, value in changed.items() if name in terms.body_keys}
    if "messages" in changed:
        changed.update(terms.body_values)
    if changed.get("stream") is True:
        options = changed.get("stream_options")
        known = options if isinstance(options, dict) else {}
        changed["stream_options"] = {**known, "include_usage": True}
    messages = changed.get("messages")
    if isinstance(messages, list):
        changed["messages"] = _messages(messages, terms, main)
    return changed


def requested_tools(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the tools that a request offers."""
    tools = body.get("tools")
    functions = [_mapping(_mapping(tool).get("function")) for tool in _list(tools)]
    names = [function.get("name") for function in functions]
    return tuple(name for name in names if isinstance(name, str))


def max_output(body: Mapping[str, Any], default: int) -> int:
    """Return how many output tokens a request asks for at most, over all that it asks for at once.

    Servers differ in which of two names they heed, so the larger number counts.

    Args:
        body: The request.
        default: Where it does not tell.
    """
    told = [_positive(body.get(name)) for name in ("max_completion_tokens", "max_tokens")]
    tokens = max((number for number in told if number is not None), default=default)
    choices = max(_positive(body.get(name)) or 1 for name in ("n", "best_of"))
    return tokens * choices * _prompts(body.get("prompt"))


def _prompts(prompt: Any) -> int:
    """Count the prompts of a request for a completion; a list of numbers is one, as tokens."""
    rows = [row for row in _list(prompt) if isinstance(row, str | list)]
    return max(len(rows), 1)


def _messages(messages: Sequence[Any], terms: Terms, main: bool) -> list[Any]:
    kept = [message for message in messages if not _is_void(message)]
    if terms.system is not None:
        kept = _with_system(kept, terms.system, required=main)
    if main and terms.history:
        kept = _with_history(kept, terms.history)
    if terms.hidden_paths:
        # A path stands in JSON inside the text, so perhaps with escapes.
        paths = {*terms.hidden_paths, *(json.dumps(path)[1:-1] for path in terms.hidden_paths)}
        kept = [shown for message in kept if (shown := _without_notes(message, paths)) is not None]
    return kept


def _is_void(message: Any) -> bool:
    """Tell whether it is what opencode keeps of a step whose stream broke: a turn without words.

    opencode empties the text of a step that it repeats, and sends the rest along ever after (seen).
    """
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return False
    content = message.get("content")
    said = content if isinstance(content, str) else any(_texts(content)) or _has_others(content)
    return not said and not message.get("tool_calls")


def _has_others(content: Any) -> bool:
    return any(not isinstance(_mapping(part).get("text"), str) for part in _list(content))


# --- the system message --------------------------------------------------------------------------


def _with_system(messages: list[Any], rule: SystemRule, *, required: bool) -> list[Any]:
    holders = [number for number, message in enumerate(messages) if _holds(message, rule.marker)]
    if not holders:
        if required:
            raise MarkerMissingError("the request's system message is not the one we configured")
        return messages
    if rule.keep_context:
        return [
            _replaced(message, rule) if number in holders else message
            for number, message in enumerate(messages)
        ]
    return _only_system(messages, holders[0], rule.message)


def _holds(message: Any, marker: str) -> bool:
    return _is_system(message) and any(marker in text for text in _texts(message.get("content")))


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [text for part in _list(content) if isinstance(text := _mapping(part).get("text"), str)]


def _replaced(message: Body, rule: SystemRule) -> Body:
    """Put the caller's message in the marker's place and leave the rest to the byte."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content.replace(rule.marker, rule.message)}
    return {
        **message,
        "content": [
            {**part, "text": part["text"].replace(rule.marker, rule.message)}
            if isinstance(_mapping(part).get("text"), str)
            else part
            for part in content
        ],
    }


def _only_system(messages: list[Any], holder: int, text: str) -> list[Any]:
    """Keep one system message, the caller's; an empty one is none."""
    kept = []
    for number, message in enumerate(messages):
        if number == holder and text:
            kept.append({**message, "content": text})
        elif not _is_system(message):
            kept.append(message)
    return kept


def _with_history(messages: list[Any], history: Sequence[ChatMessage]) -> list[Any]:
    shown = (number for number, message in enumerate(messages) if not _is_system(message))
    first = next(shown, len(messages))
    earlier = [{"role": message.role, "content": message.text} for message in history]
    return [*messages[:first], *earlier, *messages[first:]]


# --- attachments ---------------------------------------------------------------------------------


def _without_notes(message: Any, paths: set[str]) -> Any:
    """Return a user message without opencode's words about an attached file; None: none left."""
    if not isinstance(message, dict) or message.get("role") != "user":
        return message

    def hidden(text: str) -> bool:
        return any(path in text for path in paths)

    # A text alone is the caller's: opencode's notes always stand beside it.
    parts = _list(message.get("content"))
    # Only beside a note with the path: a caller may well say "Image read successfully".
    if not any(hidden(text) for text in _texts(parts)):
        return message
    kept = [part for part in parts if not _is_note(part, hidden)]
    return {**message, "content": kept} if kept else None


def _is_note(part: Any, hidden: Callable[[str], bool]) -> bool:
    text = _mapping(part).get("text")
    return isinstance(text, str) and (text in _READ_NOTES or hidden(text))


# --- values of any kind --------------------------------------------------------------------------


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _positive(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        return None
    return math.ceil(value)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:32]} is out of range")
    return number
