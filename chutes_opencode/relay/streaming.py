"""Pass an event stream on while it is checked, and say what one that is not whole died of."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

from chutes_opencode.classify import classify_error
from chutes_opencode.errors import (
    OpenCodeError,
    ServerError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.patterns import ProviderPatterns
from chutes_opencode.relay.stream import StreamCheck
from chutes_opencode.relay.upstream import Answer, BrokenAnswerError

AFTER_FINISH_SECONDS = 10.0  # the answer is whole: its usage comes soon or not at all
AFTER_DONE_SECONDS = 1.0  # nothing comes any more but the end
_MAX_HELD_BYTES = 1024 * 1024

Sender = Callable[[bytes], Awaitable[None]]
Hearer = Callable[[], object]

_ENDINGS = {
    "empty": "the stream was empty",
    "truncated": "the stream ended without a finish reason",
}


async def pass_stream(
    answer: Answer, check: StreamCheck, send: Sender, heard: Hearer, *, idle_seconds: float
) -> str | None:
    """Read a stream to its end and pass on what is good of it.

    Nothing is passed on before a chunk of an answer has come: until then the request may be sent
    again without anyone noticing. Nor is a tool call before its answer is whole: opencode runs the
    tool as soon as it has the arguments, and would run it again with the step (seen).

    Args:
        answer: The provider's.
        check: Judges the stream.
        send: Takes the good bytes.
        heard: Called after each read, whether or not something of it is passed on.
        idle_seconds: How long the provider may be silent.

    Returns:
        How the connection broke; None: it did not.
    """
    held = bytearray()
    tail = _Tail(check)
    while not check.stopped and not tail.over():
        try:
            piece = await answer.read(min(idle_seconds, tail.seconds_left()))
        except BrokenAnswerError as error:
            return str(error)
        held += check.finish() if piece is None else check.feed(piece)
        heard()
        if held and (_may_pass(check) or len(held) > _MAX_HELD_BYTES):
            await send(bytes(held))
            held.clear()
        if piece is None:
            break
    return None


def stream_error(
    check: StreamCheck,
    broken: str | None,
    *,
    patterns: ProviderPatterns,
    model: str,
    request_id: str | None,
) -> OpenCodeError | None:
    """Say what a stream died of; None: it was whole.

    The provider's own words count where they mean something definite (a rate limit, an overflow);
    else the stream was cut.

    Args:
        check: After the stream's end.
        broken: How the connection broke, if it did.
        patterns: How the provider words its errors.
        model: The model asked.
        request_id: The provider's id of the request.
    """
    if check.outcome == "whole":
        return None
    if check.outcome == "unknown_finish":
        words = f"the stream ended with the unknown finish reason {check.finish_reason!r}"
    else:
        words = check.error or check.malformed or broken or _ENDINGS[check.outcome]
    if check.error is not None:
        event = {"name": "UnknownError", "data": {"message": check.error}}
        told = classify_error(event, model=model, patterns=patterns)
        if type(told) not in (UnknownOpenCodeError, ServerError):
            return told
    return TruncatedStreamError(raw_message=words, status=200, model=model, request_id=request_id)


def _may_pass(check: StreamCheck) -> bool:
    return check.started and ("tool" not in check.output_bytes or check.outcome == "whole")


class _Tail:
    """How long to listen yet to a stream that has told its finish reason, whatever it sends."""

    def __init__(self, check: StreamCheck) -> None:
        self._check = check
        self._end = math.inf

    def over(self) -> bool:
        """Tell whether it is time to go; to be asked after each read."""
        check, now = self._check, time.monotonic()
        if check.outcome not in ("whole", "unknown_finish"):
            self._end = math.inf  # another choice has begun
            return False
        seconds = AFTER_DONE_SECONDS if check.done else AFTER_FINISH_SECONDS
        self._end = min(self._end, now + seconds)
        return now >= self._end

    def seconds_left(self) -> float:
        return self._end - time.monotonic()
