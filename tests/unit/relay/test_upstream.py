"""The way to the provider: proxies, certificates, kept connections, compressed answers."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.errors import ConfigurationError, ServerError
from chutes_opencode.relay.terms import Upstream
from chutes_opencode.relay.upstream import UpstreamClient, read_key
from tests.patience import WAIT_SECONDS, wait_until
from tests.unit.relay.stage import GOOD, KEY, Provider, Reply, Stage, ended, stream, whole

MakeStage = Callable[..., Stage]
PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Listener:
    """A bare TCP server: answers each connection's requests as it is told, and notes them."""

    def __init__(self, *, answers_per_connection: int = 1000) -> None:
        self.notes: list[bytes] = []
        self.closed = 0
        self._per_connection = answers_per_connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(WAIT_SECONDS)
                for _ in range(self._per_connection):
                    request = b""
                    while not request.endswith(b"{}") and (part := connection.recv(65536)):
                        request += part
                    if not request:
                        break
                    self.notes.append(request)
                    connection.sendall(HEAD)
            self.closed += 1

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        made.append(Listener(**options))
        return made[-1]

    yield make
    for listener in made:
        listener.stop()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def hang_up(reply: Reply) -> None:
    reply.close()


def upstream(base_url: str, **more: Any) -> Upstream:
    return Upstream("stage", base_url, lambda: KEY, **more)


async def send(*upstreams: Upstream, between: Callable[[], None] = lambda: None) -> list[int]:
    """Ask each of them once, through one client; `between` runs after each."""
    client = UpstreamClient()
    statuses = []
    try:
        for one in upstreams:
            answer = await client.send(one, read_key(one), "/chat/completions", b"{}", {})
            while await answer.read(WAIT_SECONDS) is not None:
                pass
            statuses.append(answer.status)
            await answer.close()
            await asyncio.to_thread(between)
    finally:
        await client.close()
    return statuses


def test_a_proxy_of_the_environment_is_used_and_no_proxy_is_heeded(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = listen()
    far = upstream("http://provider.invalid/v1")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)

    assert asyncio.run(send(far)) == [200]
    assert proxy.notes[0].startswith(b"POST http://provider.invalid/v1/chat/completions ")

    monkeypatch.setenv("NO_PROXY", "provider.invalid")
    with pytest.raises(ServerError):
        asyncio.run(send(far))
    assert len(proxy.notes) == 1


def test_a_proxy_that_is_set_later_is_used_from_then_on(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = listen(), listen()
    far = upstream("http://provider.invalid/v1")

    async def ask() -> None:
        client = UpstreamClient()
        for proxy in (first, second):
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            await (await client.send(far, KEY, "/x", b"{}", {})).close()
        await client.close()

    asyncio.run(ask())

    assert (len(first.notes), len(second.notes)) == (1, 1)


def test_no_proxy_stands_between_us_and_this_machine(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, near = listen(), listen()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)

    assert asyncio.run(send(upstream(f"{near.url}/v1"))) == [200]
    assert proxy.notes == []


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY"])
def test_a_proxy_that_is_none_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "nonsense://x")

    with pytest.raises(ConfigurationError, match="no way to"):
        asyncio.run(send(upstream("http://provider.invalid/v1")))


def test_certificates_that_cannot_be_read_are_a_configuration_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")

    with pytest.raises(ConfigurationError, match="no way to"):
        asyncio.run(send(upstream("https://provider.invalid/v1", ca_files=(missing,))))


def test_a_kept_connection_that_was_closed_is_replaced_unnoticed(
    listen: Callable[..., Listener],
) -> None:
    server = listen(answers_per_connection=1)
    there = upstream(f"{server.url}/v1")

    def closed() -> None:
        wait_until(lambda: server.closed == len(server.notes))

    assert asyncio.run(send(there, there, there, between=closed)) == [200, 200, 200]
    assert len(server.notes) == 3


def test_a_request_is_not_repeated_unbooked_when_a_kept_connection_breaks(
    stage: MakeStage,
) -> None:
    s = stage(stream(*GOOD), hang_up, stream(*GOOD))
    first, second = s.open(), s.open("ses_other")

    assert whole(s.ask())
    assert whole(s.ask("ses_other"))
    for booking in (first, second):
        booking.close()

    assert len(s.provider.asked) == 3
    assert [e.status for e in second.exchanges()] == [None, 200]


def test_another_header_may_hold_the_key(listen: Callable[..., Listener]) -> None:
    server = listen()

    asyncio.run(send(upstream(server.url, auth="X-API-Key")))

    assert f"x-api-key: {KEY}".encode() in server.notes[0]
    assert b"uthorization" not in server.notes[0]


def test_no_key_is_no_header(listen: Callable[..., Listener]) -> None:
    server = listen()

    asyncio.run(send(Upstream("stage", server.url, lambda: None)))

    assert b"uthorization" not in server.notes[0]


def test_a_key_that_no_header_can_hold_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no header can hold"):
        read_key(Upstream("stage", "http://127.0.0.1:9", lambda: "two\r\nlines"))


def test_a_compressed_stream_is_passed_on_plain(stage: MakeStage) -> None:
    s = stage(stream(gzip.compress(b"".join(GOOD)), content_encoding="gzip"))
    s.open()

    answer = s.ask()

    assert whole(answer)
    assert "content-encoding" not in answer.headers


def test_a_stream_that_was_compressed_twice_is_not_unpacked(stage: MakeStage) -> None:
    twice = gzip.compress(gzip.compress(b"".join(GOOD)))
    s = stage(stream(twice, content_encoding="gzip, gzip"))
    booking = s.open(tries_left=1)

    answer = s.ask()
    booking.close()

    assert ended(answer)
    assert "compressed more than once" in str(booking.error)


def test_the_repr_of_a_way_holds_no_key() -> None:
    with Provider() as provider:
        assert KEY not in repr(upstream(provider.base_url))
