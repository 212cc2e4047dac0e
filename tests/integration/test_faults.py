"""Every way in which the API is known to fail ends in its class, and soon.

The expected classes are read off the tables of CHUTES.md and DESIGN.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

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
    QueryResult,
    RateLimitError,
    ServerError,
    Simulator,
    TruncatedStreamError,
)
from chutes_opencode.simulator import FAULTS, fault_names

SECONDS = 15
AT_ONCE = 3  # most of the time goes by while opencode waits before its own second try
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

NO_RESULT = QueryResult("", -1, "", "")
Outcome = tuple[QueryResult, OpenCodeError | None, float]


def meet(name: str) -> Outcome:
    """Return the result, the error that the caller is told, and the seconds it took."""
    llm = ChutesOpenCodeLLM(f"sim/fault/{name}", retries=1, limits=Limits(max_requests=5))
    began = time.monotonic()
    try:
        result = llm.prompt(PROMPT)
        told = result.error
    except OpenCodeError as error:
        told, result = error, error.result or NO_RESULT
    return result, told, time.monotonic() - began


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Where the outcomes are kept: each fault is met once."""
    return {}


@pytest.fixture
def outcome(
    simulator: Simulator, outcomes: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Outcome]:
    """Return what came of a fault."""
    monkeypatch.setenv("CHUTES_OPENCODE_MAX_PROCESSES", str(AT_ONCE))

    def look(name: str) -> Outcome:
        if not outcomes:
            names = [*EXPECTED, *SLOW]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                outcomes.update(zip(names, pool.map(meet, names), strict=True))
        return outcomes[name]

    return look


def test_every_fault_has_a_row() -> None:
    assert set(EXPECTED) | STALLS | SLOW == set(fault_names())


@pytest.mark.timeout(400)  # the first one waits for all
@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_ends_in_its_class_within_15_seconds(
    name: str, outcome: Callable[[str], Outcome]
) -> None:
    result, error, seconds = outcome(name)

    assert type(error) is EXPECTED[name]
    assert seconds <= SECONDS
    assert not result.success
    assert error.hint
    assert error.model == result.model == f"sim/fault/{name}"
    assert result.error is error
    assert 1 <= result.usage.num_requests <= 5


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_the_provider_s_own_words_are_told(name: str, outcome: Callable[[str], Outcome]) -> None:
    _, error, _ = outcome(name)

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
    result, error, _ = outcome(name)

    assert error is None
    assert (result.result, result.success) == (PROMPT, True)


def test_what_an_error_tells_beside_its_class(outcome: Callable[[str], Outcome]) -> None:
    def error(name: str) -> OpenCodeError:
        found = outcome(name)[1]
        assert found is not None
        return found

    half = PROMPT[: (len(PROMPT) + 1) // 2]
    cut, limit = error("finish-length"), error("endless-tools")
    quota, free = error("402-quota"), error("429-free-limit")
    rate = [error("429-retry-after-seconds"), error("429-retry-after-date")]
    now = datetime.now(UTC)
    assert isinstance(cut, MaxOutputTokensError)
    assert cut.partial_text == half
    assert outcome("finish-content-filter")[0].result == half
    assert isinstance(limit, LimitExceededError)
    assert (limit.limit, outcome("endless-tools")[0].usage.num_requests) == ("max_requests", 5)
    for billing in (quota, free):
        assert isinstance(billing, BillingError)
        assert billing.reset_time is not None
        assert (billing.reset_time.hour, billing.reset_time.minute) == (0, 0)
        assert now - timedelta(hours=1) < billing.reset_time < now + timedelta(hours=25)
    for limited in rate:
        assert isinstance(limited, RateLimitError)
        assert limited.reset_time is not None
        assert now - timedelta(minutes=10) < limited.reset_time < now + timedelta(seconds=5)


def test_a_provider_that_is_not_there(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:9/v1")

    result, error, seconds = meet("500-exhausted")

    assert type(error) is ServerError
    assert (error.status, error.response_body) == (None, None)
    assert seconds <= SECONDS
    assert result.cost_usd in (0.0, None)
