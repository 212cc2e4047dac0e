"""Requests of this process: answered on the relay's loop, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.client import CHAT, Client, ModelRequest
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from tests.patience import wait_until
from tests.unit.relay.stage import GOOD, KEY, MAIN, MODEL, Provider, Stage, nothing

MakeStage = Callable[..., Stage]
REQUEST = ModelRequest(CHAT, b'{"model": "org/model", "stream": true, "messages": []}', MAIN)


class Reader(Client):
    """Keeps what it is written, and on which loop that was."""

    def __init__(self) -> None:
        self.started = self.ended = False
        self.status = 0
        self.data = b""
        self.loops: set[Any] = set()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started, self.status = True, status

    async def write(self, data: bytes) -> None:
        self.loops.add(asyncio.get_running_loop())
        self.data += data

    async def end(self) -> None:
        self.ended = True


def open_at(lease: Lease, base_url: str = "http://127.0.0.1:1/v1") -> Booking:
    terms = Terms(Upstream("stage", base_url, lambda: KEY), {MODEL: None}, MODEL)
    return lease.open(terms, MAIN)


def test_an_answer_comes_without_a_socket_on_the_relays_own_loop(stage: MakeStage) -> None:
    s = stage()
    booking, reader = s.open(), Reader()

    async def ask() -> Any:
        await s.relay.exchange(booking, REQUEST, reader)
        return asyncio.get_running_loop()

    mine = asyncio.run(ask())

    assert (reader.status, reader.data, reader.ended) == (200, b"".join(GOOD), True)
    assert mine not in reader.loops
    assert booking.exchanges()[0].whole


def test_a_relay_that_has_served_nobody_yet_answers() -> None:
    with Provider() as provider, Relay() as relay, relay.lease() as lease:
        reader = Reader()
        asyncio.run(relay.exchange(open_at(lease, provider.base_url), REQUEST, reader))

    assert reader.data == b"".join(GOOD)


def test_a_relay_that_was_not_started_cannot_answer() -> None:
    relay = Relay()

    with pytest.raises(RuntimeError, match="not started"):
        asyncio.run(relay.exchange(open_at(relay.lease()), REQUEST, Reader()))


def test_a_relay_that_has_stopped_ends_the_prompt() -> None:
    with Relay() as relay:
        lease = Lease()
    booking = open_at(lease)

    asyncio.run(relay.exchange(booking, REQUEST, Reader()))

    assert booking.ended == "relay"


def test_a_cancelled_caller_ends_the_request(stage: MakeStage) -> None:
    s = stage(nothing)
    booking = s.open()

    async def cancel() -> None:
        asking = asyncio.ensure_future(s.relay.exchange(booking, REQUEST, Reader()))
        await asyncio.to_thread(wait_until, lambda: s.provider.in_flight)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(cancel())

    wait_until(lambda: s.provider.in_flight == 0)
    booking.close()
    assert booking.exchanges()[0].error == "cut before its end"
    assert s.limiter().in_flight == 0


def test_a_loop_that_ends_under_a_request_ends_the_prompt() -> None:
    with Provider(nothing) as provider, Relay() as relay, relay.lease() as lease:
        booking = open_at(lease, provider.base_url)

        async def kill() -> None:
            asking = asyncio.ensure_future(relay.exchange(booking, REQUEST, Reader()))
            await asyncio.to_thread(wait_until, lambda: provider.in_flight)
            assert relay._server is not None
            await asyncio.to_thread(relay._server.stop)  # the thread, not the relay
            await asking

        asyncio.run(kill())

        assert booking.ended == "relay"
        assert not relay.alive
