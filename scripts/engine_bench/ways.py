"""The ways to have a prompt answered that are compared; each runs in a worker of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from chutes_opencode import ChutesOpenCodeLLM, Settings, load_settings
from scripts.bench_prompt import SeedsWay
from scripts.engine_bench.opencode_server import (
    AGENT,
    DENIED,
    PROVIDER,
    OpenCodeServer,
    running_server,
)
from scripts.engine_bench.upstream import FAST, SLOW, Upstream

SYSTEM = "You are a helpful assistant."
_WORDS = "The quick brown fox jumps over the lazy dog. "
OK = 200
_LARGEST = 9000  # of the numbers that are asked about: the answer is one chunk of the stream


@dataclass(frozen=True, slots=True)
class Place:
    """What a way is given.

    Attributes:
        upstream: The simulator.
        binary: The opencode binary.
        folder: A folder of its own.
    """

    upstream: Upstream
    binary: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt.

    Attributes:
        number: Tells it from the others.
        model: FAST or SLOW.
        tools: Whether the agent has opencode's own tools.
    """

    number: int
    model: str = FAST
    tools: bool = False

    @property
    def text(self) -> str:
        """The user's message."""
        if self.model == SLOW:
            return f"{self.number}: {_WORDS * 5}".strip()
        return f"What is {self.number % _LARGEST} + 25?"

    @property
    def answer(self) -> str:
        """What the simulator says to it."""
        return self.text if self.model == SLOW else str(self.number % _LARGEST + 25)


Ask = Callable[[Question], Awaitable[str]]
Way = Callable[[Place], AbstractAsyncContextManager[Ask]]


@asynccontextmanager
async def seeds_way(place: Place) -> AsyncIterator[Ask]:
    """Have one `opencode run` and one `opencode export` for each prompt."""
    seed = SeedsWay(place.binary, place.upstream, place.folder)
    yield lambda question: asyncio.to_thread(seed.prompt, question.text)


def settings_of(place: Place) -> Settings:
    """Return the settings of our engines there; nothing of this machine's own is read or left."""
    return load_settings(
        base_url=place.upstream.base_url,
        api_token=place.upstream.api_token,
        opencode_bin=str(place.binary),
        home=place.folder / "home",
        log_level="error",
    )


@asynccontextmanager
async def engine(place: Place, name: str) -> AsyncIterator[Ask]:
    """Have one of our engines answer, as a caller uses it."""
    settings = settings_of(place)
    instances: dict[tuple[str, bool], ChutesOpenCodeLLM] = {}

    async def ask(question: Question) -> str:
        kind = (question.model, question.tools)
        if kind not in instances:
            instances[kind] = ChutesOpenCodeLLM(
                question.model, engine=name, builtin_tools=question.tools, settings=settings
            )
        result = await instances[kind].aprompt(question.text)
        return result.raise_for_error().result

    try:
        yield ask
    finally:
        for llm in instances.values():
            await asyncio.to_thread(llm.close)


@asynccontextmanager
async def raw(place: Place) -> AsyncIterator[Ask]:
    """Talk to `opencode serve` itself, which talks to the simulator itself: its limit."""
    async with (
        running_server(place.upstream, place.binary, place.folder) as server,
        _clients(server.headers) as taken,
    ):

        async def ask(question: Question) -> str:
            async with taken() as client:
                return await _ask_opencode(client, server, question)

        yield ask


async def _ask_opencode(
    client: httpx.AsyncClient, server: OpenCodeServer, question: Question
) -> str:
    """Use a session for one prompt, with as few requests as that takes."""
    rules = [] if question.tools else DENIED
    made = await client.post(server.new_session, json={"title": "prompt", "permission": rules})
    session = f"{server.url}/session/{made.raise_for_status().json()['id']}"
    message = {
        "agent": AGENT,
        "model": {"providerID": PROVIDER, "modelID": question.model},
        "parts": [{"type": "text", "text": question.text}],
    }
    answer = await client.post(f"{session}/message", json=message)
    parts = answer.raise_for_status().json()["parts"]
    (await client.delete(session)).raise_for_status()
    return "".join(part["text"] for part in parts if part["type"] == "text")


@asynccontextmanager
async def bare(place: Place) -> AsyncIterator[Ask]:
    """Send the model request alone, by one httpx client for all, as most would write it."""
    async with _client(_model_headers(place)) as client:
        url = f"{place.upstream.base_url}/chat/completions"
        yield lambda question: _ask_model(client, url, question)


@asynccontextmanager
async def lean(place: Place) -> AsyncIterator[Ask]:
    """Send the model request alone, by a client for each prompt at once: the limit of all."""
    url = f"{place.upstream.base_url}/chat/completions"
    async with _clients(_model_headers(place)) as taken:

        async def ask(question: Question) -> str:
            async with taken() as client:
                return await _ask_model(client, url, question)

        yield ask


def _model_headers(place: Place) -> dict[str, str]:
    token = place.upstream.api_token
    return {"authorization": f"Bearer {token}", "content-type": "application/json"}


async def _ask_model(client: httpx.AsyncClient, url: str, question: Question) -> str:
    """Read the stream as it comes; of what it says, only look whether the answer is in it."""
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question.text},
    ]
    usage = {"include_usage": True}
    body = {"model": question.model, "messages": messages, "stream": True, "stream_options": usage}
    async with client.stream("POST", url, content=json.dumps(body)) as answer:
        data = b"".join([chunk async for chunk in answer.aiter_bytes()])
    wanted = "[DONE]" if question.model == SLOW else f'"content":"{question.answer}"'
    if answer.status_code != OK or wanted.encode() not in data or b"[DONE]" not in data:
        raise RuntimeError(f"no whole answer: {answer.status_code} {data[-200:]!r}")
    return question.answer


def _client(headers: dict[str, str]) -> httpx.AsyncClient:
    # Connections are kept between the rounds: to make them anew is no part of a prompt.
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
    )
    return httpx.AsyncClient(
        headers=headers, limits=limits, timeout=None, trust_env=False, verify=False
    )


Taken = Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def _clients(headers: dict[str, str]) -> AsyncIterator[Taken]:
    """Give each prompt a client of its own, used again.

    httpx's pool looks at all its connections whenever a request begins or ends: with one client
    for 64 prompts at once that takes eight times as long as the requests.
    """
    async with AsyncExitStack() as stack:
        idle: list[httpx.AsyncClient] = []

        @asynccontextmanager
        async def taken() -> AsyncIterator[httpx.AsyncClient]:
            client = idle.pop() if idle else await stack.enter_async_context(_client(headers))
            try:
                yield client
            finally:
                idle.append(client)

        yield taken


WAYS: dict[str, Way] = {
    "seed": seeds_way,
    "run": partial(engine, name="run"),
    "raw": raw,
    "serve": partial(engine, name="serve"),
    "bare": bare,
    "lean": lean,
    "direct": partial(engine, name="direct"),
}
"""Name, and what has its prompts answered."""
