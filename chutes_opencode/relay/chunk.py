"""What in a chunk of a chat stream opencode's own reader would not take. Pure.

opencode checks each chunk against a schema (seen in 1.15.13 and 1.18.33). One that does not fit is
an error to it, whose words hold the whole chunk; any "500" in them, be it in a time stamp, starts
its silent retries: twelve paid requests in two minutes. So what is wrong is said here, before it
passes. Fields that opencode does not read may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

_MAX_CALLS = 10_000

Shape = Callable[[Any], bool] | list[Any] | dict[str, Any]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _is_role(value: Any) -> bool:
    return value in ("assistant", "")


_USAGE: Shape = {
    "prompt_tokens": _is_number,
    "completion_tokens": _is_number,
    "total_tokens": _is_number,
    "prompt_tokens_details": {"cached_tokens": _is_number},
    "completion_tokens_details": {
        "reasoning_tokens": _is_number,
        "accepted_prediction_tokens": _is_number,
        "rejected_prediction_tokens": _is_number,
    },
}
_CALL: Shape = {
    "index": _is_number,
    "id": _is_text,
    "function": {"name": _is_text, "arguments": _is_text},
}
_DELTA: Shape = {
    "role": _is_role,
    "content": _is_text,
    "reasoning_content": _is_text,
    "reasoning": _is_text,
    "tool_calls": [_CALL],
}
_CHUNK: Shape = {
    "id": _is_text,
    "created": _is_number,
    "model": _is_text,
    "choices": [{"delta": _DELTA, "finish_reason": _is_text}],
    "usage": _USAGE,
}


def chunk_flaw(chunk: Mapping[str, Any]) -> str | None:
    """Say what opencode would not take in a chunk; None: nothing.

    Args:
        chunk: With its `choices`.
    """
    return _flaw(chunk, _CHUNK, "chunk")


class CallBook:
    """The tool calls of a stream that have begun, counted as opencode counts them."""

    def __init__(self) -> None:
        """Know none."""
        self._begun: dict[int, set[float]] = {}

    def knows(self, choice: int) -> bool:
        """Tell whether a choice has called a tool."""
        return choice in self._begun

    def flaw(self, call: Mapping[str, Any], choice: int) -> str | None:
        """Note a piece of a tool call, and say what opencode would not take in it.

        Args:
            call: The piece, of a chunk without a flaw.
            choice: Index of its choice.
        """
        function = call.get("function")
        if function is None:
            return "a tool call has no function"
        begun = self._begun.get(choice, set())
        told = call.get("index")
        place = max(begun, default=-1) + 1 if told is None else told
        if place not in begun and call.get("id") is None:
            return "a tool call begins without its id"
        if place not in begun and function.get("name") is None:
            return "a tool call begins without its name"
        if len(begun) >= _MAX_CALLS:
            return f"there are more than {_MAX_CALLS} tool calls"
        self._begun.setdefault(choice, set()).add(place)
        return None


def _flaw(value: Any, shape: Shape, name: str) -> str | None:
    # Asked of each chunk of each stream, so it is written plainly.
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is no object"
        for field, inner in shape.items():
            told = value.get(field)
            if told is not None and (flaw := _flaw(told, inner, field)) is not None:
                return flaw
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        found = (_flaw(item, shape[0], f"an item of {name}") for item in value)
        return next(filter(None, found), None)
    return None if shape(value) else f"{name} is {str(value)[:40]!r}"
