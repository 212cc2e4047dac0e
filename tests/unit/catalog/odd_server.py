"""A provider's server on this machine that answers as odd as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Answer = Callable[[Send], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass
class OddServer:
    """Gives its answers in order, the last one for ever."""

    answers: list[Answer]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.asked.append(Asked(scope["path"], scope["query_string"].decode(), headers))
        await receive()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await answer(send)

    @property
    def base_url(self) -> str:
        """The provider's root."""
        return f"{self.url}/v1"


def answer(
    content: object = b"", *, status: int = 200, kind: str = "application/json", **headers: str
) -> Answer:
    """Make an answer: bytes as they are, anything else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    told = {"content-type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}

    async def give(send: Send) -> None:
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return give


def rows(*ids: str) -> dict[str, Any]:
    """The body of a model list."""
    return {"object": "list", "data": [{"id": model_id} for model_id in ids]}


async def silence(_send: Send) -> None:
    """Say nothing, for as long as the client listens."""
    await asyncio.Event().wait()


async def drip(send: Send) -> None:
    """Begin well, then a byte now and then, so that no single read ever takes long."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.01)
