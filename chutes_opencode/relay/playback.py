"""Answer a request from disk, if it was asked before."""

from __future__ import annotations

import asyncio
import time

from chutes_opencode.events import ReasoningDelta, TextDelta
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.client import Client, ModelRequest
from chutes_opencode.relay.receipt import stored_request
from chutes_opencode.relay.replay import Recorded, find
from chutes_opencode.relay.rewrite import Body, requested_tools
from chutes_opencode.relay.stream import StreamCheck
from chutes_opencode.relay.upstream import BrokenAnswerError
from chutes_opencode.relay.whole import WholeAnswer, parse_whole


async def play_back(booking: Booking, request: ModelRequest, client: Client, body: Body) -> bool:
    """Answer from the store of exchanges.

    Args:
        booking: The prompt's.
        request: As it came.
        client: Who gets the answer.
        body: As it would go to the provider.

    Returns:
        Whether there was an answer; False: the provider is to be asked.
    """
    stored = stored_request(booking, request, body)
    recorded = None if stored is None else await asyncio.to_thread(find, stored)
    seen = None if recorded is None else _read(recorded, streams=body.get("stream") is True)
    if recorded is None or seen is None:
        return False
    booking.check_limits()  # it counts as a request
    booking.ledger.replayed(
        request.session_id,
        str(body["model"]),
        at=time.monotonic(),
        status=recorded.status,
        content_type=recorded.content_type.partition(";")[0],
        tools=requested_tools(body),
        usage=seen.usage,
        finish_reason=seen.finish_reason,
        served_model=seen.served_model,
    )
    if isinstance(seen, StreamCheck) and booking.ledger.is_main(request.session_id):
        for kind, text in seen.deltas:
            booking.tell(TextDelta(text=text) if kind == "text" else ReasoningDelta(text=text))
    await client.start(recorded.status, {"content-type": recorded.content_type})
    await client.write(recorded.body)
    await client.end()
    return True


def _read(recorded: Recorded, *, streams: bool) -> StreamCheck | WholeAnswer | None:
    """Read what a stored answer says; None: it is not what is asked for."""
    if streams:
        check = StreamCheck()
        check.feed(recorded.body)
        return check if check.outcome == "whole" else None
    try:
        return parse_whole(recorded.body)
    except (BrokenAnswerError, ValueError):
        return None
