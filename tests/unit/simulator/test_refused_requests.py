"""Requests that POST /v1/chat/completions refuses for what they are."""

from collections.abc import Callable

import httpx
import pytest

from chutes_opencode.simulator import Simulator

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
Post = Callable[[str], httpx.Response]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("{", 400, "Invalid JSON in request body."),
        ("[]", 400, "Invalid JSON in request body."),
        ("", 400, "Invalid JSON in request body."),
        ('{"messages": [{}]}', 422, ["body", "model"]),
        ('{"model": 1, "messages": [{}]}', 422, ["body", "model"]),
        ('{"model": "sim/echo"}', 422, ["body", "messages"]),
        ('{"model": "sim/echo", "messages": []}', 422, ["body", "messages"]),
        ('{"model": "sim/echo", "messages": ["x"]}', 422, ["body", "messages"]),
        ('{"model": "nope", "messages": [{}]}', 404, "model not found: nope"),
        ('{"model": "sim/fault/nope", "messages": [{}]}', 404, "model not found: sim/fault/nope"),
    ],
)
def test_malformed_requests_are_refused(
    simulator: Simulator, post: Post, body: str, status: int, detail: object
) -> None:
    answer = post(body)

    found = answer.json()["detail"]
    assert answer.status_code == status
    assert (found if isinstance(found, str) else found[0]["loc"]) == detail
    assert simulator.bill.entries == ()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("sim/size/many", "x"),
        ("sim/script", '{"steps": [{"txt": "x"}]}'),
        ("sim/script", '{"steps": [{"fault": "teapot"}]}'),
    ],
)
def test_a_reply_that_cannot_be_made_is_a_400(ask: Ask, model: str, text: str) -> None:
    answer = ask(model, text)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Invalid request: Invalid request: {")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            "vllm",
            "This model's maximum context length is 10 tokens. However, you requested 18 tokens "
            "(11 in the messages, 7 in the completion).",
        ),
        (
            "sglang",
            "The input (11 tokens) is longer than the model's context length (10 tokens).",
        ),
    ],
)
def test_too_long_an_input_is_refused_in_the_engines_words(
    asking: Asking, engine: str, expected: str
) -> None:
    row = {"id": "m", "owned_by": engine, "context_length": 10}
    with Simulator({"models": [row]}) as simulator:
        ask = asking(simulator)
        fits = ask("m", "x" * 40)
        overflows = ask("m", "x" * 41, max_tokens=7)

    assert (fits.status_code, overflows.status_code) == (200, 400)
    assert expected in overflows.json()["detail"]
    assert simulator.bill.total.requests == 1
