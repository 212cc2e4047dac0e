"""Other native packages: Google's and OpenAI's own wire; how they end, what they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Params, QueryResult, TruncatedStreamError
from chutes_opencode.loopback import Receive, Scope, Send, serve

ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
PART = {"type": "output_text", "text": "Hello.", "annotations": []}
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-9", "output": []}
TOKENS = {"input_tokens": 12, "output_tokens": 7, "total_tokens": 19}
DETAILS = {
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 3},
}


def openai_events(whole: bool) -> list[dict[str, Any]]:
    place = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": RESPONSE | {"status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": ITEM | {"content": []}},
        {"type": "response.output_text.delta", "delta": "Hello.", **place},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": ITEM | {"content": [PART]},
        },
    ]
    done = RESPONSE | {"status": "completed", "usage": TOKENS | DETAILS}
    return [*events, *([{"type": "response.completed", "response": done}] if whole else [])]


def google_events(whole: bool) -> list[dict[str, Any]]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": "Hello."}]}}
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 7, "totalTokenCount": 19}
    end = {"finishReason": "STOP"} if whole else {}
    return [{"candidates": [candidate | end], "usageMetadata": usage, "modelVersion": "g"}]


@dataclass
class Api:
    """Answers a native request of either package; a model named "cut" leaves its stream open."""

    url: str = ""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if scope["method"] == "GET":
            names = ["gpt-9", "gpt-cut", "gemini-3-pro", "gemini-cut"]
            await respond(
                send, "application/json", json.dumps({"data": [{"id": n} for n in names]})
            )
            return
        request = json.loads(body)
        self.requests.append((path, request))
        whole = "cut" not in path + request.get("model", "")
        events = openai_events(whole) if path.endswith("/responses") else google_events(whole)
        text = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events)
        await respond(send, "text/event-stream", text)


async def respond(send: Send, content_type: str, text: str) -> None:
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


@pytest.fixture
def api(temp_folder: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The fake APIs, with keys in the environment."""
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"):
        monkeypatch.setenv(name, "key-of-nobody")
    answers = Api()
    with serve(answers) as server:
        answers.url = f"{server.url}/v1"
        yield answers


def prompt(api: Api, provider: str, model: str, params: Params | None = None) -> QueryResult:
    return ChutesOpenCodeLLM(
        model,
        provider=provider,
        base_url=api.url,
        params=params or Params(),
        builtin_tools=False,
        retries=1,
        relay=False,
    ).prompt("hi")


def test_google_is_sent_what_the_caller_set_and_nothing_else(api: Api) -> None:
    result = prompt(api, "google", "gemini-3-pro", Params(temperature=0.25, max_tokens=99))

    ((path, body),) = api.requests
    assert path == "/v1/models/gemini-3-pro:streamGenerateContent"
    assert body["generationConfig"] == {"temperature": 0.25, "maxOutputTokens": 99}
    assert (result.result, result.finish_reason) == ("Hello.", "stop")
    assert (result.usage.input, result.usage.output) == (12, 7)
    assert (result.usage.num_requests, result.usage.estimated) == (1, False)


def test_openai_is_sent_what_the_caller_set_and_no_effort_of_opencodes(api: Api) -> None:
    result = prompt(api, "openai", "gpt-9", Params(top_p=0.5, max_tokens=99))

    ((path, body),) = api.requests
    assert (path, body["top_p"], body["max_output_tokens"]) == ("/v1/responses", 0.5, 99)
    assert not {"reasoning", "text", "temperature"} & set(body)
    assert (result.result, result.finish_reason) == ("Hello.", "stop")
    usage = result.usage
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (10, 2, 4, 3)


@pytest.mark.parametrize(("provider", "model"), [("google", "gemini-cut"), ("openai", "gpt-cut")])
def test_a_stream_without_its_end_is_not_repeated(api: Api, provider: str, model: str) -> None:
    with pytest.raises(TruncatedStreamError):
        prompt(api, provider, model)

    assert len(api.requests) == 1
