"""Who may talk to the relay, over real HTTP and with made-up peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode.relay.app import RelayApp
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.resources import Resources
from tests.unit.relay.stage import Stage, whole

MakeStage = Callable[..., Stage]


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_its_own_names_are_served(stage: MakeStage, host: str) -> None:
    s = stage()
    s.open()
    port = s.relay.url.split(":")[2].split("/")[0]

    assert whole(s.ask(headers={"host": host.format(port=port)}))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::1]"])
def test_a_foreign_host_header_is_refused(stage: MakeStage, host: str) -> None:
    s = stage()
    s.open()
    port = s.relay.url.split(":")[2].split("/")[0]

    assert s.ask(headers={"host": host.format(port=port)}).status_code == 403
    assert s.provider.asked == []


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer nobody", "Basic x", "nobody"])
def test_an_unknown_key_is_refused(stage: MakeStage, authorization: str) -> None:
    s = stage()
    s.open()

    answer = s.ask(headers={"authorization": authorization})

    assert answer.status_code == 401
    assert s.provider.asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/chat/completions"), ("POST", "/models"), ("POST", "/x"), ("DELETE", "/models")],
)
def test_other_paths_and_methods_are_not_there(stage: MakeStage, method: str, path: str) -> None:
    s = stage()
    s.open()

    answer = s.http.request(method, s.relay.url + path, headers=s.headers())

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        (("127.0.0.1", 1), 200),
        (("127.9.9.9", 1), 200),
        (("::1", 1), 200),
        (("10.0.0.1", 1), 403),
        (("testclient", 1), 403),
        (None, 403),
    ],
)
def test_only_this_machine_is_served(peer: Any, status: int) -> None:
    lease = Lease()
    app = RelayApp({lease.key: lease}.get, Resources())
    headers = [(b"host", b"127.0.0.1:80"), (b"authorization", f"Bearer {lease.key}".encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": headers,
        "client": peer,
        "server": ("127.0.0.1", 80),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))

    assert sent[0]["status"] == status
