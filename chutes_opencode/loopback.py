"""Run an ASGI app on 127.0.0.1 in a thread of its own, give its URL, stop it.

    with serve(app) as server:
        httpx.get(server.url)

The listening socket is bound by the caller's thread before anything else happens, so the port is
known (port 0 takes a free one) and no connection can come too early. The server's event loop is
private to its thread: `serve` works from any thread and inside a running event loop, and any
number of servers run side by side. uvicorn is imported on first use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import uvicorn

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
EXTENSION = "chutes_opencode.loopback"
"""Name in `scope["extensions"]` of a dict with two functions of no arguments: `close` ends the
connection after what was sent (without the end mark of a chunked body), `reset` ends it at once
with a TCP reset."""

_THREAD_PREFIX = "loopback-"
_KEEP_ALIVE_SECONDS = 3600  # a client that reuses an idle connection must not meet a closed one
_START_SECONDS = 30.0
_LAST_SECONDS = 1.0  # for requests that were cancelled to end
_LINGER_ZERO = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN

_log = logging.getLogger(__name__)


class LoopbackServer:
    """An ASGI app being served on 127.0.0.1; made by `serve`, ended by `stop`.

    Attributes:
        port: TCP port.
        url: Without a slash at the end.
        loop: The event loop that serves, in the server's own thread; closed when it has ended.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, app: ASGIApp, *, port: int, grace_seconds: int) -> None:
        """Bind, start the thread and wait until the server accepts; see `serve`."""
        self._app = app
        self._grace_seconds = grace_seconds
        self._socket = _listen(port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self._pid = os.getpid()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._uvicorn = self._configure()
        self._thread = threading.Thread(
            target=self._run, name=f"{_THREAD_PREFIX}{self.port}", daemon=True
        )
        self._thread.start()
        self._wait_ready()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the server."""
        self.stop()

    def stop(self) -> None:
        """End the server: running requests get `grace_seconds`, then are cancelled.

        Returns when the thread is gone and every socket is closed. A second call does nothing. In
        a forked child, where the thread does not exist, it only closes the child's copy of the
        listening socket.
        """
        if os.getpid() != self._pid:
            self._socket.close()
            return
        self._uvicorn.should_exit = True
        if self._thread is not threading.current_thread():
            self._thread.join(self._grace_seconds + _START_SECONDS)

    def _configure(self) -> uvicorn.Server:
        import uvicorn

        class QuietConfig(uvicorn.Config):
            def configure_logging(self) -> None:
                """Leave the process's logging alone (uvicorn's own version edits it globally)."""

        config = QuietConfig(
            self._serve_request,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=self._grace_seconds,
        )
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).addFilter(_not_ours)
        return uvicorn.Server(config)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits in __init__
            self._failure = error
        finally:
            self._socket.close()
            self._ready.set()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not (self._uvicorn.started or serving.done()):
            await asyncio.sleep(0.001)
        self._ready.set()
        await serving
        await self._abort_leftovers()

    async def _abort_leftovers(self) -> None:
        """Close connections that outlived the grace (a client that does not read, for one)."""
        if tasks := set(self._uvicorn.server_state.tasks):  # cancelled by uvicorn already
            await asyncio.wait(tasks, timeout=_LAST_SECONDS)
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the event loop run the transports' last callbacks

    def _wait_ready(self) -> None:
        if not self._ready.wait(_START_SECONDS) or self._failure is not None:
            self.stop()
            raise RuntimeError(f"the loopback server on {self.url} did not start") from (
                self._failure
            )

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        scope.setdefault("extensions", {})[EXTENSION] = {
            "close": lambda: self._end_connection(client, reset=False),
            "reset": lambda: self._end_connection(client, reset=True),
        }
        try:
            await self._app(scope, receive, send)
        except Exception:
            _log.exception("request failed: %s %s", scope.get("method"), scope.get("path"))
            raise

    def _end_connection(self, client: object, *, reset: bool) -> None:
        for connection in list(self._uvicorn.server_state.connections):
            transport = connection.transport
            if getattr(connection, "client", None) != client or transport.is_closing():
                continue
            if reset:
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                transport.abort()
            else:
                transport.close()


def serve(app: ASGIApp, *, port: int = 0, grace_seconds: int = 1) -> LoopbackServer:
    """Serve `app` on 127.0.0.1 until the returned server is stopped.

    Args:
        app: an ASGI 3 application; lifespan and websocket events are never sent. Its
            `scope["extensions"][EXTENSION]` can end the connection.
        port: TCP port; 0 takes a free one (`server.port`, `server.url`).
        grace_seconds: whole seconds that running requests get at `stop`.

    Raises:
        OSError: the port cannot be bound.
        RuntimeError: the server did not start.
    """
    return LoopbackServer(app, port=port, grace_seconds=grace_seconds)


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio switches Nagle's algorithm off for what it accepts; else
    # each answer on a kept connection waits 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(2048)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _not_ours(record: logging.LogRecord) -> bool:
    """Drop what uvicorn logs in our threads; other users of uvicorn keep their log."""
    return not (record.threadName or "").startswith(_THREAD_PREFIX)
