"""Every way in which the API is known to fail ends in its class, and soon.

The expected classes are read off the tables of CHUTES.md and DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ChutesOpenCodeLLM,
    ColdModelError,
    ContentFilterError,
    ContextOverflowError,
    EmptyResponseError,
    InvalidRequestError,
    LimitExceededError,
    Limits,
    MaxOutputTokensError,
    ModelNotFoundError,
    OpenCodeError,
    PromptTimeoutError,
    QueryResult,
    RateLimitError,
    ServerError,
    Simulator,
    TruncatedStreamError,
    load_settings,
)
from chutes_opencode.simulator import FAULTS, BillTotal, fault_names
from tests.patience import longer_and_longer

AT_ONCE = 2
STALLS = {"stream-stall", "stream-stall-first-byte"}
SLOW = {"slow-first-byte", "slow-tokens"}
EXPECTED: dict[str, type[OpenCodeError]] = {
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
    "429-retry-after-seconds": RateLimitError,
    "429-retry-after-date": RateLimitError,
    "html-200": ServerError,
    "json-200": ServerError,
    "stream-bare-error-line": TruncatedStreamError,
    "stream-bare-end": TruncatedStreamError,
    "stream-close": TruncatedStreamError,
    "stream-reset": TruncatedStreamError,
    "stream-error-event": TruncatedStreamError,
    "empty-stream": TruncatedStreamError,
    "only-done": TruncatedStreamError,
    "wrong-json": TruncatedStreamError,
    "no-finish-reason": TruncatedStreamError,
    "unknown-finish-reason": TruncatedStreamError,
    "finish-length": MaxOutputTokensError,
    "finish-content-filter": ContentFilterError,
    "endless-tools": LimitExceededError,
    "empty-answer": EmptyResponseError,
}
WHOLE_ANSWERS = [name for name in EXPECTED if FAULTS[name].answer is not None]
PROMPT = "a prompt of some words"
# What may be tried again: opencode alone asks for ever, or for more than a minute, after these.
PASSING: dict[str, type[OpenCodeError]] = {
    "429-nginx": RateLimitError,
    "500-exhausted": ServerError,
    "html-200": ServerError,
    "json-200": ServerError,
    "stream-error-event": TruncatedStreamError,
    "stream-bare-end": TruncatedStreamError,
    "empty-stream": TruncatedStreamError,
    "wrong-json": TruncatedStreamError,
}

NO_RESULT = QueryResult("", -1, "", "")


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        result: Its result, partial or not.
        error: The error that the caller is told.
        sent: How many requests the simulator got.
        bill: What it charged for them.
    """

    result: QueryResult
    error: OpenCodeError | None
    sent: int
    bill: BillTotal


def meet(model: str, retries: int = 1, **arguments: Any) -> Outcome:
    """Ask a model of a simulator of its own: what one account learns, no other one knows."""
    with Simulator() as simulator:
        settings = load_settings(base_url=simulator.base_url, api_token=simulator.api_token)
        llm = ChutesOpenCodeLLM(model, settings=settings, retries=retries, **arguments)
        try:
            result = llm.prompt(PROMPT)
            told = result.error
        except OpenCodeError as error:
            told, result = error, error.result or NO_RESULT
    # It has ended: its bill is whole, with what was cut.
    sent = [request for request in simulator.requests if request.method == "POST"]
    return Outcome(result, told, len(sent), simulator.bill.total)


