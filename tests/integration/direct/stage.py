"""A direct engine before the simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chutes_opencode import (
    QueryResult,
    Simulator,
)
from chutes_opencode.call import Call, CallRunner
from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.events import Event
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import PromptRequest
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.verdict import Scene, Verdict, judge
from tests.patience import WAIT_SECONDS

# What the simulator's own models cost.
PRICE = Price(input=0.1, output=0.4, cache_read=0.01)
QUICK = RetryPolicy(base_wait_s=0.01, cold_wait_s=0.01)
DESCRIPTORS = "/dev/fd"
ATTEMPTS = 2
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


@dataclass
class Stage:
    """An engine, its relay, and a simulator."""

    simulator: Simulator
    relay: Relay
    engine: DirectEngine
    events: list[Event] = field(default_factory=list)

    def terms(self, model: str, **changes: Any) -> Terms:
        plain: dict[str, Any] = {
            "upstream": Upstream("chutes", self.simulator.base_url, self._key),
            "prices": {model: PRICE},
            "model": model,
            "policy": QUICK,
            "idle_seconds": WAIT_SECONDS,
        }
        return Terms(**plain | changes)

    def _key(self) -> str:
        return self.simulator.api_token

    async def arun(
        self,
        prompt: str = "hello there",
        model: str = "sim/echo",
        *,
        changes: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Evidence:
        request = PromptRequest(prompt, model, **fields)
        terms = self.terms(model, **changes or {})
        return await self.engine.run(request, self.events.append, lambda _seen: True, terms)

    def run(self, *arguments: str, **fields: Any) -> Evidence:
        return asyncio.run(self.arun(*arguments, **fields))

    def call(self, prompt: str, model: str, **fields: Any) -> QueryResult:
        """Carry a whole call out, its attempts and its judgement included."""
        call = Call(
            PromptRequest(prompt, model),
            self.terms(model, tries_left=QUICK.retries),
            price=PRICE,
            policy=QUICK,
            **fields,
        )

        async def carry_out() -> QueryResult:
            slots = asyncio.Semaphore(1)
            return await CallRunner(call, self.engine, slots, self.events.append).run()

        return asyncio.run(carry_out())

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(r.body) for r in self.simulator.requests if r.method == "POST"]

    def billed(self) -> float:
        """End the simulator: then its bill is whole, with what was cut."""
        self.simulator.stop()
        return self.simulator.bill.total.cost_usd


MakeStage = Callable[..., Stage]


def verdict(evidence: Evidence) -> Verdict:
    return judge(
        evidence, price=PRICE, scene=Scene(datetime.now(UTC)), timeout_seconds=WAIT_SECONDS
    )
