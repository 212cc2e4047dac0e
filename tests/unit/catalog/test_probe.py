"""Trying a provider: the list and one prompt together give one verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from chutes_opencode.catalog import speed
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.probe import choose_model, probe
from chutes_opencode.catalog.providers import Provider, find_provider
from chutes_opencode.catalog.speed import Probe
from chutes_opencode.errors import AuthenticationError, ModelNotFoundError, ServerError
from chutes_opencode.loopback import Receive, Scope, Send, serve
from chutes_opencode.simulator import Simulator
from tests.patience import WAIT_SECONDS

LIST = "/v1/models"
CHAT = "/v1/chat/completions"
TOKEN = {"choices": [{"delta": {"content": "one"}}]}
OPENAI = Provider(id="mine", name="Mine", needs_key=False)
NATIVE = Provider(id="theirs", name="Theirs", wire="native", npm="@ai-sdk/theirs")
DEAF = "http://127.0.0.1:9/v1"


class Server:
    """A provider that answers each path with a status and an object; 404 elsewhere."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, Any]] = {}
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.base_url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((scope["path"], headers, json.loads(body) if body else None))
        status, page = self.pages.get(scope["path"], (404, {"detail": "Not Found"}))
        text = page if isinstance(page, str) else json.dumps(page)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    @property
    def asked(self) -> list[str]:
        """The models that were sent a prompt."""
        return [body["model"] for path, _, body in self.seen if path == CHAT]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is so slow that its servers are called slow here."""
    monkeypatch.setattr(speed, "SLOW_FIRST_TOKEN_SECONDS", WAIT_SECONDS)
    monkeypatch.setattr(speed, "SLOW_TOKENS_PER_SECOND", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    app = Server()
    with serve(app) as running:
        app.base_url = f"{running.url}/v1"
        yield app


def rows(*ids: str) -> dict[str, Any]:
    return {"data": [{"id": name} for name in ids]}


def run(provider: Provider, base_url: str, **options: Any) -> Probe:
    return asyncio.run(probe(provider, base_url, **options))


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("mine/large", "large"),
        ("large", "large"),
        ("mine/auto", "mine/auto"),
        ("mine/std", "mine/std"),
    ],
)
def test_a_model_is_asked_for_by_its_id(server: Server, asked: str, sent: str) -> None:
    server.pages[LIST] = (200, rows("large", "mine/auto"))
    mine = OPENAI.model_copy(update={"default_models": ("mine/std",)})

    run(mine, server.base_url, model=asked)

    assert server.asked == [sent]


def test_the_simulator_is_well() -> None:
    chutes = find_provider("chutes")
    with Simulator() as simulator:
        told = run(chutes, simulator.base_url, key=simulator.api_token, prefer=["gone", "sim/echo"])

    assert (told.verdict, told.model, told.problems) == ("ok", "sim/echo", ())
    assert told.models is not None
    assert told.first_token_s is not None


def test_a_refused_key_is_told_though_the_list_is_public() -> None:
    with Simulator() as simulator:
        told = run(find_provider("chutes"), simulator.base_url, key="cpk_of_somebody_else")

    assert told.verdict == "key_refused"
    assert isinstance(told.error, AuthenticationError)


def test_the_key_and_the_entrys_headers_go_along(server: Server) -> None:
    server.pages = {LIST: (200, rows("a")), CHAT: (200, TOKEN)}
    provider = OPENAI.model_copy(update={"headers": {"x-title": "t"}})

    assert run(provider, server.base_url, key="key-of-mine").verdict == "ok"

    _, headers, _ = server.seen[-1]
    assert (headers["authorization"], headers["x-title"]) == ("Bearer key-of-mine", "t")


def test_without_a_key_none_is_sent(server: Server) -> None:
    server.pages = {LIST: (200, rows("a")), CHAT: (200, TOKEN)}

    run(OPENAI, server.base_url)

    assert all("authorization" not in headers for _, headers, _ in server.seen)


def test_a_model_may_be_named(server: Server) -> None:
    server.pages = {LIST: (200, rows("a")), CHAT: (200, TOKEN)}

    assert run(OPENAI, server.base_url, model="b", prefer=["a"]).model == "b"
    assert server.asked == ["b"]


def test_where_no_list_is_offered_the_preferred_model_is_asked(server: Server) -> None:
    server.pages = {CHAT: (200, TOKEN)}
    provider = OPENAI.model_copy(update={"discovery_path": None})

    told = run(provider, server.base_url, prefer=["sonar"])

    assert (told.verdict, told.model, told.models) == ("ok", "sonar", None)
    assert LIST not in [path for path, _, _ in server.seen]


def test_nobody_there() -> None:
    told = run(OPENAI, DEAF)

    assert (told.verdict, told.model, told.models) == ("unreachable", "", None)
    assert told.problems


def test_a_server_without_models(server: Server) -> None:
    server.pages = {LIST: (200, rows())}

    told = run(OPENAI, server.base_url)

    assert (told.verdict, told.model, told.models) == ("no_models", "", 0)
    assert isinstance(told.error, ModelNotFoundError)
    assert server.asked == ["none"]


def test_a_wrong_path_is_not_the_same_as_no_models(server: Server) -> None:
    told = run(OPENAI, server.base_url)

    assert (told.verdict, told.models) == ("failing", None)
    assert "HTTP 404" in told.detail
    assert isinstance(told.error, ServerError)


def test_a_server_that_fails_is_told_so_though_it_has_no_models(server: Server) -> None:
    server.pages = {LIST: (200, rows()), CHAT: (500, {"detail": "out of memory"})}

    told = run(OPENAI, server.base_url)

    assert (told.verdict, told.detail) == ("failing", "HTTP 500: out of memory")


def test_models_of_which_none_writes_text_are_only_listed(server: Server) -> None:
    server.pages = {LIST: (200, rows("nomic-embed"))}

    told = run(OPENAI, server.base_url)

    assert (told.verdict, told.models, told.error) == ("ok", 1, None)
    assert "no model writes text" in told.detail


class TestNative:
    def test_its_list_is_all_that_is_asked(self, server: Server) -> None:
        server.pages = {LIST: (200, rows("a", "b"))}

        told = run(NATIVE, server.base_url, key="key-of-theirs")

        assert (told.verdict, told.models, told.error) == ("ok", 2, None)
        assert "no prompt was sent" in told.detail
        assert server.asked == []

    @pytest.mark.parametrize(
        ("status", "verdict", "error"),
        [(401, "key_refused", AuthenticationError), (404, "failing", ServerError)],
    )
    def test_what_is_wrong_is_read_off_the_list(
        self, server: Server, status: int, verdict: str, error: type[Exception]
    ) -> None:
        server.pages = {LIST: (status, {})}

        told = run(NATIVE, server.base_url, key="key-of-theirs")

        assert told.verdict == verdict
        assert isinstance(told.error, error)

    def test_nobody_there(self) -> None:
        assert run(NATIVE, DEAF, key="key-of-theirs").verdict == "unreachable"

    def test_neither_list_nor_wire(self) -> None:
        provider = NATIVE.model_copy(update={"discovery_path": None})

        assert run(provider, DEAF).verdict == "no_models"


@pytest.mark.parametrize(
    ("models", "prefer", "chosen"),
    [
        ([Model("a"), Model("b")], ["x", "b"], "b"),
        ([], ["x", "b"], "x"),
        ([], [], None),
        ([Model("a"), Model("b", price=Price(1, 1)), Model("c", price=Price(0.5, 2))], [], "b"),
        ([Model("a"), Model("b")], [], "a"),
        ([Model("text-EMBED-3"), Model("x", output_modalities=("image",)), Model("z")], [], "z"),
    ],
)
def test_a_preferred_or_the_cheapest_model_is_asked(
    models: list[Model], prefer: list[str], chosen: str | None
) -> None:
    assert choose_model(models, prefer) == chosen
