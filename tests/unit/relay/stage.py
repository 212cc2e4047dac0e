"""A stage for the relay: a provider that answers as it is told, a relay, and a client that asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from chutes_opencode.catalog.models import Price
from chutes_opencode.events import Event
from chutes_opencode.loopback import EXTENSION, Receive, Scope, Send, serve
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.limiter import LimiterStats
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.retry import RetryPolicy
from tests.patience import WAIT_SECONDS

KEY = "cpk_stage_0123456789abcdef"
MODEL = "org/model"
OTHER = "org/other"
PRICE = Price(input=1.0, output=2.0, cache_read=0.5)
QUICK = RetryPolicy(base_wait_s=0.01, cold_wait_s=0.01, rate_limit_wait_s=0.01)
MAIN = "ses_main"
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"model": MODEL, "choices": [choice], **more})


DONE = b"data: [DONE]\n\n"
# As providers begin; what has a role is not gathered with what has none, so it comes byte for byte.
FIRST = event({"model": MODEL, "choices": [{"delta": {"role": "assistant", "content": "Hel"}}]})
GOOD = (
    FIRST,
    chunk("lo"),
    chunk(finish="stop"),
    event({"model": MODEL, "choices": [], "usage": USAGE}),
    DONE,
)
BROKEN = (FIRST, chunk("lo"))


@dataclass(slots=True)
class Asked:
    """A request as the provider saw it."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Reply:
    """What an answer of the provider has to write with."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._endings = scope["extensions"][EXTENSION]

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        pairs = {"content_type": "text/event-stream", **headers}
        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in pairs.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def close(self) -> None:
        self._endings["close"]()

    def reset(self) -> None:
        self._endings["reset"]()


Answer = Callable[[Reply], Awaitable[None]]


def stream(*pieces: bytes, pause_s: float = 0.0, **headers: str) -> Answer:
    async def answer(reply: Reply) -> None:
        await reply.start(200, headers)
        for piece in pieces:
            await asyncio.sleep(pause_s)
            await reply.write(piece)
        await reply.write(b"", more=False)

    return answer


def stalling(*pieces: bytes) -> Answer:
    """Send these, then nothing, for ever."""

    async def answer(reply: Reply) -> None:
        await reply.start(200, {})
        for piece in pieces:
            await reply.write(piece)
        await asyncio.Event().wait()

    return answer


def closing(*pieces: bytes, reset: bool = False) -> Answer:
    async def answer(reply: Reply) -> None:
        await reply.start(200, {})
        for piece in pieces:
            await reply.write(piece)
        # In the middle means: after what came before was read, which a reset would discard.
        await asyncio.sleep(0.5 if reset else 0.05)
        (reply.reset if reset else reply.close)()

    return answer


async def nothing(_reply: Reply) -> None:
    await asyncio.Event().wait()


def error(status: int, detail: object, **headers: str) -> Answer:
    return page(status, json.dumps({"detail": detail}), "application/json", **headers)


def page(status: int, text: str, content_type: str, **headers: str) -> Answer:
    async def answer(reply: Reply) -> None:
        await reply.start(status, {"content_type": content_type, **headers})
        await reply.write(text.encode(), more=False)

    return answer


class Provider:
    """A provider on 127.0.0.1 that gives its answers in turn, the last one again and again."""

    api_token = KEY

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [stream(*GOOD)]
        self.asked: list[Asked] = []
        self.in_flight = 0
        self._server = serve(self._answer, grace_seconds=0)
        self.base_url = f"{self._server.url}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append(Asked(scope["path"], headers, bytes(body)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.in_flight += 1
        work = asyncio.ensure_future(answer(Reply(scope, send)))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.in_flight -= 1
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


@dataclass
class Stage:
    """A provider, a relay, one lease, and a client."""

    provider: Provider
    relay: Relay
    lease: Lease
    http: httpx.Client
    events: list[Event] = field(default_factory=list)

    def terms(self, **changes: Any) -> Terms:
        plain: dict[str, Any] = {
            "upstream": Upstream("stage", self.provider.base_url, lambda: KEY),
            "prices": {MODEL: PRICE, OTHER: PRICE},
            "model": MODEL,
            "policy": QUICK,
            "idle_seconds": WAIT_SECONDS,
        }
        return Terms(**{**plain, **changes})

    def open(self, session: str | None = MAIN, **changes: Any) -> Booking:
        return self.lease.open(self.terms(**changes), session, self.events.append)

    def limiter(self) -> LimiterStats:
        """Tell what the limiter of the provider's account knows."""
        limiters = self.relay.stats().limiters
        return next(known for name, known in limiters.items() if self.provider.base_url in name)

    def headers(
        self, session: str | None = MAIN, parent: str | None = None, **more: str
    ) -> dict[str, str]:
        named = {"x-session-id": session, "x-parent-session-id": parent}
        told = {name: value for name, value in named.items() if value is not None}
        return {"authorization": f"Bearer {self.lease.key}", **told, **more}

    def ask(
        self,
        session: str | None = MAIN,
        parent: str | None = None,
        *,
        path: str = "/chat/completions",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Ask as opencode does."""
        plain = {
            "model": MODEL,
            "stream": True,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "hello"}],
        }
        return self.http.post(
            self.relay.url + path,
            headers={**self.headers(session, parent), **(headers or {})},
            json={**plain, **body},
        )


def set_up(stack: ExitStack, relay: Relay, *answers: Answer) -> Stage:
    provider = stack.enter_context(Provider(*answers))
    lease = stack.enter_context(relay.lease())
    http = stack.enter_context(httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS))
    return Stage(provider, relay, lease, http)


def whole(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.content.endswith(DONE)


def ended(answer: httpx.Response) -> bool:
    """Tell whether an answer makes opencode stop."""
    return "ended by chutes-opencode" in answer.text


def repeats(answer: httpx.Response) -> bool:
    """Tell whether an answer makes opencode repeat the step."""
    return answer.status_code == 200 and "Overloaded" in answer.text
