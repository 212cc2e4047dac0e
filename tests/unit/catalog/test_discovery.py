"""One GET for the model list: trouble is told, the key goes nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from chutes_opencode.catalog import discovery
from chutes_opencode.catalog.discovery import Listing, fetch_models

BASE = "https://provider.test/v1"
Handler = Callable[[httpx.Request], httpx.Response]


class Provider:
    """Takes the place of the network; notes requests and how the client was made."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[httpx.Request] = []
        self.options: dict[str, object] = {}

    def client(self, **options: object) -> httpx.AsyncClient:
        self.options = options

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return self.handler(request)

        return httpx.AsyncClient(
            transport=httpx.MockTransport(handle),
            follow_redirects=bool(options.get("follow_redirects")),
        )


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Provider]:
    class Httpx:
        HTTPError = httpx.HTTPError

    def make(handler: Handler) -> Provider:
        made = Provider(handler)
        monkeypatch.setattr(Httpx, "AsyncClient", made.client, raising=False)
        monkeypatch.setattr(discovery, "httpx", Httpx)
        return made

    return make


MakeProvider = Callable[[Handler], Provider]


def fetch(base_url: str = BASE, token: str | None = "the-key") -> Listing:
    return asyncio.run(fetch_models(base_url, token))


def test_the_list_is_asked_for_with_the_key(provider: MakeProvider) -> None:
    made = provider(lambda _request: httpx.Response(200, json={"data": [{"id": "a"}, {}]}))

    listing = fetch()

    (request,) = made.requests
    assert str(request.url) == f"{BASE}/models"
    assert request.headers["authorization"] == "Bearer the-key"
    assert [model.id for model in listing.models] == ["a"]
    assert listing.problems == ("row 1 has no id and was skipped",)


def test_the_list_is_public(provider: MakeProvider) -> None:
    made = provider(lambda _request: httpx.Response(200, json={"data": []}))

    assert fetch(token=None) == Listing()
    assert "authorization" not in made.requests[0].headers


def test_a_redirect_is_not_followed_since_it_could_carry_the_key_away(
    provider: MakeProvider,
) -> None:
    made = provider(
        lambda _request: httpx.Response(302, headers={"location": "https://thief.test/models"})
    )

    listing = fetch()

    assert [request.url.host for request in made.requests] == ["provider.test"]
    assert listing.models == ()
    assert len(listing.problems) == 1


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401, json={"detail": "Invalid token."}),
        httpx.Response(429, html="<html>"),
        httpx.Response(503),
        httpx.Response(200, html="<html>"),
        httpx.Response(200, json={"error": "x"}),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"[" * 100_000),
    ],
)
def test_any_other_answer_is_a_problem(provider: MakeProvider, response: httpx.Response) -> None:
    provider(lambda _request: response)

    listing = fetch()

    assert listing.models == ()
    (problem,) = listing.problems
    assert problem.startswith(f"no model list from {BASE}: ")
    assert "the-key" not in problem


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_no_answer_is_a_problem(provider: MakeProvider, error: Exception) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    provider(fail)

    assert fetch().problems == (f"no model list from {BASE}: {error}",)


@pytest.mark.parametrize(
    ("base_url", "proxied"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]:1/v1", False),
        ("http://127.9.9.9/v1", False),
        (BASE, True),
        ("http://10.0.0.1/v1", True),
    ],
)
def test_loopback_traffic_never_goes_through_a_proxy(
    provider: MakeProvider, base_url: str, proxied: bool
) -> None:
    made = provider(lambda _request: httpx.Response(200, json=[]))

    fetch(base_url)

    assert made.options["trust_env"] is proxied
    assert made.options["timeout"] == discovery.FETCH_SECONDS
