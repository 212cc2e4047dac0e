"""Connections straight to providers, kept while they are of use. A transport for httpx.

httpx's own pool looks at every connection of it, idle ones with system calls, whenever a request
begins or ends: with two hundred streams at once that costs more than the streams. Here a request
takes the connection that was used last, and nobody looks at the others.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpcore
import httpx

Connection = httpcore.AsyncHTTPConnection


class Connections(httpx.AsyncBaseTransport):
    """Sends requests, each over a connection of its own; belongs to one event loop."""

    def __init__(
        self, ssl_context: ssl.SSLContext | None, *, kept: int, expiry_seconds: float
    ) -> None:
        """Make none yet.

        Args:
            ssl_context: For `https:`; None: there will be none.
            kept: So many idle ones are kept for each server.
            expiry_seconds: How long an idle one may be used again.
        """
        self._ssl_context = ssl_context
        self._kept = kept
        self._expiry_seconds = expiry_seconds
        self._idle: dict[bytes, list[Connection]] = defaultdict(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; nothing of the answer's body is read yet.

        Raises:
            httpx.HTTPError: No answer came.
        """
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{request.url.scheme!r} is neither http nor https")
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        sent = httpcore.Request(
            request.method,
            url,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        connection = await self._take(url.origin)
        try:
            with _errors_of_httpx():
                answer = await connection.handle_async_request(sent)
        except BaseException:
            # httpcore does it, too, but not if it is cancelled again meanwhile.
            await connection.aclose()
            raise
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, lambda: self._give_back(url.origin, connection)),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close those that are idle; the others close with their answers."""
        idle, self._idle, self._kept = self._idle, defaultdict(list), 0
        for group in idle.values():
            while group:  # whoever looks for one meanwhile must not find one that we have closed
                await group.pop().aclose()

    async def _take(self, origin: httpcore.Origin) -> Connection:
        idle = self._idle[_name(origin)]
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return Connection(
            origin, ssl_context=self._ssl_context, keepalive_expiry=self._expiry_seconds
        )

    async def _give_back(self, origin: httpcore.Origin, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end; the oldest goes when it is old."""
        idle = self._idle[_name(origin)]
        if connection.is_idle() and len(idle) < self._kept:
            idle.append(connection)
        else:
            await connection.aclose()
        if len(idle) > 1 and idle[0].has_expired():
            await idle.pop(0).aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(
        self, answer: httpcore.Response, give_back: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._stream: Any = answer.stream
        self._give_back: Callable[[], Coroutine[Any, Any, None]] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        try:
            await self._stream.aclose()
        finally:
            await give_back()


def _name(origin: httpcore.Origin) -> bytes:
    return b"%b://%b:%d" % (origin.scheme, origin.host, origin.port)


@contextlib.contextmanager
def _errors_of_httpx() -> Iterator[None]:
    """Raise httpx's error in place of httpcore's: they have the same names."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
