"""Tell an attempt's events in their order: what the relay hears, and what the session shows.

A warm server tells of a tool only where one looks. One looks when the next model request arrives:
then the tools of the step before have ended, as they have when `opencode run` tells of them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from chutes_opencode.engines.base import Observe
from chutes_opencode.events import Event, ReasoningDelta, RequestStarted, TextDelta
from chutes_opencode.opencode.transcript import event_records

Row = Mapping[str, Any]
Read = Callable[[], Awaitable[Sequence[Row]]]

# A part of a message has the event's type in another spelling.
_EVENT_TYPES = {"step-finish": "step_finish"}


class Telling:
    """Tells one attempt's events; used on one event loop."""

    def __init__(self, observe: Observe, read: Read, *, text: bool) -> None:
        """Prepare.

        Args:
            observe: Is told.
            read: Returns the session's messages of this attempt.
            text: Whether text is told from the messages, since no relay tells its deltas.
        """
        self._observe = observe
        self._read = read
        self._text = text
        self._told: set[str] = set()
        self._later: deque[Event] = deque()
        self._looking: asyncio.Task[None] | None = None

    def hear(self, event: Event) -> None:
        """Tell an event of the relay's; after what the session shows, where a step begins."""
        begins = isinstance(event, RequestStarted) and event.step > 1
        if self._looking is None and not begins:
            self._observe(event)
            return
        self._later.append(event)
        if self._looking is None:
            self._looking = asyncio.create_task(self._catch_up())

    def tell_rows(self, rows: Sequence[Row], steps: int | None = None) -> None:
        """Tell what messages show that was not told before.

        Args:
            rows: The attempt's messages.
            steps: Of how many model steps, each of which is a message; None: of all.
        """
        for row in list(filter(_is_assistants, rows))[:steps]:
            parts = row.get("parts")
            if isinstance(parts, list):
                for are_tools, run in groupby(parts, key=_is_tool):
                    # At once several may be called; they are told of in the order of their ends.
                    for part in sorted(run, key=_end_of_tool) if are_tools else run:
                        self._tell_part(part)

    async def end(self, rows: Sequence[Row]) -> None:
        """Tell all that is left.

        Args:
            rows: The attempt's messages at its end.
        """
        if self._looking is not None:
            await self._looking
        self.tell_rows(rows)

    async def _catch_up(self) -> None:
        try:
            while self._later:
                event = self._later.popleft()
                if isinstance(event, RequestStarted) and event.step > 1:
                    # The look may be late, and show the end of a step whose text waits here.
                    self.tell_rows(await self._read(), event.step - 1)
                self._observe(event)
        finally:
            self._looking = None

    def _tell_part(self, part: object) -> None:
        if not isinstance(part, Mapping) or not _has_ended(part):
            return
        identifier = str(part.get("id"))
        if identifier in self._told:
            return
        self._told.add(identifier)
        kind = str(part.get("type"))
        for record in event_records({"type": _EVENT_TYPES.get(kind, kind), "part": part}):
            if self._text or not isinstance(record, TextDelta | ReasoningDelta):
                self._observe(record)


def _is_assistants(row: Row) -> bool:
    info = row.get("info")
    return isinstance(info, Mapping) and info.get("role") == "assistant"


def _is_tool(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "tool"


def _end_of_tool(part: Mapping[str, Any]) -> float:
    state = part.get("state")
    time = state.get("time") if isinstance(state, Mapping) else None
    end = time.get("end") if isinstance(time, Mapping) else None
    return float(end) if isinstance(end, int | float) else math.inf


def _has_ended(part: Mapping[str, Any]) -> bool:
    """Tell whether nothing is added to a part any more."""
    if _is_tool(part):
        state = part.get("state")
        return isinstance(state, Mapping) and state.get("status") in ("completed", "error")
    time = part.get("time")
    return not isinstance(time, Mapping) or "start" not in time or "end" in time
