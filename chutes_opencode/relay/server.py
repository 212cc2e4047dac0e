"""The relay of a process: one loopback server, started when first needed, again after a fork.

Everything that an exchange changes lives on the server's own event loop; leases and bookings are
opened, read and closed from other threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Self

from chutes_opencode.loopback import LoopbackServer, serve
from chutes_opencode.relay.app import BASE_PATH, RelayApp
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.client import Client, ModelRequest
from chutes_opencode.relay.exchange import exchange
from chutes_opencode.relay.lease import STOPPED, Lease, relay_stopped
from chutes_opencode.relay.limiter import LimiterFactory, LimiterStats
from chutes_opencode.relay.resources import Resources, use_limiters

_GRACE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class RelayStats:
    """What a relay does now.

    Attributes:
        leases: Keys that are valid.
        prompts: Prompts that are open.
        refused: Requests, so far, that belonged to no open prompt.
        limiters: What is known of each provider account.
    """

    leases: int
    prompts: int
    refused: int
    limiters: Mapping[str, LimiterStats] = field(default_factory=dict)


class Relay:
    """A relay on 127.0.0.1; a context manager, or `start` and `stop` by hand.

    Attributes:
        id: Tells it from any other one; its URL does not, a port is used again.
    """

    def __init__(self, make_limiter: LimiterFactory | None = None) -> None:
        """Prepare; nothing listens before `start`.

        Args:
            make_limiter: Makes the limiter of a provider account; None: this process's factory
                (`use_limiters`), an adaptive one unless another was given.
        """
        self.id = uuid.uuid4().hex
        self._resources = Resources(make_limiter)
        self._app = RelayApp(self._find_lease, self._resources)
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._refused = 0
        self._server: LoopbackServer | None = None
        self._pid = os.getpid()
        self._stopped = False

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Listen on a free port. Does nothing when it does already.

        Raises:
            RuntimeError: It was stopped, or the server did not start.
        """
        with self._lock:
            if self._stopped:
                raise RuntimeError("a relay that was stopped does not start again")
            if self._server is None:
                self._server = serve(self._app, grace_seconds=_GRACE_SECONDS)

    def stop(self) -> None:
        """End every prompt ("relay") and every connection, within three seconds."""
        if os.getpid() != self._pid:
            self._forget()
            return
        with self._lock:
            self._stopped = True
            leases, server = list(self._leases.values()), self._server
        for lease in leases:
            lease.stop()
        self._close_connections()
        if server is not None:
            server.stop()

    @property
    def url(self) -> str:
        """The base URL for opencode: `http://127.0.0.1:<port>/v1`.

        Raises:
            RuntimeError: It was not started.
        """
        if self._server is None:
            raise RuntimeError("the relay was not started")
        return f"{self._server.url}{BASE_PATH}"

    @property
    def alive(self) -> bool:
        """Whether it serves requests, in this process."""
        if self._server is None or self._stopped or os.getpid() != self._pid:
            return False
        # The loop is closed when the server's thread has ended, for whatever reason.
        return not self._server.loop.is_closed()

    def lease(self) -> Lease:
        """Make a key for one opencode process."""
        lease = Lease(self._take_back)
        with self._lock:
            stopped = self._stopped
            self._leases[lease.key] = lease
        if stopped:
            lease.stop()
        return lease

    def stats(self) -> RelayStats:
        """Tell what it does now; from any thread."""
        with self._lock:
            leases, refused = list(self._leases.values()), self._refused
        prompts = sum(not booking.closed for lease in leases for booking in lease.bookings)
        refused += sum(lease.refused for lease in leases)
        return RelayStats(len(leases), prompts, refused, self._resources.stats())

    async def exchange(self, booking: Booking, request: ModelRequest, client: Client) -> None:
        """Answer a request of this process, without a socket, on the relay's own event loop.

        May be awaited on any event loop. Cancelled, it ends the request. Where the relay stops
        meanwhile, the booking is ended ("relay").

        Args:
            booking: The prompt that it belongs to; its session must be bound.
            request: The request.
            client: Who gets the answer, on the relay's loop.

        Raises:
            RuntimeError: The relay was not started.
        """
        if self._server is None:
            raise RuntimeError("the relay was not started")
        work = exchange(booking, request, client, self._resources)
        try:
            answered = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(work, self._server.loop)
            )
        except RuntimeError:  # the loop is closed
            work.close()
            booking.end(STOPPED, relay_stopped())
            return
        try:
            await answered
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            booking.end(STOPPED, relay_stopped())  # its loop has ended under the request

    def _find_lease(self, key: str) -> Lease | None:
        return self._leases.get(key)

    def _take_back(self, lease: Lease) -> None:
        with self._lock:
            if self._leases.pop(lease.key, None) is not None:
                self._refused += lease.refused

    def _close_connections(self) -> None:
        """Close the connections to providers, on the loop that they belong to."""
        if self._server is None:
            return
        closing = self._resources.client.close()
        try:
            closed = asyncio.run_coroutine_threadsafe(closing, self._server.loop)
        except RuntimeError:  # the loop is closed
            closing.close()
            return
        wait([closed], timeout=_GRACE_SECONDS)

    def _forget(self) -> None:
        """In a forked child: close its copy of the listening socket; the rest is the parent's."""
        if self._server is not None:
            self._server.stop()


_shared: dict[int, Relay] = {}
_shared_lock = threading.Lock()


def shared_relay() -> Relay:
    """Return this process's relay; started when first asked for, and anew if it has died."""
    with _shared_lock:
        relay = _shared.get(os.getpid())
        if relay is None or not relay.alive:
            relay = _shared[os.getpid()] = Relay()
            relay.start()
        return relay


def _after_fork() -> None:
    """Forget the parent's relay and its lock, whose holder does not exist in the child."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for relay in _shared.values():
        relay.stop()
    _shared.clear()
    use_limiters(None)  # the parent's may need threads and connections that the child has not


os.register_at_fork(after_in_child=_after_fork)
