"""Every fault that breaks, slows or bends a stream, by model id: what arrives, what is billed."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from chutes_opencode.simulator import FAULTS, Simulator
from tests.patience import WAIT_SECONDS, join

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
Chunks = Callable[[httpx.Response], list[Any]]
WaitUntil = Callable[[Callable[[], bool]], None]

STREAMS = {
    "stream-bare-error-line": "half",
    "stream-bare-end": "half",
    "stream-error-event": "half",
    "wrong-json": "half",
    "empty-stream": "nothing",
    "only-done": "nothing",
}
CLOSED = {"stream-close": httpx.RemoteProtocolError, "stream-reset": httpx.ReadError}
STALLS = ["stream-stall", "stream-stall-first-byte"]
FINISHES = {
    "no-finish-reason": (None, "hello"),
    "unknown-finish-reason": ("weird", "hello"),
    "finish-length": ("length", "hel"),
    "finish-content-filter": ("content_filter", "hel"),
    "empty-answer": ("stop", ""),
}
OTHERS = ["slow-first-byte", "slow-tokens", "endless-tools"]


@contextmanager
def opened(simulator: Simulator, name: str) -> Iterator[httpx.Response]:
    """Open a stream of a fault's model that is read by the test."""
    headers = {"authorization": f"Bearer {simulator.api_token}"}
    body = {
        "model": f"sim/fault/{name}",
        "stream": True,
        "messages": [{"role": "user", "content": "hello"}],
    }
    url = f"{simulator.base_url}/chat/completions"
    with (
        httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as client,
        client.stream("POST", url, headers=headers, json=body) as answer,
    ):
        yield answer


@pytest.fixture
def stream(simulator: Simulator) -> Callable[[str], Any]:
    """Open a stream of a fault's model of the simulator that all tests share."""
    return partial(opened, simulator)


def test_each_fault_of_a_stream_is_tested_here_and_documented() -> None:
    tested = [name for table in (STREAMS, CLOSED, STALLS, FINISHES, OTHERS) for name in table]

    assert sorted(tested) == sorted(name for name in FAULTS if FAULTS[name].answer is None)
    assert all(FAULTS[name].about for name in tested)


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        (
            "stream-bare-error-line",
            '{"error": "Unhandled exception during response stream: instance disconnected"}',
        ),
        ("stream-bare-end", ""),
        (
            "stream-error-event",
            'data: {"error": {"message": "The server had an error while processing your request.", '
            '"type": "server_error", "param": null, "code": null}}\n\n',
        ),
        (
            "wrong-json",
            'data: {"id":"chatcmpl-broken","object":"chat.completion.chunk",'
            '"choices":[{"delta":\n\ndata: [DONE]\n\n',
        ),
        ("empty-stream", ""),
        ("only-done", "data: [DONE]\n\n"),
    ],
)
def test_broken_streams(simulator: Simulator, ask: Ask, name: str, tail: str) -> None:
    answer = ask(f"sim/fault/{name}", "hello", stream=True)

    sent, _, last = answer.text.removesuffix(tail).rpartition("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in sent.split("\n\n") if line]
    deltas = [event["choices"][0]["delta"] for event in events]
    half = [{"role": "assistant", "content": ""}, {"content": "hell"}]
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith(tail)
    assert last == ""
    assert deltas == (half if STREAMS[name] == "half" else [])
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    (entry,) = simulator.bill.entries
    assert (entry.outcome, entry.input_tokens, entry.output_tokens) == (
        "died",
        2,
        1 if deltas else 0,
    )


@pytest.mark.parametrize("name", CLOSED)
def test_connections_that_break(
    simulator: Simulator, stream: Callable[[str], Any], name: str
) -> None:
    lines: list[str] = []
    with stream(name) as answer, pytest.raises(CLOSED[name]):
        lines.extend(answer.iter_lines())

    assert '"content":"hell"' in lines[2]
    assert [entry.outcome for entry in simulator.bill.entries] == ["died"]


@pytest.mark.parametrize("name", [*STREAMS, *CLOSED])
def test_whole_answers_break_as_streams_do(simulator: Simulator, ask: Ask, name: str) -> None:
    try:
        body = ask(f"sim/fault/{name}").text
    except (httpx.RemoteProtocolError, httpx.ReadError):
        assert name in CLOSED
        body = ""

    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra data"):
        json.loads(body)
    assert [entry.outcome for entry in simulator.bill.entries] == ["died"]


def test_a_stream_that_stalls_ends_with_the_client(
    simulator: Simulator, stream: Callable[[str], Any], wait_until: WaitUntil
) -> None:
    with stream("stream-stall") as answer:
        lines = answer.iter_lines()
        while '"content":"hell"' not in next(lines):
            pass
        assert simulator.bill.total.requests == 0

    wait_until(lambda: len(simulator.bill.entries) == 1)
    (entry,) = simulator.bill.entries
    assert (entry.outcome, entry.output_tokens) == ("aborted", 1)


@pytest.mark.parametrize(
    ("name", "billed"), [("stream-stall", ["aborted"]), ("stream-stall-first-byte", [])]
)
def test_a_stall_ends_when_the_simulator_stops(
    wait_until: WaitUntil, name: str, billed: list[str]
) -> None:
    simulator = Simulator()
    simulator.start()
    lines: list[str] = []
    ended = threading.Event()

    def wait_for_ever() -> None:
        try:
            with opened(simulator, name) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
        except httpx.RemoteProtocolError:
            ended.set()

    def stalls() -> bool:
        begun = any('"content":"hell"' in line for line in lines)
        return len(simulator.requests) == 1 and begun == bool(billed)

    waiting = threading.Thread(target=wait_for_ever)
    waiting.start()
    wait_until(stalls)
    simulator.stop()
    join(waiting)

    assert ended.is_set()
    assert [entry.outcome for entry in simulator.bill.entries] == billed


@pytest.mark.parametrize(("name", "expected"), FINISHES.items())
def test_odd_ends(
    simulator: Simulator, ask: Ask, chunks: Chunks, name: str, expected: tuple[str | None, str]
) -> None:
    events = chunks(ask(f"sim/fault/{name}", "hello", stream=True))
    (whole,) = ask(f"sim/fault/{name}", "hello").json()["choices"]

    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert (events[-1]["choices"][0]["finish_reason"], text) == expected
    assert (whole["finish_reason"], whole["message"]["content"]) == expected
    assert [entry.outcome for entry in simulator.bill.entries] == ["complete"] * 2


@pytest.mark.parametrize(("name", "seconds"), [("slow-first-byte", 3), ("slow-tokens", 0.5)])
def test_slow_answers_are_whole(ask: Ask, name: str, seconds: float) -> None:
    started = time.monotonic()

    answer = ask(f"sim/fault/{name}", "hello")

    assert time.monotonic() - started >= seconds
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_endless_tools_call_an_offered_tool_in_every_step(ask: Ask) -> None:
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {}}}]
    answers = [{"role": "assistant", "content": None}, {"role": "tool", "content": "x"}] * 50

    messages = [{"role": "user", "content": "go"}, *answers]
    (choice,) = ask("sim/fault/endless-tools", messages=messages, tools=tools).json()["choices"]

    assert choice["message"]["tool_calls"][0]["function"] == {"name": "bash", "arguments": "{}"}
    assert choice["finish_reason"] == "tool_calls"
