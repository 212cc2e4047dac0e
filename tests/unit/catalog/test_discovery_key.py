"""The key goes to the provider's origin and to nobody else, whatever a server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from chutes_opencode.catalog import discovery
from chutes_opencode.catalog.discovery import Fetched, fetch_models
from chutes_opencode.catalog.providers import Provider
from tests.unit.catalog.odd_server import OddServer, answer, rows

KEY = "sk-unit.test.key.of.nobody"
PROVIDER = Provider(id="acme", name="Acme")

Start = Callable[..., OddServer]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "BACKOFF_SECONDS", (0.0, 0.0))


def fetch(server: OddServer | str, key: str | None = KEY, **options: Any) -> Fetched:
    base_url = server if isinstance(server, str) else server.base_url
    provider = options.pop("provider", PROVIDER)
    return asyncio.run(fetch_models(provider, base_url, key, **options))


def ids(fetched: Fetched) -> list[str]:
    return [model.id for model in fetched.models]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_and_the_list_asked_for_without_it(
    odd_server: Start, status: int
) -> None:
    server = odd_server(answer({"detail": "Invalid token."}, status=status), answer(rows("a")))

    fetched = fetch(server)

    assert ids(fetched) == ["a"]
    assert fetched.problems == (f"the key was refused (HTTP {status})",)
    assert fetched.row_problems == ()
    assert ["authorization" in asked.headers for asked in server.asked] == [True, False]


def test_a_list_that_needs_a_good_key_is_not_to_be_had_with_a_bad_one(odd_server: Start) -> None:
    server = odd_server(answer(status=401))

    fetched = fetch(server)

    assert fetched.problems == (
        "the key was refused (HTTP 401)",
        f"no model list from {server.base_url}: HTTP 401 Unauthorized",
    )
    assert len(server.asked) == 2


@pytest.mark.parametrize("key", ["two words", "new\r\nline: x", "schlüssel-schlüssel"])
def test_a_key_that_cannot_be_one_is_not_sent_and_not_shown(odd_server: Start, key: str) -> None:
    server = odd_server(answer(rows("a")))

    fetched = fetch(server, key)

    assert ids(fetched) == ["a"]
    (problem,) = fetched.problems
    assert problem.startswith("the key has ")
    assert key not in problem
    assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_origin_is_followed_with_the_key(
    odd_server: Start, status: int
) -> None:
    server = odd_server(answer(status=status, location="/v2/list"), answer(rows("a")))

    assert ids(fetch(server)) == ["a"]
    assert [asked.path for asked in server.asked] == ["/v1/models", "/v2/list"]
    assert server.asked[1].headers["authorization"] == f"Bearer {KEY}"


def test_redirects_come_to_an_end(odd_server: Start) -> None:
    server = odd_server(answer(status=302, location="/v1/models"))

    (problem,) = fetch(server).problems

    assert problem.endswith("more than 3 redirects")
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "place",
    [
        "{thief}/v1/models",
        "//{thief_host}/v1/models",
        "http://user:word@{host}/v1/models",
        "http://{host}@{thief_host}/",
        "http://{host}\\@{thief_host}/",
        "http://{thief_host}#@{host}/",
        "https://{host}/v1/models",
        "http://localhost:{port}/v1/models",
        "http://thief.invalid/v1/models",
        "ftp://{host}/v1/models",
    ],
)
@pytest.mark.parametrize("auth", ["bearer", "x-api-key", "x-goog-api-key"])
def test_the_key_never_goes_to_another_origin(odd_server: Start, place: str, auth: Any) -> None:
    thief = odd_server(answer(rows("stolen")))
    server = odd_server(answer(rows("unused")))
    host, thief_host = server.url.removeprefix("http://"), thief.url.removeprefix("http://")
    location = place.format(
        thief=thief.url, thief_host=thief_host, host=host, port=host.rsplit(":", 1)[-1]
    )
    server.answers[:] = [answer(status=302, location=location)]

    fetched = fetch(server, provider=Provider(id="x", auth=auth))

    assert thief.asked == []
    assert fetched.models == ()
    (problem,) = fetched.problems
    assert "it redirects to" in problem
    assert KEY not in problem
    assert "word" not in problem
    assert len(server.asked) == 1


def test_a_redirect_to_what_is_no_url_is_told(odd_server: Start) -> None:
    (problem,) = fetch(odd_server(answer(status=302, location="http://[::1/"))).problems

    assert "Invalid URL in location header" in problem


def test_a_key_that_a_server_echoes_is_masked_in_what_is_told(odd_server: Start) -> None:
    location = f"https://{KEY}.thief.invalid/"

    fetched = fetch(odd_server(answer(status=302, location=location)))

    assert KEY not in str(fetched)


# --- the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "proxied", "verified"),
    [
        ("http://127.0.0.1:8000/v1", False, False),
        ("http://localhost/v1", False, False),
        ("http://[::1]:1/v1", False, False),
        ("https://127.9.9.9/v1", False, True),
        ("https://provider.test/v1", True, True),
        ("http://10.0.0.1/v1", True, True),
    ],
)
def test_loopback_traffic_never_goes_through_a_proxy_and_all_other_is_verified(
    monkeypatch: pytest.MonkeyPatch, base_url: str, proxied: bool, verified: bool
) -> None:
    made: list[dict[str, Any]] = []

    def client(**options: Any) -> httpx.AsyncClient:
        made.append(options)
        transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=[{"id": "a"}]))
        return real(transport=transport)

    real = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", client)

    assert ids(fetch(base_url)) == ["a"]
    (options,) = made
    assert (options["trust_env"], options["verify"]) == (proxied, verified)
    assert options["follow_redirects"] is False


def test_a_proxy_that_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")

    (problem,) = fetch("https://provider.test/v1").problems

    assert "proxy or certificates of the environment: " in problem
