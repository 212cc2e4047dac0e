"""The way to the provider: one POST, its answer piece by piece. Nothing else here knows httpx.

A client is made for each kind of way (this machine, or the network with the caller's proxies and
certificates) and lives as long as the relay's event loop. Nothing is compressed on the way, so
that bytes can be passed on as they come, and no redirect is followed: it would take the key with
it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import cast
from urllib.request import getproxies_environment

import httpx

from chutes_opencode.addresses import is_loopback
from chutes_opencode.connections import Connections
from chutes_opencode.errors import ConfigurationError, OpenCodeError, ServerError
from chutes_opencode.http_answer import plain_headers
from chutes_opencode.masking import mask, register_secret
from chutes_opencode.relay.terms import Upstream

CONNECT_SECONDS = 20.0
WRITE_SECONDS = 300.0
KEEP_ALIVE_SECONDS = 15.0
PASSED_HEADERS = (
    "content-type",
    "accept",
    "user-agent",
    "x-session-id",
    "x-session-affinity",
    "x-parent-session-id",
)

KEPT_CONNECTIONS = 20

_LIMITS = httpx.Limits(
    max_connections=None,
    max_keepalive_connections=KEPT_CONNECTIONS,
    keepalive_expiry=KEEP_ALIVE_SECONDS,
)
_TIMEOUT = httpx.Timeout(None, connect=CONNECT_SECONDS, write=WRITE_SECONDS)

_Way = tuple[object, ...]


class BrokenAnswerError(Exception):
    """The answer ended before its end; the message says how, secrets masked."""


class Answer:
    """A provider's answer whose body is still to be read; must be closed.

    Attributes:
        status: HTTP status.
        headers: With lower-case names.
        media_type: Of the body, without parameters.
    """

    def __init__(self, response: httpx.Response) -> None:
        """Take a response whose headers have come."""
        self.status = response.status_code
        self.headers = plain_headers(dict(response.headers))
        self.media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._response = response
        self._pieces = self._open_body()

    def _open_body(self) -> AsyncIterator[bytes]:
        # Asked not to, some servers compress nevertheless; twice only to do harm: each time may
        # make a thousand bytes of one.
        coding = self.headers.get("content-encoding", "identity").lower()
        if "," in coding:
            return _refused_body(coding)
        if coding != "identity":
            return self._response.aiter_bytes()
        return aiter(cast("httpx.AsyncByteStream", self._response.stream))

    async def read(self, seconds: float) -> bytes | None:
        """Return the next piece of the body; None at its end.

        Args:
            seconds: How long to wait for it.

        Raises:
            BrokenAnswerError: Nothing came in that time, or the connection broke.
        """
        try:
            async with asyncio.timeout(seconds):
                return await anext(self._pieces, None)
        except TimeoutError:
            raise BrokenAnswerError(f"the provider was silent for {seconds:g} s") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise BrokenAnswerError(_words(error)) from None

    async def close(self) -> None:
        """Give the connection back, or end it where the body was not read to its end."""
        with contextlib.suppress(httpx.HTTPError, OSError):
            await self._response.aclose()


def read_key(upstream: Upstream) -> str | None:
    """Return the key in use now; it is masked everywhere from then on.

    Raises:
        ConfigurationError: Its source failed, or no header can hold it.
    """
    try:
        key = upstream.key()
    except OpenCodeError:
        raise
    except Exception as error:
        raise ConfigurationError(raw_message=f"the key's source failed: {error}") from error
    if key is None:
        return None
    register_secret(key)
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(raw_message="the key holds characters that no header can hold")
    return key


class UpstreamClient:
    """Sends requests to providers; belongs to one event loop."""

    def __init__(self) -> None:
        """Make no connection yet."""
        self._clients: dict[_Way, httpx.AsyncClient] = {}

    async def send(
        self,
        upstream: Upstream,
        key: str | None,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Answer:
        """Send one request and wait for the headers of its answer.

        Nothing is repeated here, not even over a kept connection that breaks at once: nobody knows
        whether the server saw the request, so another one is an attempt of its own.

        Args:
            upstream: Where to.
            key: See `read_key`.
            path: Below the base URL, with its slash.
            body: JSON.
            headers: The client's, lower case; only `PASSED_HEADERS` of them are sent.

        Raises:
            ServerError: No answer came.
            ConfigurationError: The way is set wrongly: URL, proxy or certificates.
        """
        content = {"content-type": "application/json"} | _passed(headers) | _auth(upstream, key)
        try:
            client = self._client(upstream)
            request = client.build_request(
                "POST", upstream.base_url + path, content=body, headers=content, timeout=_TIMEOUT
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                raw_message=f"no way to {upstream.base_url}: {mask(str(error))}",
                hint="Check the base URL, the proxy variables and the certificate files.",
            ) from None
        try:
            async with asyncio.timeout(upstream.headers_seconds):
                return Answer(await client.send(request, stream=True))
        except TimeoutError:
            words = f"no answer within {upstream.headers_seconds:g} s"
        except httpx.HTTPError as error:
            words = _words(error)
        raise ServerError(raw_message=words)

    async def close(self) -> None:
        """Close every connection."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    def _client(self, upstream: Upstream) -> httpx.AsyncClient:
        way = _way(upstream)
        if way not in self._clients:
            self._clients[way] = _make_client(upstream)
        return self._clients[way]


def _way(upstream: Upstream) -> _Way:
    """Tell what a client depends on: a changed proxy variable asks for another one."""
    if is_loopback(upstream.base_url):
        return ("loopback", upstream.base_url.startswith("https:"), upstream.ca_files)
    return (*sorted(getproxies_environment().items()), upstream.ca_files)


def _make_client(upstream: Upstream) -> httpx.AsyncClient:
    loopback = is_loopback(upstream.base_url)
    context = None
    if not (loopback and upstream.base_url.startswith("http:")):
        # Only where it is of use: reading the system's certificates takes longer than a prompt.
        context = httpx.create_ssl_context()
        for file in upstream.ca_files:
            context.load_verify_locations(cafile=file)
    if loopback or not getproxies_environment():
        straight = Connections(context, kept=KEPT_CONNECTIONS, expiry_seconds=KEEP_ALIVE_SECONDS)
        return httpx.AsyncClient(trust_env=False, transport=straight, follow_redirects=False)
    return httpx.AsyncClient(
        trust_env=True, verify=context or True, limits=_LIMITS, follow_redirects=False
    )


async def _refused_body(coding: str) -> AsyncIterator[bytes]:
    raise httpx.DecodingError(f"compressed more than once: {coding[:80]}")
    yield b""


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    kept = {name: headers[name] for name in PASSED_HEADERS if name in headers}
    return {"accept-encoding": "identity", **kept}


def _auth(upstream: Upstream, key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if upstream.auth == "bearer":
        return {"authorization": f"Bearer {key}"}
    return {upstream.auth.lower(): key}


def _words(error: Exception) -> str:
    return mask(f"{type(error).__name__}: {error}".removesuffix(": "))