def meet_once(name: str) -> Outcome:
    """Meet a fault with a single attempt."""
    return meet(f"sim/fault/{name}", limits=Limits(max_requests=5))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Where the outcomes are kept: each fault is met once."""
    return {}


@pytest.fixture
def outcome(
    temp_folder: Path, outcomes: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Outcome]:
    """Return what came of a fault."""
    monkeypatch.setenv("CHUTES_OPENCODE_MAX_PROCESSES", str(AT_ONCE))

    def look(name: str) -> Outcome:
        if not outcomes:
            names = [*EXPECTED, *SLOW]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                outcomes.update(zip(names, pool.map(meet_once, names), strict=True))
        return outcomes[name]

    return look


def test_every_fault_has_a_row() -> None:
    assert set(EXPECTED) | STALLS | SLOW == set(fault_names())


@pytest.mark.timeout(3600)  # the first one waits for all
@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_ends_in_its_class_after_one_request(
    name: str, outcome: Callable[[str], Outcome]
) -> None:
    met = outcome(name)

    result, error = met.result, met.error
    assert type(error) is EXPECTED[name]
    assert not result.success
    assert error.hint
    assert error.model == result.model == f"sim/fault/{name}"
    assert result.error is error
    assert met.sent == result.usage.num_requests == (5 if name == "endless-tools" else 1)
    assert result.cost_usd == pytest.approx(met.bill.cost_usd, abs=1e-12)


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_the_provider_s_own_words_are_told(name: str, outcome: Callable[[str], Outcome]) -> None:
    error = outcome(name).error

    answer = FAULTS[name].answer
    assert error is not None
    assert answer is not None
    assert error.status == answer.status
    assert error.response_body is not None
    if "{" not in answer.body.replace('{"', ""):  # no placeholder
        assert error.response_body == answer.body
    assert error.request_id


@pytest.mark.parametrize("name", SLOW)
def test_slow_is_no_failure(name: str, outcome: Callable[[str], Outcome]) -> None:
    met = outcome(name)

    assert met.error is None
    assert (met.result.result, met.result.success) == (PROMPT, True)


@pytest.mark.parametrize("name", STALLS)
def test_a_provider_that_falls_silent_is_left_at_the_timeout(name: str) -> None:
    for seconds in longer_and_longer(6, tries=3):
        met = meet(f"sim/fault/{name}", timeout_seconds=seconds)
        if met.bill.requests or (met.sent and name == "stream-stall-first-byte"):
            break  # opencode had started early enough

    assert type(met.error) is PromptTimeoutError
    assert met.sent == met.result.usage.num_requests == 1
    assert met.result.cost_usd == pytest.approx(met.bill.cost_usd, rel=0.1)
    assert met.result.usage.estimated


@pytest.mark.parametrize("name", PASSING)
def test_a_step_is_tried_three_times_in_all_and_no_more(name: str) -> None:
    met = meet(f"sim/fault/{name}", retries=3)

    assert type(met.error) is PASSING[name]
    assert met.sent == met.result.usage.num_requests == 3
    assert [exchange.attempt for exchange in met.result.exchanges] == [1, 2, 3]
    assert [type(attempt.error) for attempt in met.result.attempts] == [PASSING[name]] * 3
    assert PROMPT.startswith(met.result.result), "what was said in vain stands there once at most"
    assert met.result.cost_usd == pytest.approx(met.bill.cost_usd, abs=1e-12)


def test_what_an_error_tells_beside_its_class(outcome: Callable[[str], Outcome]) -> None:
    def error(name: str) -> OpenCodeError:
        found = outcome(name).error
        assert found is not None
        return found

    half = PROMPT[: (len(PROMPT) + 1) // 2]
    cut, limit = error("finish-length"), error("endless-tools")
    quota, free = error("402-quota"), error("429-free-limit")
    rate = [error("429-retry-after-seconds"), error("429-retry-after-date")]
    now = datetime.now(UTC)
    assert isinstance(cut, MaxOutputTokensError)
    assert cut.partial_text == half
    assert outcome("finish-content-filter").result.result == half
    assert isinstance(limit, LimitExceededError)
    assert (limit.limit, outcome("endless-tools").result.usage.num_requests) == ("max_requests", 5)
    for billing in (quota, free):
        assert isinstance(billing, BillingError)
        assert billing.reset_time is not None
        assert (billing.reset_time.hour, billing.reset_time.minute) == (0, 0)
        assert now - timedelta(hours=2) < billing.reset_time < now + timedelta(hours=25)
    for limited in rate:
        assert isinstance(limited, RateLimitError)
        assert limited.reset_time is not None
        assert now - timedelta(hours=2) < limited.reset_time < now + timedelta(seconds=5)


def test_a_provider_that_is_not_there() -> None:
    met = meet("sim/fault/500-exhausted", base_url="http://127.0.0.1:9/v1")

    assert type(met.error) is ServerError
    assert (met.error.status, met.error.response_body) == (None, None)
    assert met.result.cost_usd == 0
