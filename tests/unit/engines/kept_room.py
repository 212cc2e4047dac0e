"""A fake `opencode serve` with sessions, and a process that keeps some of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.kept import Copy, KeptSessions
from chutes_opencode.engines.seat import take_seat
from chutes_opencode.opencode.api import ServeApi
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.request import PromptRequest

REPLAYED = {"message.updated.1": "info", "message.part.updated.1": "part"}


class FakeOpenCode:
    """Stands for one server's HTTP face: sessions are made, told of, asked for and deleted."""

    def __init__(self, name: str = "a") -> None:
        self.sessions: dict[str, list[dict[str, Any]]] = {}
        self.rules: dict[str, list[dict[str, str]]] = {}
        self.directories: dict[str, str] = {}
        self.calls: list[str] = []
        self.breaks: dict[str, int | Exception] = {}
        self._name = name

    async def answer(self, request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")
        call = f"{request.method} /{parts[0]}" + ("/ID" + "/".join(["", *parts[2:]])) * (
            parts[0] == "session" and len(parts) > 1
        )
        call = call.rstrip("/")
        self.calls.append(call)
        failure = self.breaks.get(call)
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            return httpx.Response(failure, json={"name": "UnknownError"})
        body = json.loads(request.content) if request.content else {}
        if call == "POST /session":
            return self._create(request, body)
        if call == "POST /sync":
            return self._replay(body)
        if call == "GET /session/ID/message":
            return httpx.Response(200, json=self.sessions[parts[1]])
        assert call == "DELETE /session/ID"
        gone = self.sessions.pop(parts[1], None)
        return httpx.Response(200 if gone is not None else 404, json=gone is not None)

    def _create(self, request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        session_id = f"ses_{self._name}{len(self.rules)}"
        self.sessions[session_id] = []
        self.rules[session_id] = body["permission"]
        self.directories[session_id] = request.url.params["directory"]
        return httpx.Response(200, json={"id": session_id})

    def _replay(self, body: dict[str, Any]) -> httpx.Response:
        for seq, event in enumerate(body["events"], start=1):
            assert event["seq"] == seq, "opencode expects the number that follows"
            rows = self.sessions[event["aggregateID"]]
            entry = event["data"][REPLAYED[event["type"]]]
            assert entry["sessionID"] == event["aggregateID"]
            if event["type"] == "message.updated.1":
                rows.append({"info": entry, "parts": []})
            else:
                assert entry["messageID"] == rows[-1]["info"]["id"]
                rows[-1]["parts"].append(entry)
        return httpx.Response(200, json={"sessionID": body["events"][0]["aggregateID"]})

    def speak(self, session_id: str, *texts: str) -> None:
        """Add what a turn adds: the user's and the assistant's messages."""
        for text in texts:
            number = len(self.sessions[session_id])
            info = {"id": f"msg_{session_id}{number}", "sessionID": session_id, "role": "user"}
            part = {"id": f"prt_{session_id}{number}", "messageID": info["id"], "text": text}
            self.sessions[session_id].append({"info": info, "parts": [part]})

    def texts(self, session_id: str) -> list[str]:
        return [row["parts"][0]["text"] for row in self.sessions[session_id]]


@dataclass
class FakeServer:
    """A running server, as far as sessions are concerned."""

    opencode: FakeOpenCode
    lease: object | None = "lease"
    alive: bool = True
    workspace: Workspace = field(default_factory=lambda: Workspace(Path("/server")))
    plan: Any = field(
        default_factory=lambda: SimpleNamespace(
            target=SimpleNamespace(provider=find_provider("chutes"))
        )
    )

    def __post_init__(self) -> None:
        transport = httpx.MockTransport(self.opencode.answer)
        self.api = ServeApi("http://opencode", "password", transport)


class Room:
    """A store, what one process knows of it, and servers; everything on one loop."""

    def __init__(self, root: Path) -> None:
        self.store = SessionStore(root / "sessions")
        self.kept = KeptSessions(self.store)
        self.default = root
        self.opencode = FakeOpenCode()
        self.server = self.serve(self.opencode)

    def serve(self, opencode: FakeOpenCode, **fields: Any) -> Any:
        return FakeServer(opencode, **fields)

    async def turn(
        self,
        text: str = "hello",
        *,
        server: Any = None,
        accept: bool = True,
        kept: KeptSessions | None = None,
        look: Callable[[Copy], object] = lambda copy: None,
        **fields: Any,
    ) -> Copy:
        """Run one attempt, at whose end the model has answered."""
        server = server or self.server
        kept = kept or self.kept
        request = PromptRequest(**({"prompt": text, "model": "m"} | fields))
        async with take_seat(
            request, self.default, self.store, engine="serve", version="1.0"
        ) as seat:
            copy = await kept.begin(request, server, seat, seat.work_dir)
            look(copy)
            server.opencode.speak(copy.session_id, text, f"re: {text}")
            await kept.settle(copy, seat, request, accepted=accept)
        return copy

    async def past(self, session_id: str, **fields: Any) -> tuple[list[str], Copy]:
        """Return the texts with which a further turn would begin; it leaves all as it is."""
        seen: list[str] = []
        server = fields.get("server") or self.server

        def look(copy: Copy) -> None:
            seen.extend(server.opencode.texts(copy.session_id))

        copy = await self.turn(session_id=session_id, accept=False, look=look, **fields)
        return seen, copy

    def document(self, session_id: str) -> Any:
        card = self.store.find(session_id, engine="serve", version="1.0")
        return json.loads(card.document.read_text())
