"""A fake engine for instances of `ChutesOpenCodeLLM`: it echoes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.discovery import Fetched
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.engine_set import EngineSet
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.events import TextDelta
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Message, TextPart, Transcript, Usage
from chutes_opencode.runtime import Runtime
from chutes_opencode.settings import Settings

KEY = "cpk_unit.test.key.of.nobody"


class EchoEngine:
    """Echoes the prompt; "poor" has no balance, "slow" runs out of time, "wait" never ends.

    What "wait" has cost by then, stands in the books of the relay's.
    """

    name = "fake"

    def __init__(self) -> None:
        self.requests: list[PromptRequest] = []
        self.terms: list[Terms | None] = []
        self.began = threading.Event()
        self.ended = threading.Event()
        self.closed = 0

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        _accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        self.requests.append(request)
        self.terms.append(terms)
        if request.prompt == "poor":
            return Evidence(exchanges=(Exchange(402, body="no balance"),))
        if request.prompt == "slow":
            return Evidence(stopped="timeout")
        text = f"re: {request.prompt}"
        observe(TextDelta(text=text))
        if request.prompt == "wait":
            await self._wait(terms)
        turn = Message("assistant", (TextPart(text),), finish_reason="stop")
        exchange = Exchange(200, finish_reason="stop", usage=Usage(input=1, num_requests=1))
        return Evidence(Transcript("ses_1", (turn,)), (exchange,), returncode=0)

    async def _wait(self, terms: Terms | None) -> None:
        if terms is not None:
            books = Booking(terms, "ses_1").ledger
            entry = books.begin("ses_1", "m", at=0.0)
            books.finish(entry, at=1.0, usage=Usage(input=1, num_requests=1), error="cut")
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def forget(self, session_id: str) -> None:
        pass

    async def close(self) -> None:
        self.closed += 1


class OneEngine:
    """A set of engines that has one for all prompts."""

    def __init__(self, engine: Any, places: int, warning: str = "") -> None:
        self.engine = engine
        self._slots = asyncio.Semaphore(places)
        self._warning = warning

    def choose(self, *_args: object, **_options: object) -> str:
        return "fake"

    async def get(self, _name: str) -> Any:
        return self.engine

    def slots(self, _name: str) -> asyncio.Semaphore:
        return self._slots

    def take_warning(self) -> str:
        warning, self._warning = self._warning, ""
        return warning

    async def close(self) -> None:
        await self.engine.close()


def set_up_echo(folder: Path, monkeypatch: pytest.MonkeyPatch, warning: str = "") -> EchoEngine:
    """Give every instance this engine; nothing of the developer's environment is seen."""
    for name in ("CHUTES_API_KEY", "CHUTES_API_TOKEN_FILE", "OPENCODE_BIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:1/v1")
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(folder)
    made = EchoEngine()

    async def fetch(*_args: object, **_options: object) -> Fetched:
        return Fetched(
            (Model("m", price=Price(1.0, 1.0)),),
            ({"id": "m", "pricing": {"prompt": 1.0, "completion": 1.0}},),
        )

    def make(settings: Settings, provider: Provider, **_options: object) -> Runtime:
        cache = Cache(folder, provider.id, settings.base_url)
        catalog = ModelLookup(provider, settings.base_url, cache=cache, fetch=fetch)
        engines = cast("EngineSet", OneEngine(made, 2, warning))
        return Runtime(settings, provider, engines, catalog)

    monkeypatch.setattr(Runtime, "make", make)
    return made
