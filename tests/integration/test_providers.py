"""Other providers go the same way as Chutes: an entry in the registry is all that they need."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import AuthenticationError, ChutesOpenCodeLLM, Simulator
from chutes_opencode.catalog.providers import register_provider, unregister_provider

OF_CHUTES = "cpk_key.that.no.other.provider.may.see"
OF_OLLAMA = "key-of-ollama"


@pytest.fixture
def elsewhere(
    start_simulator: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> Simulator:
    """A simulator that takes one key of another provider; the environment holds one of Chutes."""
    simulator = start_simulator({"extra_api_tokens": [OF_OLLAMA]})
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("CHUTES_API_TOKEN", OF_CHUTES)
    return simulator


def keys(simulator: Simulator) -> set[str | None]:
    return {request.headers.get("authorization") for request in simulator.requests}


def test_a_prompt_runs_on_another_provider_with_its_own_key(
    elsewhere: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", OF_OLLAMA)

    result = ChutesOpenCodeLLM(
        "ollama/sim/echo", provider="ollama", base_url=elsewhere.base_url, builtin_tools=False
    ).prompt("from elsewhere")

    assert (result.result, result.model) == ("from elsewhere", "sim/echo")
    assert result.usage.num_requests == 1
    assert keys(elsewhere) == {f"Bearer {OF_OLLAMA}"}


def test_a_provider_of_the_projects_file_is_one_entry(
    elsewhere: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("chutes-opencode-providers.toml").write_text(
        f"[providers.house]\nbase_url = '{elsewhere.base_url}'\nkey_env = ['HOUSE_KEY']\n"
    )
    monkeypatch.setenv("HOUSE_KEY", OF_OLLAMA)

    result = ChutesOpenCodeLLM("sim/echo", provider="house").prompt("at home")

    assert result.result == "at home"
    assert keys(elsewhere) == {f"Bearer {OF_OLLAMA}"}


def test_a_refused_key_names_the_provider_whose_it_is(
    elsewhere: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_KEY", "cpk_not.the.key.of.anybody")
    register_provider({"id": "house", "base_url": elsewhere.base_url, "key_env": ["HOUSE_KEY"]})
    try:
        with pytest.raises(AuthenticationError) as caught:
            ChutesOpenCodeLLM("sim/echo", provider="house").prompt("hi")
    finally:
        unregister_provider("house")

    assert caught.value.hint.startswith("Set HOUSE_KEY, or pass api_token=")
    assert OF_CHUTES not in str(keys(elsewhere))


@pytest.fixture
def keyless() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server of one's own that knows no keys; the headers of its requests."""
    seen: list[dict[str, str]] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(json.dumps({"data": [{"id": "llama3.2:3b"}]}), "application/json")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer("".join(f"data: {line}\n\n" for line in stream()), "text/event-stream")

        def _answer(self, text: str, content_type: str) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", seen
        finally:
            server.shutdown()
            thread.join()


def stream() -> Iterator[str]:
    head = {"id": "c", "object": "chat.completion.chunk", "model": "llama3.2:3b"}
    for delta, finish in (({"role": "assistant", "content": "moo"}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield json.dumps(head | {"choices": [choice]})
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    yield json.dumps(head | {"choices": [], "usage": usage})
    yield "[DONE]"


def test_a_server_that_needs_no_key_gets_none(
    keyless: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base_url, seen = keyless
    monkeypatch.setenv("CHUTES_API_TOKEN", OF_CHUTES)
    monkeypatch.setenv("OLLAMA_BASE_URL", base_url)

    result = ChutesOpenCodeLLM("llama3.2:3b", provider="ollama").prompt("hi")

    assert (result.result, result.served_model) == ("moo", "llama3.2:3b")
    assert len(seen) >= 2  # its models, and the prompt
    for headers in seen:
        assert "authorization" not in {name.lower() for name in headers}
        assert OF_CHUTES not in str(headers)
