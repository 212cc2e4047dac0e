"""One GET for the model list, from servers of every odd kind: trouble is told, the key stays."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode.catalog import discovery
from chutes_opencode.catalog.discovery import EMPTY, Fetched, fetch_models
from chutes_opencode.catalog.providers import Provider
from tests.unit.catalog.odd_server import Answer, OddServer, answer, drip, rows, silence

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


# --- a list --------------------------------------------------------------------------------------


def test_the_list_is_asked_for_with_the_key(odd_server: Start) -> None:
    server = odd_server(answer(rows("a", "b/c"), etag='"v1"'))

    fetched = fetch(server)

    (asked,) = server.asked
    assert asked.path == "/v1/models"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert ids(fetched) == ["a", "b/c"]
    assert fetched.rows == ({"id": "a"}, {"id": "b/c"})
    assert (fetched.problems, fetched.etag, fetched.not_modified) == ((), '"v1"', False)
    assert fetched.seconds > 0


def test_a_list_is_asked_for_without_a_key_too(odd_server: Start) -> None:
    server = odd_server(answer(rows("a")))

    assert ids(fetch(server, None)) == ["a"]
    assert "authorization" not in server.asked[0].headers


def test_path_header_and_further_headers_are_the_providers(odd_server: Start) -> None:
    server = odd_server(answer(rows("a")))
    provider = Provider(
        id="x", auth="x-api-key", discovery_path="/list?limit=9", headers={"a-version": "7"}
    )

    fetch(server, provider=provider)

    (asked,) = server.asked
    assert (asked.path, asked.query) == ("/v1/list", "limit=9")
    assert (asked.headers["x-api-key"], asked.headers["a-version"]) == (KEY, "7")
    assert "authorization" not in asked.headers


def test_a_google_key_goes_in_its_own_header(odd_server: Start) -> None:
    server = odd_server(answer({"models": [{"name": "models/gem"}]}))

    fetch(server, provider=Provider(id="g", auth="x-goog-api-key"))

    assert server.asked[0].headers["x-goog-api-key"] == KEY


def test_a_provider_without_a_list_is_not_asked(odd_server: Start) -> None:
    server = odd_server(answer(rows("a")))

    fetched = fetch(server, provider=Provider(id="p", name="Pplx", discovery_path=None))

    assert fetched.problems == (f"no model list from {server.base_url}: Pplx offers none",)
    assert server.asked == []


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "application/octet-stream", "?"])
def test_a_wrong_content_type_does_not_matter_when_it_is_a_list(
    odd_server: Start, kind: str
) -> None:
    assert ids(fetch(odd_server(answer(rows("a"), kind=kind)))) == ["a"]


def test_a_packed_list_is_unpacked(odd_server: Start) -> None:
    body = gzip.compress(json.dumps(rows("a")).encode())

    assert ids(fetch(odd_server(answer(body, content_encoding="gzip")))) == ["a"]


def test_bad_rows_are_told_and_cost_no_good_one(odd_server: Start) -> None:
    fetched = fetch(odd_server(answer({"data": [{}, {"id": "a"}, 7]})))

    assert ids(fetched) == ["a"]
    assert len(fetched.problems) == 2
    assert fetched.row_problems == fetched.problems


def test_five_thousand_rows_are_read(odd_server: Start) -> None:
    server = odd_server(answer(rows(*(f"maker/model-{number}" for number in range(5000)))))

    assert len(fetch(server).models) == 5000


def test_twenty_megabytes_are_read(odd_server: Start) -> None:
    row = {"id": "a", "padding": "x" * 20_000_000}

    assert ids(fetch(odd_server(answer({"data": [row]})))) == ["a"]


# --- unchanged -----------------------------------------------------------------------------------


def test_a_list_that_has_not_changed_is_not_sent_again(odd_server: Start) -> None:
    server = odd_server(answer(status=304))

    fetched = fetch(server, etag='"v1"')

    assert server.asked[0].headers["if-none-match"] == '"v1"'
    assert (fetched.not_modified, fetched.etag, fetched.problems) == (True, '"v1"', ())


def test_not_modified_without_a_mark_is_a_problem(odd_server: Start) -> None:
    (problem,) = fetch(odd_server(answer(status=304))).problems

    assert problem.endswith("HTTP 304 Not Modified")


@pytest.mark.parametrize("mark", ["", "x" * 300, "bell\x07", "ümlaut"])
def test_a_mark_that_cannot_be_sent_back_is_not_kept_and_not_sent(
    odd_server: Start, mark: str
) -> None:
    server = odd_server(answer(rows("a"), etag=mark.replace("\x07", "é")))

    assert fetch(server, etag=mark).etag is None
    assert "if-none-match" not in server.asked[0].headers


# --- no list -------------------------------------------------------------------------------------

HALF = json.dumps(rows("a", "b")).encode()[:-20]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answer(b"<!DOCTYPE html><p>hello", kind="text/html"), "is a web page"),
        (answer(b"<html>", kind="application/json"), "is a web page"),
        (answer(b"welcome", kind="text/html; charset=x"), "is a web page"),
        (answer(HALF), "(application/json) is no whole JSON: "),
        (answer(b"models: a", kind="text/plain"), "(text/plain) is no whole JSON: "),
        (answer(b"\xff\xfe\xfa"), "is no whole JSON: "),
        (answer(b"[" * 100_000), "is no whole JSON: "),
        (answer(b""), "the answer is empty"),
        (answer(b" \n "), "the answer is empty"),
        (answer({"error": "x"}), "holds no list of models"),
        (answer(b"7"), "holds no list of models"),
        (answer(rows("a"), status=206), "HTTP 206 Partial Content"),
        (answer({"detail": "gone"}, status=404), "HTTP 404 Not Found"),
        (answer(b"<html>", status=403, kind="text/html"), "HTTP 403 Forbidden (an HTML page)"),
        (answer(rows("a"), content_encoding="gzip"), "DecodingError"),
        (answer(status=302), "HTTP 302 Found"),
    ],
)
def test_what_is_no_list_is_told_as_what_it_is(
    odd_server: Start, given: Answer, words: str
) -> None:
    server = odd_server(given)

    fetched = fetch(server, None)

    assert fetched.models == ()
    (problem,) = fetched.problems
    assert problem.startswith(f"no model list from {server.base_url}: ")
    assert words in problem


@pytest.mark.parametrize("body", [rows(), []])
def test_an_empty_list_is_told(odd_server: Start, body: object) -> None:
    assert fetch(odd_server(answer(body))).problems == (EMPTY,)


def test_a_body_beyond_all_bounds_is_not_read_to_its_end(
    odd_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_BODY_BYTES", 1 << 20)
    packed = gzip.compress(b" " * (4 << 20))

    for given in (answer(b" " * (2 << 20)), answer(packed, content_encoding="gzip")):
        (problem,) = fetch(odd_server(given)).problems
        assert problem.endswith("the answer is larger than 1 MiB")


@pytest.mark.parametrize("given", [silence, drip])
def test_the_time_is_bounded_whatever_the_server_does(odd_server: Start, given: Answer) -> None:
    server = odd_server(given)

    fetched = fetch(server, seconds=0.3)

    assert fetched.problems == (
        f"no model list from {server.base_url}: no whole answer within 0.3 s",
    )
    assert fetched.seconds >= 0.3


def test_a_url_that_is_none_is_told() -> None:
    (problem,) = fetch("http://[::1/v1").problems

    assert problem.startswith("no model list from http://[::1/v1: ")


# --- once more -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        answer(status=500),
        answer(b"<html>", status=503, kind="text/html"),
        answer(status=429),
        answer(status=503, retry_after="1"),
    ],
)
def test_what_may_pass_is_asked_three_times(odd_server: Start, given: Answer) -> None:
    server = odd_server(given, given, answer(rows("a")))

    assert ids(fetch(server)) == ["a"]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("given", "times"),
    [
        (answer(status=500), 3),
        (answer(status=404), 1),
        pytest.param(answer(b"<html>", status=429, kind="text/html"), 1, id="the edge bans"),
        pytest.param(answer(status=503, retry_after="60"), 1, id="told to stay away"),
        (answer({"error": 1}), 1),
    ],
)
def test_no_answer_is_asked_for_more_often_than_it_helps(
    odd_server: Start, given: Answer, times: int
) -> None:
    server = odd_server(given)

    assert len(fetch(server).problems) == 1
    assert len(server.asked) == times


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        fetched = fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")

    assert "ConnectError" in fetched.problems[0]


def test_a_connection_that_breaks_is_made_again(odd_server: Start) -> None:
    async def break_off(send: Any) -> None:
        headers = [(b"content-length", b"999")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionAbortedError

    server = odd_server(break_off, answer(rows("a")))

    assert ids(fetch(server)) == ["a"]
