"""A direct engine before a provider of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.events import Event
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Message, TextPart, Usage
from tests.unit.relay.stage import (
    KEY,
    MODEL,
    OTHER,
    PRICE,
    QUICK,
    Provider,
)

ANSWER = Message(
    "assistant",
    (TextPart("Hello"),),
    Usage(input=10, output=4, num_turns=1),
    cost_usd=(10 * PRICE.input + 4 * PRICE.output) / 1e6,
    finish_reason="stop",
    model=MODEL,
)


@dataclass
class Play:
    """An engine before a provider."""

    provider: Provider
    engine: DirectEngine
    events: list[Event] = field(default_factory=list)
    judged: list[Evidence] = field(default_factory=list)

    def terms(self, **changes: Any) -> Terms:
        plain: dict[str, Any] = {
            "upstream": Upstream("stage", self.provider.base_url, lambda: KEY),
            "prices": {MODEL: PRICE, OTHER: PRICE},
            "model": MODEL,
            "policy": QUICK,
        }
        return Terms(**plain | changes)

    async def arun(
        self, *, terms: Terms | None = None, accept: bool = True, **fields: Any
    ) -> Evidence:
        def judge(evidence: Evidence) -> bool:
            self.judged.append(evidence)
            return accept

        request = PromptRequest(**{"prompt": "hello", "model": MODEL} | fields)
        return await self.engine.run(request, self.events.append, judge, terms or self.terms())

    def run(self, **arguments: Any) -> Evidence:
        return asyncio.run(self.arun(**arguments))

    def told(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


MakePlay = Callable[..., Play]


def messages(play: Play, number: int = -1) -> list[Any]:
    rows: list[Any] = play.provider.asked[number].body["messages"]
    return rows
