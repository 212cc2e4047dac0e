"""A relay that stops and a provider that goes while a prompt runs; and text as it is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    Done,
    Event,
    QueryResult,
    ServerError,
    Simulator,
    TextDelta,
)
from chutes_opencode.relay.server import shared_relay

Wait = Callable[..., None]
StartSimulator = Callable[..., Simulator]
WORDS = "some words of a longer answer " * 10
SLOW: dict[str, Any] = {"rules": [{"model": "sim/echo", "token_delay_s": 0.2}]}


def writing(heard: list[Event]) -> Callable[[], bool]:
    """Return whether the model has begun to answer by now."""
    return lambda: any(isinstance(event, TextDelta) for event in heard)


def test_text_is_told_while_the_model_still_writes(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(SLOW)
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False)
    billed_at_first_delta, deltas = None, []

    for event in llm.stream(WORDS):
        if isinstance(event, TextDelta):
            deltas.append((time.monotonic(), event.text))
            if billed_at_first_delta is None:
                billed_at_first_delta = simulator.bill.total.requests
        last = event

    assert isinstance(last, Done)
    assert billed_at_first_delta == 0, "the answer was not over then"
    assert "".join(text for _, text in deltas) == WORDS == last.result.result
    assert len(deltas) >= 10
    assert deltas[-1][0] - deltas[0][0] > 2, "each came when it was written"


@pytest.mark.parametrize("retries", [1, 2])
def test_a_relay_that_stops_ends_or_restarts_its_prompts(
    start_simulator: StartSimulator, wait_until: Wait, retries: int
) -> None:
    simulator = start_simulator(SLOW)
    heard: list[Event] = []
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=retries, on_event=heard.append)
    relay = shared_relay()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(llm.prompt, WORDS)
        wait_until(writing(heard))
        relay.stop()
        if retries == 1:
            with pytest.raises(ServerError, match="relay stopped") as raised:
                future.result()
            assert raised.value.result is not None
            result = raised.value.result
        else:
            result = future.result()
            assert result.result == WORDS

    assert not relay.alive
    assert result.usage.num_requests == retries
    assert result.usage.estimated
    wait_until(lambda: len(simulator.bill.entries) == retries)
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, rel=0.1)
    assert llm.prompt("x").success, "another relay has started"
    assert shared_relay().alive


def test_a_provider_that_goes_ends_its_prompt_and_no_other(
    start_simulator: StartSimulator, wait_until: Wait
) -> None:
    gone, staying = start_simulator(SLOW), Simulator(SLOW)
    heard: list[Event] = []

    def ask(simulator: Simulator, on_event: Callable[[Event], object] | None) -> QueryResult:
        llm = ChutesOpenCodeLLM(
            "sim/echo",
            builtin_tools=False,
            base_url=simulator.base_url,
            retries=2,
            on_event=on_event,
        )
        return llm.batch([WORDS])[0]

    with staying, ThreadPoolExecutor(2) as pool:
        lost, whole = pool.submit(ask, gone, heard.append), pool.submit(ask, staying, None)
        wait_until(writing(heard))
        gone.stop()
        began = time.monotonic()
        failed = lost.result()
        seconds = time.monotonic() - began
        assert whole.result().result == WORDS

    assert isinstance(failed.error, ServerError)
    assert failed.error.hint
    assert seconds < 60
    assert len(failed.exchanges) == 2
    assert failed.cost_usd == pytest.approx(gone.bill.total.cost_usd, rel=0.1)
