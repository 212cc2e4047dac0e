"""A relay before the simulator, and a client that asks as opencode does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from chutes_opencode import Simulator
from chutes_opencode.catalog.models import Price
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.retry import RetryPolicy
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS
from tests.unit.relay.stage import Provider

# What the simulator's own models cost.
PRICE = Price(input=0.1, output=0.4, cache_read=0.01)
QUICK = RetryPolicy(base_wait_s=0.01, cold_wait_s=0.01)


@dataclass
class Prompt:
    """One prompt at the relay, and how it asks."""

    relay: Relay
    lease: Lease
    booking: Booking
    model: str
    session: str

    @property
    def url(self) -> str:
        return f"{self.relay.url}/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.lease.key}", "x-session-id": self.session}

    def body(self, text: str = "hello there", **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "stream": True, "messages": messages, **more}

    def ask(self, client: httpx.Client, text: str = "hello there", **more: Any) -> httpx.Response:
        return client.post(self.url, headers=self.headers, json=self.body(text, **more))

    def step(self, client: httpx.Client) -> httpx.Response:
        """Ask, and repeat the step as often as opencode would."""
        for _ in range(10):
            answer = self.ask(client)
            if "Overloaded" not in answer.text:
                return answer
        raise AssertionError("the step never ended")

    async def aask(
        self, client: httpx.AsyncClient, text: str = "hello there", **more: Any
    ) -> httpx.Response:
        return await client.post(self.url, headers=self.headers, json=self.body(text, **more))


def open_prompt(
    relay: Relay,
    lease: Lease,
    provider: Simulator | Provider,
    model: str,
    *,
    session: str = "ses_main",
    **changes: Any,
) -> Prompt:
    upstream = Upstream("chutes", provider.base_url, lambda: provider.api_token)
    plain: dict[str, Any] = {
        "upstream": upstream,
        "prices": {model: PRICE},
        "model": model,
        "policy": QUICK,
        "idle_seconds": WAIT_SECONDS,
    }
    booking = lease.open(Terms(**{**plain, **changes}), session)
    return Prompt(relay, lease, booking, model, session)


def new_client() -> httpx.Client:
    return httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS)


def new_async_client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=PROCESS_SECONDS, limits=limits)
