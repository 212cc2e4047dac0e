"""Fetch a provider's model list: one GET, bounded in time, size and in whom it tells the key.

Trouble is told in the answer, not raised. Nothing that a server does makes the key go anywhere
but to the scheme, host and port of the base URL.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from chutes_opencode.addresses import is_loopback
from chutes_opencode.catalog.models import Model, Parsed, parse_models
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.credentials import token_flaw
from chutes_opencode.http_answer import describe_status, retry_after_seconds
from chutes_opencode.masking import mask, register_secret

FETCH_SECONDS = 10.0
CONNECT_SECONDS = 4.0  # an address that swallows packets leaves time for a second attempt
BACKOFF_SECONDS = (0.2, 0.6)  # one attempt more than pauses
LONGEST_RETRY_AFTER = 1.0
MAX_REDIRECTS = 3
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_ETAG_LENGTH = 256
EMPTY = "the provider lists no models"
KEY_REFUSED = "the key was refused"

# Name of the header, and what stands before the key.
_AUTH_HEADERS = {
    "bearer": ("Authorization", "Bearer "),
    "x-api-key": ("x-api-key", ""),
    "x-goog-api-key": ("x-goog-api-key", ""),
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a GET of the model list brought.

    Attributes:
        models: The models; empty when the list could not be had, or has not changed.
        rows: The rows that they were read from, as they came; for the cache.
        problems: What went wrong, a sentence each.
        row_problems: Those of them that are about the list itself and come with it each time.
        etag: The server's mark of this version of the list.
        not_modified: Whether the server says that the list is the one of the `etag` sent.
        seconds: How long it took.
    """

    models: tuple[Model, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    row_problems: tuple[str, ...] = ()
    etag: str | None = None
    not_modified: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """An HTTP answer; the body only of a 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_html(self) -> bool:
        return "html" in self.headers.get("content-type", "")

    @property
    def may_pass(self) -> bool:
        """Whether the same question may soon be answered better."""
        # An HTML 429 is the edge's: it bans longer the more often it is asked.
        if self.status < 500 and (self.status != httpx.codes.TOO_MANY_REQUESTS or self.is_html):
            return False
        return (retry_after_seconds(self.headers, datetime.now(UTC)) or 0) <= LONGEST_RETRY_AFTER


class _NoListError(Exception):
    """There is no list to be had; the text says why."""


async def fetch_models(
    provider: Provider,
    base_url: str,
    key: str | None = None,
    *,
    etag: str | None = None,
    seconds: float = FETCH_SECONDS,
) -> Fetched:
    """Ask `GET <base_url><provider.discovery_path>`.

    Network trouble, 5xx and 429 are asked again, three attempts in all; a refused key is told and
    the list asked for once more without it; redirects are followed within the same origin only.

    Args:
        provider: Says the path, how the key is sent and how rows are read.
        base_url: The root, without a slash at its end.
        key: Sent where given.
        etag: Of the list that the caller has: the answer may be that it still holds.
        seconds: Bound of everything together, whatever the server does.

    Returns:
        The models, and what went wrong; nothing is raised.
    """
    began = time.perf_counter()
    problems: list[str] = []
    fetched = Fetched()
    try:
        async with asyncio.timeout(seconds):
            fetched = await _fetch(provider, base_url, key, etag, problems)
    except TimeoutError:
        problems.append(f"no model list from {base_url}: no whole answer within {seconds:g} s")
    except (_NoListError, httpx.HTTPError, httpx.InvalidURL) as error:
        kind = "" if isinstance(error, _NoListError) else f"{type(error).__name__} "
        problems.append(mask(f"no model list from {base_url}: {kind}{error}".rstrip()))
    seconds = time.perf_counter() - began
    return replace(fetched, problems=(*problems, *fetched.row_problems), seconds=seconds)


async def _fetch(
    provider: Provider, base_url: str, key: str | None, etag: str | None, problems: list[str]
) -> Fetched:
    """Ask with the key, and without it when it is refused."""
    if provider.discovery_path is None:
        raise _NoListError(f"{provider.name} offers none")
    headers = {**provider.headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
    if etag is not None and _is_etag(etag):
        headers["If-None-Match"] = etag
    auth = _auth_headers(provider, key, problems)
    url = httpx.URL(f"{base_url}{provider.discovery_path}")
    async with _client(base_url) as client:
        answer = await _persist(client, url, headers | auth)
        if auth and answer.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            problems.append(f"{KEY_REFUSED} (HTTP {answer.status})")
            answer = await _get(client, url, headers)
        return await _read(provider, answer, etag)


def _auth_headers(provider: Provider, key: str | None, problems: list[str]) -> dict[str, str]:
    if not key:
        return {}
    register_secret(key)
    if flaw := token_flaw(key, min_length=1):
        problems.append(f"the key {flaw} and was not sent")
        return {}
    name, before = _AUTH_HEADERS[provider.auth]
    return {name: before + key}


def _client(base_url: str) -> httpx.AsyncClient:
    """Make a client that no proxy catches on the way to this machine."""
    loopback = is_loopback(base_url)
    try:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(FETCH_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not loopback,
            follow_redirects=False,
            # Reading the certificates of the system takes longer than asking this machine.
            verify=not (loopback and base_url.startswith("http:")),
        )
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise _NoListError(f"proxy or certificates of the environment: {error}") from None


async def _persist(
    client: httpx.AsyncClient, url: httpx.URL, headers: Mapping[str, str]
) -> _Answer:
    """Ask until the answer would stay the same, a bounded number of times."""
    for pause in BACKOFF_SECONDS:
        try:
            answer = await _get(client, url, headers)
        except httpx.TransportError:
            await asyncio.sleep(pause)
            continue
        if not answer.may_pass:
            return answer
        await asyncio.sleep(pause)
    return await _get(client, url, headers)


async def _get(client: httpx.AsyncClient, url: httpx.URL, headers: Mapping[str, str]) -> _Answer:
    for _ in range(MAX_REDIRECTS + 1):
        async with client.stream("GET", url, headers=dict(headers)) as response:
            if not response.has_redirect_location:
                body = await _body(response) if response.status_code == httpx.codes.OK else b""
                return _Answer(response.status_code, response.headers, body)
            url = _redirected(url, response.headers["location"])
    raise _NoListError(f"more than {MAX_REDIRECTS} redirects")


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    """Return where a redirect leads, as long as that is the same origin.

    Both URLs are parsed by what connects, so that no spelling can mean two hosts.
    """
    target = url.join(location)
    if _origin(target) != _origin(url):
        scheme, _, host, port = _origin(target)
        where = f"{scheme}://{host}" + (f":{port}" if port else "")
        raise _NoListError(f"it redirects to {where}, which is not followed: another origin")
    return target


def _origin(url: httpx.URL) -> tuple[str, bytes, str, int | None]:
    """Return scheme, user, host and port; a user name in a URL would replace the key's header."""
    return url.scheme, url.userinfo, url.host, url.port


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _NoListError(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)


async def _read(provider: Provider, answer: _Answer, etag: str | None) -> Fetched:
    if answer.status == httpx.codes.NOT_MODIFIED and etag is not None:
        return Fetched(etag=etag, not_modified=True)
    if answer.status != httpx.codes.OK:
        raise _NoListError(describe_status(answer.status, answer.is_html))
    # Thousands of rows take a while; prompts run on the same loop.
    parsed = await asyncio.to_thread(_parse, answer, provider)
    told = answer.headers.get("etag", "")
    return Fetched(
        models=parsed.models,
        rows=parsed.rows,
        row_problems=parsed.problems if parsed.models else (*parsed.problems, EMPTY),
        etag=told if _is_etag(told) else None,
    )


def _parse(answer: _Answer, provider: Provider) -> Parsed:
    try:
        return parse_models(_decoded(answer), quirks=provider.quirks)
    except (ValueError, RecursionError) as error:
        raise _NoListError(str(error)) from None


def _decoded(answer: _Answer) -> Any:
    text = answer.body.strip()
    if not text:
        raise ValueError("the answer is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if answer.is_html or text.startswith(b"<"):
            raise ValueError("the answer is a web page, no list of models") from None
        kind = answer.headers.get("content-type", "of no content type")
        raise ValueError(f"the answer ({kind:.60}) is no whole JSON: {error}") from None


def _is_etag(text: str) -> bool:
    return 0 < len(text) <= MAX_ETAG_LENGTH and text.isascii() and text.isprintable()
