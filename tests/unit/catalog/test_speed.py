"""The probe: one small prompt, and what its outcome is called."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from chutes_opencode.catalog.speed import MAX_TOKENS, ChatEndpoint, Probe, probe_model
from chutes_opencode.errors import AuthenticationError, OpenCodeError, ServerError
from chutes_opencode.simulator import Simulator
from tests.patience import WAIT_SECONDS

Handler = Callable[[httpx.Request], httpx.Response]
KEY_HEADERS = {"Authorization": "Bearer cpk_probe_test_0001"}


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by `step` seconds each time it is read."""
    times = itertools.count()
    return lambda: next(times) * step


def run(handler: Handler, *, step: float = 0.1, seconds: float = WAIT_SECONDS) -> Probe:
    endpoint = ChatEndpoint(
        "https://llm.example.org/v1", KEY_HEADERS, transport=httpx.MockTransport(handler)
    )
    return asyncio.run(probe_model(endpoint, "a/b", seconds=seconds, clock=ticking(step)))


def token(**delta: str) -> dict[str, Any]:
    return {"choices": [{"delta": delta}]}


def body(*events: object) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def says(text: str, status: int = 200) -> Handler:
    return lambda _: httpx.Response(status, text=text)


USAGE = {"choices": [], "usage": {"completion_tokens": 41}}
TWO = (token(content="one"), token(reasoning_content="two"))


def test_the_simulators_model_is_well() -> None:
    with Simulator() as simulator:
        endpoint = ChatEndpoint(
            simulator.base_url, {"Authorization": f"Bearer {simulator.api_token}"}
        )
        told = asyncio.run(probe_model(endpoint, "sim/echo", clock=ticking(0.1)))
        (request,) = simulator.requests

    assert told.verdict == "ok"
    assert told.first_token_s is not None
    assert (told.model, told.error) == ("sim/echo", None)
    assert json.loads(request.body)["max_tokens"] == MAX_TOKENS


@pytest.mark.parametrize(
    ("events", "rate"),
    [
        ((*TWO, USAGE), 400.0),  # 40 tokens after the first in a tenth of a second
        (TWO, 10.0),
        ((token(content="all"),), None),
        (({"choices": [{"message": {"content": "not streamed"}}]},), None),
    ],
)
def test_speed_is_told_where_it_can_be(events: Sequence[object], rate: float | None) -> None:
    told = run(says(body(*events)))

    assert told.verdict == "ok"
    assert told.first_token_s == pytest.approx(0.1)
    assert told.tokens_per_s == (None if rate is None else pytest.approx(rate))


@pytest.mark.parametrize(("step", "events"), [(6.0, TWO[:1]), (1.0, TWO)])
def test_a_late_first_token_or_few_a_second_are_slow(step: float, events: Any) -> None:
    told = run(says(body(*events)), step=step)

    assert (told.verdict, told.error) == ("slow", None)
    assert told.detail.startswith("first token after")


def stalling(*events: object) -> Handler:
    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for event in events:
                yield f"data: {json.dumps(event)}\n\n".encode()
            await asyncio.Event().wait()

    return lambda _: httpx.Response(200, stream=Stream())


@pytest.mark.parametrize(
    ("events", "detail"), [((), "no token within"), ((token(content="one"),), "not done within")]
)
def test_it_has_an_end(events: Sequence[object], detail: str) -> None:
    told = run(stalling(*events), seconds=0.5)

    assert told.verdict == "slow"
    assert detail in told.detail


def test_it_reads_no_more_tokens_than_it_needs() -> None:
    told = run(stalling(*(token(content="x") for _ in range(MAX_TOKENS))))

    assert told.verdict == "ok"


@pytest.mark.parametrize(
    ("text", "status", "verdict", "detail"),
    [
        ('{"detail": "Invalid token."}', 401, "key_refused", "HTTP 401: Invalid token."),
        ('{"detail": "model not found: a/b"}', 404, "refused", "model not found"),
        ('{"detail": "no balance"}', 402, "refused", "HTTP 402: no balance"),
        ('{"detail": "slow down"}', 429, "refused", "HTTP 429"),
        ('{"detail": "broken"}', 500, "failing", "HTTP 500: broken"),
        ("<html>", 502, "failing", "HTTP 502"),
        ("<html>", 200, "failing", "no token"),
        ("", 302, "failing", "HTTP 302"),
        (body(), 200, "failing", "no token"),
        ("[1]\ndata: {}\n", 200, "failing", "no token"),
        (body({"choices": [None]}), 200, "failing", "no token"),
        (body(token(), {"choices": [{}]}), 200, "failing", "no token"),
        ('{"error": "Unhandled exception"}\n', 200, "failing", "Unhandled exception"),
        (body(*TWO, {"error": {"message": "Overloaded"}}), 200, "failing", "Overloaded"),
    ],
)
def test_each_failure_has_its_name(text: str, status: int, verdict: str, detail: str) -> None:
    told = run(says(text, status))

    assert told.verdict == verdict
    assert detail in told.detail
    assert isinstance(told.error, OpenCodeError)


def test_a_refused_key_is_its_typed_error() -> None:
    assert isinstance(run(says("{}", 403)).error, AuthenticationError)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ConnectTimeout("nobody"), "unreachable"),
        (httpx.ReadError("reset"), "failing"),
    ],
)
def test_nobody_there_is_not_the_same_as_a_broken_line(error: Exception, verdict: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    told = run(fail)

    assert told.verdict == verdict
    assert isinstance(told.error, ServerError)


@pytest.mark.parametrize("name", ["max_tokens", "stream_options"])
def test_a_field_that_a_server_refuses_is_left_out(name: str) -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        if name in seen[-1]:
            return httpx.Response(400, json={"error": {"message": f"unsupported: {name}"}})
        return httpx.Response(200, text=body(*TWO))

    assert run(answer).verdict == "ok"
    assert [name in sent for sent in seen] == [True, False]


def test_another_refusal_is_not_asked_again() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(400, json={"error": {"message": "no"}})

    assert run(answer).verdict == "refused"
    (request,) = seen
    assert request.headers["authorization"] == KEY_HEADERS["Authorization"]
    assert "cpk_" not in repr(ChatEndpoint("https://x", KEY_HEADERS))
