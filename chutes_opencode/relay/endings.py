"""What opencode is told when it shall stop, or repeat a step. Pure.

opencode retries whatever looks transient by its words: digits like those of a status, "overloaded",
"rate limit" and more, wherever they stand. So the words here hold none of them, and nothing of what
a provider or a caller said; the truth is in the booking. A stream that has begun cannot be
answered by a status any more: an error event ends it, and its words decide what opencode does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

STATUS = 422
"""The status that opencode does not retry."""

_DEFAULT = "the prompt is over"
_WORDS: Mapping[str, str] = {
    "max_requests": "the prompt has made all the requests that it may",
    "max_tokens": "the prompt has used all the tokens that it may",
    "max_cost_usd": "the money of the prompt is used up",
    "budget": "the money that prompts share is used up",
    "tool server": "a tool server did not come up",
    "failing": "the provider gave no whole answer",
    "configuration": "the request is not as it was configured",
    "deadline": "the prompt has come to its end",
    "relay": "the relay has stopped",
    "stranger": "the request belongs to no prompt",
    "model": "the model is not one of the prompt",
    "malformed": "the request cannot be read",
}

_REPEAT = {"error": {"message": "Overloaded", "type": "overloaded_error"}}


def refusal_body(reason: str) -> bytes:
    """Return the body of an answer with `STATUS` after which opencode stops.

    Args:
        reason: As in `Booking.ended`, or "stranger", "model", "malformed", "closed".
    """
    return json.dumps(_error(reason)).encode()


def stop_event(reason: str) -> bytes:
    """Return the event at the end of a broken stream after which opencode stops."""
    return _event(_error(reason))


def repeat_event() -> bytes:
    """Return the event at the end of a broken stream after which opencode repeats the step."""
    return _event(_REPEAT)


def _error(reason: str) -> dict[str, object]:
    words = next((w for kind, w in _WORDS.items() if reason.startswith(kind)), _DEFAULT)
    return {"error": {"message": f"ended by chutes-opencode: {words}"}}


def _event(payload: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"
