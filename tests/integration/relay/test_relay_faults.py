"""The relay before every fault of the simulator: bounded, honest, and billed to the cent."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from chutes_opencode import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ContextOverflowError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenCodeError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    Simulator,
    TruncatedStreamError,
)
from chutes_opencode.errors import ColdModelError
from chutes_opencode.relay.server import Relay
from chutes_opencode.simulator.faults import fault_names
from tests.integration.relay.stage import PRICE, Prompt, new_client, open_prompt
from tests.patience import WAIT_SECONDS, longer_and_longer

# What each fault becomes; None: a whole answer, as far as the relay is concerned.
EXPECTED: dict[str, type[OpenCodeError] | None] = {
    "401-required": AuthenticationError,
    "401-not-found": AuthenticationError,
    "401-invalid": AuthenticationError,
    "401-expired": AuthenticationError,
    "402-quota": BillingError,
    "402-cap": BillingError,
    "402-tier-tee": BillingError,
    "402-tier-model": BillingError,
    "402-creator": BillingError,
    "404-model": ModelNotFoundError,
    "404-chute": ModelNotFoundError,
    "400-invalid": InvalidRequestError,
    "400-invalid-object": InvalidRequestError,
    "400-overflow-vllm": ContextOverflowError,
    "400-overflow-sglang-input": ContextOverflowError,
    "400-overflow-sglang-total": ContextOverflowError,
    "429-capacity": CapacityError,
    "429-infra-overload": CapacityError,
    "429-no-targets": CapacityError,
    "429-maintenance": RateLimitError,
    "429-free-limit": BillingError,
    "429-nginx": RateLimitError,
    "429-retry-after-seconds": RateLimitError,
    "429-retry-after-date": RateLimitError,
    "503-cold": ColdModelError,
    "503-disabled": ModelNotFoundError,
    "500-exhausted": ServerError,
    "500-no-result": ServerError,
    "504-html": ServerError,
    "502-html": ServerError,
    "403": AuthenticationError,
    "408": ServerError,
    "409": InvalidRequestError,
    "413": InvalidRequestError,
    "422": InvalidRequestError,
    "425": ServerError,
    "499": ServerError,
    "html-200": ServerError,
    "json-200": ServerError,
    "stream-bare-error-line": TruncatedStreamError,
    "stream-bare-end": TruncatedStreamError,
    "stream-close": TruncatedStreamError,
    "stream-reset": TruncatedStreamError,
    "stream-stall": TruncatedStreamError,
    "stream-stall-first-byte": PromptTimeoutError,
    "stream-error-event": TruncatedStreamError,
    "empty-stream": TruncatedStreamError,
    "only-done": TruncatedStreamError,
    "wrong-json": TruncatedStreamError,
    "no-finish-reason": TruncatedStreamError,
    "unknown-finish-reason": TruncatedStreamError,
    "finish-length": None,
    "finish-content-filter": None,
    "slow-first-byte": None,
    "slow-tokens": None,
    "endless-tools": None,
    "empty-answer": None,
}
TRANSIENT = (RateLimitError, ServerError)
ATTEMPTS = 2


def test_every_fault_is_in_the_table() -> None:
    assert set(EXPECTED) == set(fault_names())


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_lasting_fault_is_bounded_typed_and_billed(
    fault: str, start_simulator: Callable[..., Simulator]
) -> None:
    expected = EXPECTED[fault]

    def meet(seconds: float) -> tuple[Simulator, Prompt, httpx.Response]:
        simulator = start_simulator()
        with Relay() as relay, relay.lease() as lease, new_client() as client:
            prompt = open_prompt(
                relay,
                lease,
                simulator,
                f"sim/fault/{fault}",
                tries_left=ATTEMPTS,
                deadline=time.monotonic() + seconds,
                idle_seconds=1.0 if fault == "stream-stall" else WAIT_SECONDS,
            )
            answer = prompt.step(client)
            prompt.booking.close()
        simulator.stop()  # its bill is whole then, with what was cut
        return simulator, prompt, answer

    ends_by_deadline = fault == "stream-stall-first-byte"
    for seconds in longer_and_longer(2) if ends_by_deadline else [WAIT_SECONDS]:
        simulator, prompt, answer = meet(seconds)
        if simulator.requests:
            break
    booking = prompt.booking
    assert len(simulator.requests) <= ATTEMPTS
    if expected is None:
        assert booking.error is None
        assert answer.status_code == 200
        assert "chutes-opencode" not in answer.text
    else:
        assert isinstance(booking.error, expected)
        assert "ended by chutes-opencode" in answer.text
        once = not isinstance(booking.error, TRANSIENT) or fault == "unknown-finish-reason"
        assert len(simulator.requests) == (1 if once else ATTEMPTS)
    assert booking.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)


@pytest.mark.parametrize("fault", [name for name, error in EXPECTED.items() if error in TRANSIENT])
def test_a_fault_that_passes_costs_one_more_request_and_no_answer(
    fault: str, start_simulator: Callable[..., Simulator]
) -> None:
    simulator = start_simulator({"rules": [{"model": "sim/echo", "fault": fault, "times": 1}]})

    with Relay() as relay, relay.lease() as lease, new_client() as client:
        prompt = open_prompt(relay, lease, simulator, "sim/echo")
        answer = prompt.step(client)
        prompt.booking.close()

    assert answer.text.count('"content":"hello') + answer.text.count("[DONE]") >= 1
    assert (prompt.booking.ended, prompt.booking.error) == (None, None)
    assert len(simulator.requests) == 2
    assert prompt.booking.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)


@pytest.mark.parametrize("usage", ["end", "every", "never"])
def test_a_session_of_steps_costs_what_the_bill_says(
    usage: str, start_simulator: Callable[..., Simulator]
) -> None:
    simulator = start_simulator({"usage": usage})

    with Relay() as relay, relay.lease() as lease, new_client() as client:
        prompt = open_prompt(relay, lease, simulator, "sim/reasoning")
        for text in ("1 + 2", "3 * 4", "1 + 2"):
            prompt.ask(client, text)
        prompt.booking.close()

    assert simulator.bill.total.requests == 3
    assert prompt.booking.cost_usd == pytest.approx(simulator.bill.total.cost_usd, rel=1e-9)
    assert prompt.booking.usage.estimated is (usage == "never")


def test_fallbacks_and_sub_agents_are_on_the_same_bill(
    start_simulator: Callable[..., Simulator],
) -> None:
    simulator = start_simulator()
    full, other = "sim/fault/429-capacity", "sim/echo"

    with Relay() as relay, relay.lease() as lease, new_client() as client:
        prompt = open_prompt(
            relay,
            lease,
            simulator,
            full,
            fallback_models=(other,),
            prices={full: PRICE, other: PRICE},
        )
        assert prompt.ask(client).status_code == 200
        child = {**prompt.headers, "x-session-id": "ses_child", "x-parent-session-id": "ses_main"}
        assert client.post(prompt.url, headers=child, json=prompt.body()).status_code == 200
        prompt.booking.close()

    asked = [(e.requested_model, e.served_model) for e in prompt.booking.exchanges()]
    assert asked == [(full, None), (other, other), (other, other)]
    assert prompt.booking.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)
