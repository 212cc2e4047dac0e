"""The client of `opencode serve`: what it sends, what it returns, and how it fails."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chutes_opencode import loopback
from chutes_opencode.loopback import EXTENSION, Receive, Scope, Send
from chutes_opencode.opencode.api import ApiError, ServeApi, ServerGoneError

URL = "http://127.0.0.1:1"
PASSWORD = "a-password-of-nobody"
RULES = [{"permission": "*", "pattern": "*", "action": "deny"}]
MESSAGE = {"info": {"role": "assistant"}, "parts": [{"type": "text", "text": "Hello"}]}
CAPTURES = Path(__file__).parents[2] / "captures" / "opencode-1.18.33"

Call = Callable[[ServeApi], Awaitable[Any]]


class Server:
    """Answers every request with the same, and remembers what was asked."""

    def __init__(self, status: int = 200, body: Any = True) -> None:
        self.status = status
        self.content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.status, content=self.content)

    @property
    def asked(self) -> tuple[str, str, Any]:
        """Method, path with query, and JSON of the only request."""
        [request] = self.requests
        body = json.loads(request.content) if request.content else None
        return request.method, request.url.raw_path.decode(), body


def use(server: Callable[[httpx.Request], httpx.Response], call: Call) -> Any:
    async def main() -> Any:
        api = ServeApi(URL, PASSWORD, httpx.MockTransport(server))
        try:
            return await call(api)
        finally:
            await api.close()

    return asyncio.run(main())


CALLS: list[tuple[str, Call, tuple[str, str, Any]]] = [
    (
        "create",
        lambda api: api.create(Path("/some/where"), RULES),
        (
            "POST",
            "/session?directory=%2Fsome%2Fwhere",
            {"title": "prompt", "permission": RULES},
        ),
    ),
    (
        "send",
        lambda api: api.send(
            "ses_1",
            agent="chutes",
            provider_id="chutes",
            model_id="org/model",
            parts=[{"type": "text", "text": "Hi"}],
        ),
        (
            "POST",
            "/session/ses_1/message",
            {
                "agent": "chutes",
                "model": {"providerID": "chutes", "modelID": "org/model"},
                "parts": [{"type": "text", "text": "Hi"}],
            },
        ),
    ),
    ("messages", lambda api: api.messages("ses_1"), ("GET", "/session/ses_1/message", None)),
    ("info", lambda api: api.info("ses_1"), ("GET", "/session/ses_1", None)),
    (
        "replay",
        lambda api: api.replay(Path("/d"), [{"seq": 1}]),
        ("POST", "/sync/replay?directory=%2Fd", {"directory": "/d", "events": [{"seq": 1}]}),
    ),
    ("abort", lambda api: api.abort("ses_1"), ("POST", "/session/ses_1/abort", None)),
    ("delete", lambda api: api.delete("ses_1"), ("DELETE", "/session/ses_1", None)),
    (
        "add_tool_server",
        lambda api: api.add_tool_server(Path("/d"), "docs", {"type": "remote"}),
        ("POST", "/mcp?directory=%2Fd", {"name": "docs", "config": {"type": "remote"}}),
    ),
    (
        "remove_tool_server",
        lambda api: api.remove_tool_server(Path("/d"), "a/b"),
        ("POST", "/mcp/a%2Fb/disconnect?directory=%2Fd", None),
    ),
    ("healthy", lambda api: api.healthy(5.0), ("GET", "/global/health", None)),
]


@pytest.mark.parametrize(("call", "asked"), [row[1:] for row in CALLS], ids=[r[0] for r in CALLS])
def test_each_call_is_one_request(call: Call, asked: tuple[str, str, Any]) -> None:
    server = Server(body={"id": "ses_2", **MESSAGE})

    use(server, call)

    assert server.asked == asked


def test_every_request_carries_the_password() -> None:
    server = Server()

    use(server, lambda api: api.abort("ses_1"))

    told = base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
    assert server.requests[0].headers["authorization"] == f"Basic {told}"


def test_the_id_of_a_new_session_is_returned() -> None:
    made = json.loads((CAPTURES / "serve_session_create.json").read_text())

    assert use(Server(body=made), lambda api: api.create(Path("/d"), ())) == made["id"]


@pytest.mark.parametrize("name", ["serve_message_ok.json", "serve_message_402.json"])
def test_an_answer_is_returned_whether_the_provider_failed_or_not(name: str) -> None:
    answer = json.loads((CAPTURES / name).read_text())

    sent = use(
        Server(body=answer),
        lambda api: api.send("s", agent="a", provider_id="p", model_id="m", parts=[]),
    )

    assert sent == answer


def test_messages_are_returned_in_their_order() -> None:
    assert use(Server(body=[MESSAGE, {}]), lambda api: api.messages("s")) == [MESSAGE, {}]


@pytest.mark.parametrize(
    "text", ["\r\n\t \x01", "\ufeffnaïve 日本", "half \ud83d of a pair", "{env:X}"]
)
def test_text_is_sent_exactly(text: str) -> None:
    server = Server(body=MESSAGE)
    parts = [{"type": "text", "text": text}]

    use(server, lambda api: api.send("s", agent="a", provider_id="p", model_id="m", parts=parts))

    assert server.asked[2]["parts"] == parts


@pytest.mark.parametrize(
    ("status", "content", "body"),
    [
        (400, b'{"_tag": "BadRequest"}', {"_tag": "BadRequest"}),
        (401, b"", None),
        (404, b'{"name": "NotFoundError"}', {"name": "NotFoundError"}),
        (500, b"<html>", None),
        (500, b"[1]", None),
        (200, b"not JSON", None),
    ],
)
def test_an_answer_that_is_an_error_is_raised(
    status: int, content: bytes, body: dict[str, Any] | None
) -> None:
    with pytest.raises(ApiError) as raised:
        use(Server(status, content), lambda api: api.info("ses_1"))

    assert (raised.value.status, raised.value.body) == (status, body)


@pytest.mark.parametrize(
    "call",
    [lambda api: api.delete("ses_1"), lambda api: api.remove_tool_server(Path("/d"), "docs")],
)
def test_what_is_not_there_need_not_be_removed(call: Call) -> None:
    assert use(Server(404, {"name": "NotFoundError"}), call) is None

    with pytest.raises(ApiError):
        use(Server(500, {}), call)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.ReadTimeout("nothing came"),
    ],
)
def test_a_server_that_does_not_answer_is_gone(error: httpx.TransportError) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    async def main() -> None:
        api = ServeApi(URL, PASSWORD, httpx.MockTransport(fail))
        assert not api.gone
        with pytest.raises(ServerGoneError):
            await api.info("ses_1")
        assert api.gone
        await api.close()

    asyncio.run(main())


def test_after_close_the_server_is_gone() -> None:
    async def main() -> None:
        api = ServeApi(URL, PASSWORD, httpx.MockTransport(Server()))
        await api.close()
        with pytest.raises(ServerGoneError):
            await api.info("ses_1")

    asyncio.run(main())


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (401, False), (503, False)])
def test_health_is_that_the_server_answers_well(status: int, healthy: bool) -> None:
    assert use(Server(status, {"healthy": True}), lambda api: api.healthy(5.0)) is healthy


class App:
    """A server on a real socket that answers nothing, or hangs up."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hang_up = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.hang_up:
            scope["extensions"][EXTENSION]["reset"]()
        await asyncio.Event().wait()


def test_a_server_that_hangs_is_not_healthy_but_not_gone() -> None:
    async def main(url: str) -> None:
        api = ServeApi(url, PASSWORD)
        assert not await api.healthy(0.05)
        assert not api.gone
        await api.close()

    with loopback.serve(App(), grace_seconds=0) as server:
        asyncio.run(main(server.url))


def test_a_connection_that_breaks_means_that_the_server_is_gone() -> None:
    async def main(url: str) -> None:
        api = ServeApi(url, PASSWORD)
        with pytest.raises(ServerGoneError):
            await api.messages("ses_1")
        await api.close()

    app = App()
    app.hang_up = True
    with loopback.serve(app, grace_seconds=0) as server:
        asyncio.run(main(server.url))
