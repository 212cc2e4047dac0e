"""The relay's HTTP face: who may ask, what, and how the answer goes back over the socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

from chutes_opencode.loopback import EXTENSION, Message, Receive, Scope, Send
from chutes_opencode.relay.client import PATHS, Client, ModelRequest
from chutes_opencode.relay.endings import STATUS, refusal_body
from chutes_opencode.relay.exchange import exchange, refuse
from chutes_opencode.relay.gathering import GatheringClient
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.resources import Resources

BASE_PATH = "/v1"
MAX_BODY_BYTES = 256 * 1024 * 1024

_JSON = "application/json"


class RelayApp:
    """The relay as an ASGI app."""

    def __init__(self, find_lease: Callable[[str], Lease | None], resources: Resources) -> None:
        """Serve leases.

        Args:
            find_lease: Returns the lease of a key.
            resources: Connections and limiters.
        """
        self._find_lease = find_lease
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        wire = Wire(scope, send)
        headers = _headers(scope)
        if not _is_local(scope, headers):
            await wire.answer(403, _error("this address is not served"))
            return
        lease = self._find_lease(_key(headers))
        if lease is None:
            await wire.answer(401, _error("this key is not known"))
            return
        await self._serve(lease, scope, headers, receive, wire)

    async def _serve(
        self,
        lease: Lease,
        scope: Scope,
        headers: Mapping[str, str],
        receive: Receive,
        wire: Wire,
    ) -> None:
        method, path = scope["method"], str(scope["path"]).removeprefix(BASE_PATH)
        if (method, path) == ("GET", "/models"):
            await wire.answer(200, _models(lease))
        elif method == "POST" and path in PATHS:
            await self._exchange(lease, path, headers, receive, wire)
        else:
            await wire.answer(404, _error("there is nothing here"))

    async def _exchange(
        self,
        lease: Lease,
        path: str,
        headers: Mapping[str, str],
        receive: Receive,
        wire: Wire,
    ) -> None:
        session = headers.get("x-session-id", "")
        booking = lease.find(session, headers.get("x-parent-session-id"))
        if booking is None:
            await wire.answer(STATUS, refusal_body("stranger"))
            return
        body = await _read_body(receive)
        if body is None:
            return
        if len(body) > MAX_BODY_BYTES:
            await refuse(wire, "malformed")
            return
        request = ModelRequest(path, body, session, headers)
        client = GatheringClient(wire)
        try:
            await _while_connected(receive, exchange(booking, request, client, self._resources))
        except TimeoutError:
            wire.reset()
        finally:
            await client.close()


class Wire(Client):
    """A client at the other end of an HTTP connection."""

    def __init__(self, scope: Scope, send: Send) -> None:
        """Take an ASGI `send`, and the loopback server's extension from the scope."""
        self.started = self.ended = False
        self._send = send
        self._endings = (scope.get("extensions") or {}).get(EXTENSION) or {}

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""
        self.started = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send bytes of the body; waits where the client reads slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Send the end of the body."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, body: bytes) -> None:
        """Send a whole JSON answer."""
        await self.start(status, {"content-type": _JSON, "content-length": str(len(body))})
        await self.write(body)
        await self.end()

    def reset(self) -> None:
        """End the connection at once, for a client that does not read."""
        if "reset" in self._endings:
            self._endings["reset"]()


def _headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_local(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Tell whether a request comes from this machine and means this server.

    A page in a browser may be made to ask 127.0.0.1 under a name of its own (DNS rebinding); then
    the Host header tells.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not _is_loopback(client[0]):
        return False
    return headers.get("host", "").lower() in {f"{host}:{server[1]}" for host in _HOSTS}


_HOSTS = ("127.0.0.1", "localhost")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _error(words: str) -> bytes:
    return json.dumps({"error": {"message": f"chutes-opencode: {words}"}}).encode()


def _models(lease: Lease) -> bytes:
    rows = [{"id": name, "object": "model"} for name in lease.models()]
    return json.dumps({"object": "list", "data": rows}).encode()


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or a little more than the limit; None: the client went."""
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Run `work`; cancel it when the client goes, which is all that `receive` can still tell."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)
    if not working.cancelled():
        working.result()
