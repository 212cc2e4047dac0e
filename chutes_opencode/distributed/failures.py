"""What Ray raises, and what of it is ours."""

from __future__ import annotations

from chutes_opencode.distributed.extra import ray
from chutes_opencode.masking import mask

LINE_CHARACTERS = 300


def original(error: BaseException) -> BaseException:
    """Return the error that a task or an actor raised, out of the one that `ray.get` raises.

    Ray's is of a class of its own beside ours: it holds all fields, but its type has another name
    and its text a traceback of the worker.

    Args:
        error: Any.

    Returns:
        The very error, of its own class, with its fields and its cause; what is Ray's own (a worker
        that died) or no error of Ray's: itself.
    """
    while isinstance(error, ray.exceptions.RayTaskError):
        if not isinstance(error.cause, BaseException):
            return error
        error = error.cause
    return error


def one_line(error: BaseException) -> str:
    """Return what an error says, without line breaks and secrets, and not longer than a line."""
    said = " ".join(mask(str(error)).split()) or type(error).__name__
    return said if len(said) <= LINE_CHARACTERS else said[: LINE_CHARACTERS - 1] + "…"
