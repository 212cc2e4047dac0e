"""A provider whose answers, and whose time, a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.discovery import Fetched
from chutes_opencode.catalog.listing import Listing
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import parse_models
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.catalog.sync import SyncedList

T = TypeVar("T")

URL = "http://base/v1"
ACME = Provider(id="acme", name="Acme", default_models=("first", "second"))
DOWN = Fetched(problems=("down",))


def fetched(*ids: str, **fields: Any) -> Fetched:
    """What a fetch of these models brings."""
    parsed = parse_models([{"id": model_id} for model_id in ids])
    return Fetched(parsed.models, parsed.rows, **fields)


@dataclass
class Stage:
    """Gives its answers in order, the last one for ever; no answer: it never comes."""

    home: Path
    answers: list[Fetched] = field(default_factory=list)
    now: float = 1_000_000.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    logged: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def fetch(
        self, provider: Provider, base_url: str, key: str | None = None, *, etag: str | None = None
    ) -> Fetched:
        """Take the place of `fetch_models`."""
        self.asked.append({"base_url": base_url, "key": key, "etag": etag})
        await asyncio.sleep(0)
        if not self.answers:
            await asyncio.Event().wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Note what is logged."""
        self.logged.append((level, event, fields))

    @property
    def events(self) -> list[tuple[str, str]]:
        """The level and text of each line logged."""
        return [(level, event) for level, event, _ in self.logged]

    def lookup(self, provider: Provider = ACME, **options: Any) -> ModelLookup:
        """Make a look-up, as a process of its own would."""
        return ModelLookup(
            provider,
            URL,
            cache=Cache(self.home, provider.id, URL),
            clock=lambda: self.now,
            fetch=self.fetch,
            log=self.log,
            **options,
        )

    def synced(self, provider: Provider = ACME, **options: Any) -> SyncedList:
        """Make what a look-up rests on."""
        return SyncedList(
            provider,
            URL,
            cache=Cache(self.home, provider.id, URL),
            clock=lambda: self.now,
            fetch=self.fetch,
            log=self.log,
            **options,
        )


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Do something on an event loop, until nothing is left to do in the background."""

    async def main() -> T:
        result = await work()
        for _ in range(20):
            await asyncio.sleep(0)
        return result

    return asyncio.run(main())


def ids(listing: Listing) -> list[str]:
    """The ids of the models."""
    return [model.id for model in listing]


def filled(stage: Stage, *names: str, age: float = 0.0, **fields: Any) -> None:
    """Let a process that is gone again have fetched a list, some time ago."""
    stage.answers = [fetched(*names, **fields)]
    run(stage.lookup().refresh)
    stage.now += age
    stage.asked.clear()
    stage.logged.clear()
