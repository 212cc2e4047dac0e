"""A provider that opencode speaks to by a package of its own, not by the OpenAI wire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    ConfigurationError,
    LimitExceededError,
    Limits,
    McpServer,
    Params,
    QueryResult,
    ServerError,
    ToolServerError,
    TruncatedStreamError,
)
from chutes_opencode.loopback import Receive, Scope, Send, serve

USAGE = {"input_tokens": 12, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}
CHAT = ("system", "messages", "stream")
COMMAND = {"command": "echo native-tool", "description": "Say it"}


def block(number: int, start: dict[str, Any], delta: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": number, "content_block": start},
        {"type": "content_block_delta", "index": number, "delta": delta},
        {"type": "content_block_stop", "index": number},
    ]


def opened(model: str) -> dict[str, Any]:
    shape = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
    message = shape | {"stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
    return {"type": "message_start", "message": message}


def closed(reason: str) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    told = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}}
    return [told, {"type": "message_stop"}]


SAYS_HELLO = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hello."})
CALLS_BASH = block(
    0,
    {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}},
    {"type": "input_json_delta", "partial_json": json.dumps(COMMAND)},
)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@dataclass
class Messages:
    """A tiny Messages API; how it answers is in the model's name."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["method"] == "GET":
            rows = [{"type": "model", "id": f"claude-{kind}"} for kind in KINDS]
            await respond(send, 200, "application/json", json.dumps({"data": rows}))
            return
        request = json.loads(body)
        self.requests.append((scope["path"], headers, request))
        await self._answer(send, request)

    async def _answer(self, send: Send, request: dict[str, Any]) -> None:
        model = request["model"]
        if model == "claude-busy":
            await respond(send, 529, "application/json", json.dumps(OVERLOADED))
        elif model == "claude-page":
            await respond(send, 200, "text/html", "<html>hello</html>")
        else:
            events = [opened(model), *self._events(model, request)]
            lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
            await respond(send, 200, "text/event-stream", "".join(lines))

    def _events(self, model: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        ran = "tool_result" in json.dumps(request["messages"])
        if model == "claude-cut":
            return SAYS_HELLO
        if model == "claude-cuts-late" and ran:
            return [*SAYS_HELLO, OVERLOADED]
        if model == "claude-loop" or ("sonnet" not in model and not ran):
            return [*CALLS_BASH, *closed("tool_use")]
        return [*SAYS_HELLO, *closed("end_turn")]


KINDS = ("sonnet-9", "sonnet-4-5", "busy", "tool", "cut", "cuts-late", "loop", "page")


async def respond(send: Send, status: int, content_type: str, text: str) -> None:
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


@pytest.fixture
def api(temp_folder: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    """The fake API; a key is in the environment as it would be for the real one."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-nobody")
    messages = Messages()
    with serve(messages) as server:
        messages.url = f"{server.url}/v1"
        yield messages


def prompt(api: Messages, model: str = "claude-sonnet-9", **options: Any) -> QueryResult:
    chosen: dict[str, Any] = {"builtin_tools": False, "retries": 1, "relay": False} | options
    llm = ChutesOpenCodeLLM(model, provider="anthropic", base_url=api.url, **chosen)
    return llm.prompt("hi")


def test_a_prompt_over_a_native_wire(api: Messages) -> None:
    result = prompt(api, params=Params(temperature=0.25, max_tokens=99, extra_body={"top_k": 5}))

    ((path, headers, body),) = api.requests
    assert (path, headers["x-api-key"]) == ("/v1/messages", "sk-ant-of-nobody")
    assert set(body) == {"model", "max_tokens", "temperature", "top_k", *CHAT}
    assert (body["temperature"], body["top_k"], body["max_tokens"]) == (0.25, 5, 99)
    assert [part["text"] for part in body["system"]] == ["You are a helpful assistant."]
    assert (result.result, result.finish_reason) == ("Hello.", "stop")
    usage = result.usage
    assert (usage.input, usage.output, usage.cache_read, usage.cache_write) == (12, 7, 3, 2)
    assert (usage.num_turns, usage.num_requests, usage.estimated) == (1, 1, False)
    assert [exchange.finish_reason for exchange in result.exchanges] == ["stop"]


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-sonnet-9"])
def test_no_parameter_is_sent_that_nobody_set(api: Messages, model: str) -> None:
    prompt(api, model)

    ((_, _, body),) = api.requests
    assert set(body) == {"model", "max_tokens", *CHAT}


def test_an_agent_works_over_a_native_wire(api: Messages) -> None:
    result = prompt(api, "claude-tool", builtin_tools=True)

    assert result.result == "Hello."
    assert "native-tool" in result.stream_result
    assert [exchange.finish_reason for exchange in result.exchanges] == ["tool_calls", "stop"]
    assert (result.usage.num_requests, result.usage.output) == (2, 14)


@pytest.mark.parametrize(
    ("model", "requests"), [("claude-cut", 1), ("claude-cuts-late", 2)], ids=["at once", "later"]
)
def test_a_stream_without_its_end_is_neither_repeated_nor_believed(
    api: Messages, model: str, requests: int
) -> None:
    with pytest.raises((TruncatedStreamError, ServerError)) as caught:
        prompt(api, model, builtin_tools=True)

    assert len(api.requests) == requests
    assert caught.value.result is not None
    assert caught.value.result.usage.estimated


def test_failures_are_bounded_and_told_as_they_were(api: Messages) -> None:
    with pytest.raises(ServerError) as caught:
        prompt(api, "claude-busy")

    assert (caught.value.status, len(api.requests)) == (529, 1)
    assert "Overloaded" in (caught.value.response_body or "")


def test_a_page_in_place_of_a_stream_is_a_failure(api: Messages) -> None:
    with pytest.raises(ServerError):
        prompt(api, "claude-page")

    assert len(api.requests) == 1


def test_a_run_without_end_meets_its_limit(api: Messages) -> None:
    with pytest.raises(LimitExceededError):
        prompt(api, "claude-loop", builtin_tools=True, limits=Limits(max_requests=3))

    assert len(api.requests) == 3


def test_a_tool_server_that_is_not_there_is_missed(api: Messages) -> None:
    servers: Sequence[McpServer] = [McpServer("gone", command=("false",))]

    with pytest.raises(ToolServerError):
        prompt(api, tools=servers)

    assert api.requests == []


def test_what_the_wire_cannot_carry_costs_nothing(api: Messages) -> None:
    with pytest.raises(ConfigurationError, match=r"params\.seed cannot be sent to Anthropic"):
        prompt(api, params=Params(seed=1))

    assert api.requests == []
