"""The HTTP face: the paths of the Chutes API, inference and management on one port."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from chutes_opencode.simulator.answers import Answer, detail
from chutes_opencode.simulator.faults import FAULTS
from chutes_opencode.simulator.plan import RefusedError, make_plan, read_chat_request
from chutes_opencode.simulator.play import DAILY_QUOTA, Player, Wire, send_answer
from chutes_opencode.simulator.recording import Headers, RecordedRequest, parse_json
from chutes_opencode.simulator.state import SimulatorState

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_Handler = Callable[[RecordedRequest], Answer]

_CHAT_PATH = "/v1/chat/completions"
_WARMUP_PATH = "/chutes/warmup/"
_BALANCE_USD = 100.0
_FOUR_HOUR_CAP_USD = 20.0
_MONTHLY_CAP_USD = 200.0
_USER_ID = "00000000-0000-4000-8000-000000000000"


class SimulatorApp:
    """The simulator as an ASGI app; needs the loopback server's extension for resets."""

    def __init__(self, state: SimulatorState) -> None:
        """Serve what `state` says."""
        self._state = state
        self._pages: dict[str, _Handler] = {
            "/v1/models": self._models,
            "/users/me": self._user,
            "/users/me/quota_usage/me": self._quota,
            "/users/me/subscription_usage": self._subscription,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await _read_body(receive)
        if body is None:
            return
        request = _record(scope, body)
        self._state.recorder.add(request)
        wire = Wire(send, scope)
        if request.path == _CHAT_PATH and request.method == "POST":
            await _while_connected(receive, self._chat(request, wire))
        else:
            await send_answer(wire, self._page(request))

    def _page(self, request: RecordedRequest) -> Answer:
        handler = self._pages.get(request.path)
        if handler is None and request.path.startswith(_WARMUP_PATH):
            handler = self._warm_up
        if handler is None and request.path != _CHAT_PATH:
            return Answer(404, detail("Not Found"))
        if handler is None or request.method != "GET":
            return Answer(405, detail("Method Not Allowed"))
        try:
            return handler(request)
        except RefusedError as refusal:
            return refusal.answer

    async def _chat(self, request: RecordedRequest, wire: Wire) -> None:
        state = self._state
        try:
            key = self._inference_key(request.headers)
            if state.over_rate(key):
                raise _refusal("429-nginx")
            chat = read_chat_request(parse_json(request.body), request.headers, key)
            if not state.enter(key):
                raise _refusal("429-capacity")
        except RefusedError as refusal:
            await send_answer(wire, refusal.answer)
            return
        try:
            await Player(state, chat, make_plan(state, chat), wire).play()
        except RefusedError as refusal:
            await send_answer(wire, refusal.answer)
        finally:
            state.leave(key)

    def _inference_key(self, headers: Headers) -> str:
        """The request's key; `X-API-Key` alone is an anonymous request, limited at the edge."""
        if "authorization" not in headers and "x-api-key" in headers:
            raise _refusal("429-nginx")
        return self._key(headers)

    def _key(self, headers: Headers) -> str:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _refusal("401-required")
        if token in self._state.api_tokens:
            return token
        if not token.startswith("cpk_"):
            raise _refusal("401-invalid")
        raise _refusal("401-expired" if token.startswith("cpk_expired") else "401-not-found")

    def _models(self, _request: RecordedRequest) -> Answer:
        return _json(self._state.table.listing())

    def _user(self, request: RecordedRequest) -> Answer:
        self._key(request.headers)
        balance = _BALANCE_USD - self._state.ledger.bill().total.cost_usd
        return _json({"user_id": _USER_ID, "username": "simulator", "balance": balance})

    def _quota(self, request: RecordedRequest) -> Answer:
        key = self._key(request.headers)
        return _json({"quota": DAILY_QUOTA, "used": self._state.used(key)})

    def _subscription(self, request: RecordedRequest) -> Answer:
        self._key(request.headers)
        usage = self._state.ledger.bill().total.cost_usd
        now = datetime.now(UTC)
        hour = now.replace(hour=now.hour - now.hour % 4, minute=0, second=0, microsecond=0)
        month = (hour.replace(day=1, hour=0) + timedelta(days=32)).replace(day=1)
        return _json(
            {
                "subscription": True,
                "four_hour": _cap(usage, _FOUR_HOUR_CAP_USD, hour + timedelta(hours=4)),
                "monthly": _cap(usage, _MONTHLY_CAP_USD, month),
            }
        )

    def _warm_up(self, request: RecordedRequest) -> Answer:
        self._key(request.headers)
        row = self._state.table.chute(request.path.removeprefix(_WARMUP_PATH))
        if row is None:
            return Answer(404, detail("Chute not found, or does not belong to you"))
        self._state.warm_up(row)
        return _json({"chute_id": row.get("chute_id"), "status": "hot"})


def _record(scope: Scope, body: bytes) -> RecordedRequest:
    headers = Headers(scope["headers"])
    payload = parse_json(body)
    model = payload.get("model") if isinstance(payload, dict) else None
    return RecordedRequest(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        body=body,
        model=model if isinstance(model, str) else None,
        session_id=headers.get("x-session-id"),
        parent_session_id=headers.get("x-parent-session-id"),
        time=time.monotonic(),
    )


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Run `work`; cancel it when the client disconnects, all that `receive` can still tell."""
    working = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        disconnected.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)
    if not working.cancelled():
        working.result()


def _refusal(fault: str) -> RefusedError:
    """The refusal that a fault of the table makes."""
    return RefusedError(cast(Answer, FAULTS[fault].answer))


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value))


def _cap(usage: float, cap: float, reset_at: datetime) -> dict[str, object]:
    return {
        "usage": usage,
        "cap": cap,
        "remaining": max(0.0, cap - usage),
        "reset_at": reset_at.isoformat(),
    }
