"""Pass an event stream on in few pieces: opencode needs the answer, not each token by itself.

For each delta that comes by itself opencode takes about 1.5 ms of a CPU (1.18.33, measured with
`scripts/bench streams`): sixteen streams at fifty tokens a second keep a core busy. Who watches a
prompt hears its deltas from the relay, at once. What opencode gets is held for a moment, and runs
of text in it are put together: it comes to the same message at a third of the cost.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.relay.client import Client

GATHER_SECONDS = 0.5

_MAX_HELD_BYTES = 1024 * 1024
_EVENT_END = re.compile(rb"(\r\n\r\n|\n\n)")
_TEXTS = ("content", "reasoning_content", "reasoning")
_KINDS = ({"content"}, {"reasoning_content"}, {"reasoning"}, {"reasoning_content", "reasoning"})


@dataclass(frozen=True, slots=True)
class _Piece:
    """An event that adds to a text, and says nothing else.

    Attributes:
        event: As it came.
        chunk: Its JSON.
        delta: The same as in the chunk.
        names: Of the fields that hold the text: one, or both for reasoning that is told twice.
        place: The choice, and what its delta holds besides; pieces of one place go together.
    """

    event: bytes
    chunk: dict[str, Any] = field(repr=False)
    delta: dict[str, Any] = field(repr=False)
    names: set[str]
    place: dict[str, Any]

    def follows(self, other: _Piece) -> bool:
        """Tell whether it goes on with the same text."""
        return self.names == other.names and self.place == other.place


def gathered(data: bytes) -> bytes:
    """Return whole events of a chat stream in fewer events that say the same. Pure.

    A run of chunks that only add to one text of one choice becomes one chunk: the last of them,
    with the whole text. Everything else stays as it came, and where it came.

    Args:
        data: Whole events, or anything else.
    """
    *parts, rest = _EVENT_END.split(data)
    told: list[bytes] = []
    run: list[_Piece] = []
    for event, end in zip(parts[::2], parts[1::2], strict=True):
        piece = _piece(event + end)
        if run and (piece is None or not piece.follows(run[-1])):
            told.append(_joined(run))
            run = []
        if piece is None:
            told.append(event + end)
        else:
            run.append(piece)
    return b"".join([*told, _joined(run), rest])


def _piece(event: bytes) -> _Piece | None:
    """Return what an event adds to a text; None: it says something else, too."""
    content = event.strip()
    if not content.startswith(b"data:") or b"\n" in content or b"\r" in content:
        return None
    try:
        chunk = json.loads(content.removeprefix(b"data:"))
    except (ValueError, RecursionError):
        return None  # the end mark
    match chunk:
        case {"choices": [{"delta": dict(delta), **beside}]} if not _says(beside, "index"):
            names = {name for name in _TEXTS if delta.get(name)}
        case _:
            return None
    texts = [delta[name] for name in names]
    if names not in _KINDS or not all(isinstance(text, str) for text in texts):
        return None
    others = {name: value for name, value in delta.items() if name not in names}
    if _says(others, "role"):
        return None
    return _Piece(event, chunk, delta, names, {**others, "index": beside.get("index")})


def _says(fields: Mapping[object, object], name: str) -> bool:
    """Tell whether any of the fields but one holds something."""
    return any(value for key, value in fields.items() if key != name)


def _joined(run: Sequence[_Piece]) -> bytes:
    if len(run) < 2:
        return b"".join(piece.event for piece in run)
    last = run[-1]
    last.delta.update({name: "".join(each.delta[name] for each in run) for name in last.names})
    told = [each.chunk["usage"] for each in run if each.chunk.get("usage")]
    if told:
        last.chunk["usage"] = told[-1]
    # ASCII: a character may come in two halves, of which each by itself has no UTF-8.
    return b"data: " + json.dumps(last.chunk, separators=(",", ":")).encode() + b"\n\n"


class GatheringClient(Client):
    """A client that gets an event stream in few pieces; any other answer goes on as it comes."""

    def __init__(self, client: Client, *, seconds: float = GATHER_SECONDS) -> None:
        """Take the client.

        Args:
            client: Gets the answer.
            seconds: How long what came may be held, from the last time on that something went.
        """
        self.started = self.ended = False
        self._client = client
        self._seconds = seconds
        self._streams = False
        self._held = bytearray()
        self._going = asyncio.Lock()
        self._sent_at = -math.inf
        self._timer: asyncio.Task[None] | None = None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""
        self.started = True
        self._streams = headers.get("content-type", "").startswith("text/event-stream")
        await self._client.start(status, headers)

    async def write(self, data: bytes) -> None:
        """Take whole events of the body; waits where too much is held for a client that is slow."""
        self._held += data
        left = self._sent_at + self._seconds - asyncio.get_running_loop().time()
        if not self._streams or left <= 0 or len(self._held) > _MAX_HELD_BYTES:
            await self._flush()
        elif self._timer is None or self._timer.done():
            self._end_timer()
            self._timer = asyncio.create_task(self._flush_later(left))

    async def end(self) -> None:
        """Send what is held, and the end of the body."""
        await self._flush()
        self.ended = True
        await self._client.end()

    async def close(self) -> None:
        """Forget what is held; the client gets nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)

    async def _flush_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self._going:
            await self._send()

    async def _flush(self) -> None:
        async with self._going:
            self._end_timer()
            await self._send()

    def _end_timer(self) -> None:
        """End the timer, which sleeps, or raise what it died of."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.done():
            timer.result()
        elif timer is not None:
            timer.cancel()

    async def _send(self) -> None:
        data, self._held = bytes(self._held), bytearray()
        if data:
            self._sent_at = asyncio.get_running_loop().time()
            await self._client.write(gathered(data) if self._streams else data)
