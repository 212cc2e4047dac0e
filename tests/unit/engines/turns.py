"""A warm server and a way to the provider without a process, for tests of turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.engines.entrance import Entrance
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.turn import Seated, Turn
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.events import Event
from chutes_opencode.opencode.api import ServerGoneError
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Usage
from tests.unit.relay import virtual_time

ANSWERED = Exchange(status=200, finish_reason="stop", usage=Usage(input=1, num_requests=1))

Row = dict[str, Any]
Work = Callable[["FakeApi", str], Awaitable[Any]]


def asked(text: str = "hello") -> Row:
    return {"info": {"role": "user"}, "parts": [{"type": "text", "text": text}]}


def said(text: str = "well", *parts: Row, **info: Any) -> Row:
    """An assistant's message, as the server returns it."""
    tokens = {"input": 1_000_000, "output": 1_000_000, "reasoning": 0, "cache": {"read": 0}}
    return {
        "info": {"role": "assistant", "finish": "stop", "cost": 0, "tokens": tokens} | info,
        "parts": [*parts, {"id": "x", "type": "text", "text": text}],
    }


async def answers(api: FakeApi, session_id: str) -> Row:
    """Answer at once."""
    api.rows[session_id] = [*api.rows.get(session_id, []), asked(), said()]
    return said()


async def hangs(_api: FakeApi, _session_id: str) -> Row:
    """Go on until somebody cancels the call."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def works_until_aborted(api: FakeApi, _session_id: str) -> Row:
    """Go on until the session is aborted, as opencode does."""
    await api.aborted.wait()
    return said("", finish=None)


class FakeApi:
    """Stands for the client of a running server.

    Attributes:
        work: What the agent does with a message.
        rows: Messages of each session.
        sent: What was sent.
        failing: Calls that fail, and with what.
        hanging: Calls that never return.
        calls: Those that were made, but for looks at the messages.
    """

    def __init__(self, work: Work = answers) -> None:
        self.work = work
        self.rows: dict[str, list[Row]] = {}
        self.sent: list[dict[str, Any]] = []
        self.failing: dict[str, Exception] = {}
        self.hanging: set[str] = set()
        self.calls: list[str] = []
        self.aborted = asyncio.Event()
        self.health = True

    async def _called(self, name: str) -> None:
        if name in self.hanging:
            await asyncio.Event().wait()
        if name in self.failing:
            raise self.failing[name]

    async def send(self, session_id: str, **message: Any) -> Row:
        self.calls.append("send")
        self.sent.append({"session_id": session_id, **message})
        await self._called("send")
        answer: Row = await self.work(self, session_id)
        return answer

    async def messages(self, session_id: str) -> list[Row]:
        await self._called("messages")
        return self.rows.get(session_id, [])

    async def abort(self, _session_id: str) -> None:
        self.calls.append("abort")
        await self._called("abort")
        self.aborted.set()

    async def delete(self, _session_id: str) -> None:
        self.calls.append("delete")
        await self._called("delete")

    async def healthy(self, _seconds: float) -> bool:
        self.calls.append("healthy")
        return self.health


class FakeServer:
    """Stands for a running server."""

    def __init__(self, api: FakeApi, lease: Any = None, marker: str | None = None) -> None:
        self.api = api
        self.lease = lease
        self.marker = marker
        self.draining = self.killed = False
        self.alive = True
        self.explained: dict[str, str] = {}
        self.plan = SimpleNamespace(exclusive=False)
        self.entrance = Entrance()

    def stderr_tail(self) -> str:
        return "its last words"

    def explain(self, ref: str) -> str | None:
        return self.explained.get(ref)

    async def kill(self) -> None:
        self.killed = True


class FakeWire:
    """Stands for an attempt's way to the provider; opencode asks its model at once."""

    base_url = key = ""
    plugin: Path | None = None
    agent_prompt: str | None = None

    def __init__(self, *seen: Exchange, relayed: bool = True) -> None:
        self.seen = seen
        self.relayed = relayed
        self.queued: list[float | None] = []
        self.halted = self.closed = False
        self.phase: str | None = None
        self.ended: OpenCodeError | None = None

    def exchanges(self) -> tuple[Exchange, ...]:
        return self.seen if self.closed else ()

    def bind(self, _session_id: str) -> None:
        raise AssertionError("a warm server's session is named when its books are opened")

    def error(self) -> OpenCodeError | None:
        return self.ended

    def stopped(self) -> bool:
        return self.halted

    def overdue(self) -> str | None:
        return self.phase

    def queued_s(self) -> float | None:
        return self.queued.pop(0) if len(self.queued) > 1 else self.queued[0] if self.queued else 0

    def told(self, observe: Observe) -> Observe:
        return observe

    def when_asked(self, tell: Callable[[], None]) -> None:
        tell()

    async def close(self) -> None:
        self.closed = True


GONE = ServerGoneError("nobody answers")


class Play:
    """A turn on a fake server, in virtual time."""

    def __init__(self, work: Work = answers, wire: FakeWire | None = None) -> None:
        self.api = FakeApi(work)
        self.server = FakeServer(self.api)
        self.wire = wire or FakeWire(ANSWERED)
        self.events: list[Event] = []
        self.ended_at = 0.0

    def run(
        self, *, seated: dict[str, Any] | None = None, relayed: bool = True, **fields: Any
    ) -> Evidence:
        asked_for: dict[str, Any] = {
            "prompt": "hello",
            "model": "m",
            "timeout_seconds": 60.0,
        } | fields
        request = PromptRequest(**asked_for)
        place = Seated(cast(Server, self.server), "chutes", "ses_1", "ses_0", **seated or {})

        async def main() -> Evidence:
            turn = Turn(request, place, self.events.append, relayed=relayed)
            try:
                return await turn.run(self.wire)
            finally:
                self.ended_at = virtual_time.clock()

        return virtual_time.run(main())
