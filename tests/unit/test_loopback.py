import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from chutes_opencode import loopback
from chutes_opencode.loopback import EXTENSION, LoopbackServer, serve
from tests.patience import WAIT_SECONDS

Threads = Callable[[], list[str]]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await asyncio.Event().wait()


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("a bug of the app")


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as client:
        yield client


@pytest.fixture
def new_threads() -> Callable[[], list[str]]:
    """Names of the threads that were not there before the test."""
    before = set(threading.enumerate())
    return lambda: [thread.name for thread in threading.enumerate() if thread not in before]


def refuses(url: str) -> bool:
    address = (httpx.URL(url).host, httpx.URL(url).port or 0)
    try:
        socket.create_connection(address, timeout=WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_serves_an_app_on_a_free_port_of_127_0_0_1(client: httpx.Client) -> None:
    with serve(hello) as server:
        answer = client.get(server.url)

    assert server.url == f"http://127.0.0.1:{server.port}"
    assert answer.text == "hello"


def test_takes_the_port_that_is_asked_for(client: httpx.Client) -> None:
    with serve(hello) as first:
        port = first.port
    with serve(hello, port=port) as second:
        assert client.get(f"http://127.0.0.1:{port}").text == "hello"
        assert second.port == port


def test_a_taken_port_is_an_os_error_and_leaves_nothing_behind(new_threads: Threads) -> None:
    with serve(hello) as server:
        with pytest.raises(OSError, match="in use"):
            serve(hello, port=server.port)
        assert len(new_threads()) == 1


def test_leaves_no_thread_and_no_listening_socket(
    client: httpx.Client, new_threads: Threads
) -> None:
    with serve(hello) as server:
        client.get(server.url)

    assert new_threads() == []
    assert refuses(server.url)
    gc.collect()  # an unclosed socket or loop would warn here, and warnings are errors


def test_stop_may_be_called_twice() -> None:
    server = serve(hello)

    server.stop()
    server.stop()

    assert refuses(server.url)


@pytest.mark.parametrize("grace_seconds", [0, 1])
def test_stop_ends_a_request_that_would_run_for_ever(
    client: httpx.Client, grace_seconds: int, new_threads: Threads
) -> None:
    with (
        serve(silent, grace_seconds=grace_seconds) as server,
        client.stream("GET", server.url) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        server.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)

    assert new_threads() == []


def test_stop_closes_the_connection_of_a_client_that_does_not_read(new_threads: Threads) -> None:
    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        flooding.set()
        while True:
            piece = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
            await send(piece)

    flooding = threading.Event()
    with serve(flood, grace_seconds=0) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert flooding.wait(WAIT_SECONDS)
        server.stop()
    client.close()

    assert new_threads() == []


def test_many_servers_run_side_by_side_from_many_threads(
    client: httpx.Client, new_threads: Threads
) -> None:
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(lambda _: serve(hello), range(8)))
    try:
        answers = [client.get(server.url).text for server in servers]
    finally:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(LoopbackServer.stop, servers))

    assert answers == ["hello"] * 8
    assert len({server.port for server in servers}) == 8
    assert new_threads() == []


def test_works_inside_a_running_event_loop() -> None:
    async def scenario() -> str:
        with serve(hello) as server:
            async with httpx.AsyncClient(
                trust_env=False, verify=False, timeout=WAIT_SECONDS
            ) as client:
                return (await client.get(server.url)).text

    assert asyncio.run(scenario()) == "hello"


def test_leaves_signal_handlers_and_logging_of_the_process_alone(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    level = logging.getLogger("uvicorn.error").level

    with caplog.at_level(logging.DEBUG), serve(hello) as server:
        client.get(server.url)
        client.get(f"{server.url}/x")

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert logging.getLogger("uvicorn.error").level == level
    assert [record.name for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_another_server_of_the_process_keeps_its_uvicorn_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(hello):
        logging.getLogger("uvicorn.error").warning("not from a loopback thread")

    assert "not from a loopback thread" in caplog.text


def test_a_bug_of_the_app_is_logged_once_by_us_and_answered_with_500(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(broken) as server:
        answer = client.get(f"{server.url}/path")

    assert answer.status_code == 500
    assert [record.name for record in caplog.records] == ["chutes_opencode.loopback"]
    assert "a bug of the app" in caplog.text


@pytest.mark.parametrize(
    ("ending", "error"), [("close", httpx.RemoteProtocolError), ("reset", httpx.ReadError)]
)
def test_the_app_can_end_its_connection_early(
    client: httpx.Client, ending: str, error: type[Exception]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while not read.is_set():  # a reset discards what was not read yet
            await asyncio.sleep(0.001)
        scope["extensions"][EXTENSION][ending]()
        scope["extensions"][EXTENSION][ending]()  # harmless on a connection that is closing

    read = threading.Event()
    with serve(app) as server, client.stream("GET", server.url) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        read.set()
        with pytest.raises(error):
            next(pieces)


def test_ending_one_connection_leaves_the_others_open(client: httpx.Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/end":
            scope["extensions"][EXTENSION]["close"]()
        else:
            await hello(scope, receive, send)

    with serve(app) as server:
        client.get(server.url)
        with (
            httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as other,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            other.get(f"{server.url}/end")
        assert client.get(server.url).text == "hello"


def test_a_server_that_cannot_start_says_so(
    monkeypatch: pytest.MonkeyPatch, new_threads: Threads
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no event loop today")

    monkeypatch.setattr(loopback.LoopbackServer, "_main", fail)

    with pytest.raises(RuntimeError, match="did not start") as caught:
        serve(hello)

    assert isinstance(caught.value.__cause__, OSError)
    assert new_threads() == []


def test_in_a_forked_child_stop_only_closes_the_childs_copy_of_the_socket(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(hello) as server:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            child.setattr(server, "_socket", server._socket.dup())
            server.stop()
        assert client.get(server.url).text == "hello"


def test_stop_from_the_servers_own_thread_does_not_wait_for_itself(
    client: httpx.Client, new_threads: Threads
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.stop()
        await hello(scope, receive, send)

    server = serve(app)
    assert client.get(server.url).text == "hello"
    server.stop()
    assert new_threads() == []
