"""When to try again and how long to wait. No test sleeps: clock, sleep and chance are given in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    EmptyResponseError,
    InvalidRequestError,
    LimitExceededError,
    MaxOutputTokensError,
    ModelNotFoundError,
    OpenCodeError,
    OpenCodeNotFoundError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    StructuredOutputError,
    ToolServerError,
    TransientError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import Retrying
from chutes_opencode.retry import Clock, Decision, RetryPolicy, Stop, Wait, decide, run_with_retries

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = RetryPolicy()


def in_seconds(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def after(error: BaseException, attempt: int = 1, **more: Any) -> Decision:
    return decide(more.pop("policy", POLICY), error, attempt, **{"now": NOW, **more})


TABLE: list[tuple[BaseException, float | str, float | str]] = [
    (AuthenticationError(), "permanent", "permanent"),
    (BillingError(reset_time=in_seconds(1)), "permanent", "permanent"),
    (InvalidRequestError(), "permanent", "permanent"),
    (ModelNotFoundError(), "permanent", "permanent"),
    (ContextOverflowError(), "permanent", "permanent"),
    (ContentFilterError(), "permanent", "permanent"),
    (LimitExceededError(), "permanent", "permanent"),
    (ConfigurationError(), "permanent", "permanent"),
    (OpenCodeNotFoundError(), "permanent", "permanent"),
    (ToolServerError(), "permanent", "permanent"),
    (MaxOutputTokensError(), 0.0, 0.0),
    (StructuredOutputError(), 0.0, 0.0),
    (RateLimitError(), 60.0, 60.0),
    (RateLimitError(reset_time=in_seconds(7)), 7.0, 7.0),
    (RateLimitError(reset_time=in_seconds(-7)), 0.0, 0.0),
    (RateLimitError(reset_time=in_seconds(120)), 120.0, 120.0),
    (RateLimitError(reset_time=in_seconds(121)), "max_wait", "max_wait"),
    (CapacityError(), 60.0, 60.0),
    (CapacityError(reset_time=in_seconds(3)), 3.0, 3.0),
    (ServerError(), 1.0, 2.0),
    (ServerError(retry_after=9.5), 9.5, 9.5),
    (ServerError(retry_after=0), 0.0, 0.0),
    (ServerError(retry_after=-1), 0.0, 0.0),
    (ServerError(retry_after=121), "max_wait", "max_wait"),
    (ColdModelError(), 10.0, 20.0),
    (ColdModelError(retry_after=5), 5.0, 5.0),
    (TruncatedStreamError(), 1.0, 2.0),
    (PromptTimeoutError(), 1.0, 2.0),
    (UnknownOpenCodeError(), 1.0, 2.0),
    (EmptyResponseError(), 1.0, 2.0),
    (TransientError(), 1.0, 2.0),
    # Neither a branch of the tree nor ours: a fault is not mended by repeating it.
    (OpenCodeError(), "permanent", "permanent"),
    (TypeError("a bug"), "permanent", "permanent"),
    (KeyboardInterrupt(), "permanent", "permanent"),
]


@pytest.mark.parametrize(
    ("error", "first", "second"), TABLE, ids=lambda value: type(value).__name__
)
def test_what_follows_a_failure(
    error: BaseException, first: float | str, second: float | str
) -> None:
    for attempt, expected in ((1, first), (2, second)):
        decision = after(error, attempt)

        if isinstance(expected, str):
            assert decision == Stop(expected)
        else:
            assert decision == Wait(expected, until=in_seconds(expected))


@pytest.mark.parametrize("error", [ServerError(), RateLimitError(), MaxOutputTokensError()])
def test_the_attempts_are_counted_in_all(error: OpenCodeError) -> None:
    assert after(error, 3) == Stop("attempts")
    assert after(error, 1, policy=RetryPolicy(retries=1)) == Stop("attempts")
    assert isinstance(after(error, 3, policy=RetryPolicy(retries=4)), Wait)


def test_attempts_that_were_used_up_below_are_used_up() -> None:
    assert after(ServerError(), used_up=True) == Stop("attempts")


def test_sampling_gets_one_more_try_only() -> None:
    assert after(MaxOutputTokensError(), 2, retried_once=True) == Stop("once")
    assert isinstance(after(ServerError(), 2, retried_once=True), Wait)


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (RateLimitError(reset_time=in_seconds(30)), 30.0),
        (RateLimitError(), 60.0),
        (ServerError(retry_after=30), 30.0),
        (ServerError(), 1.0),
        (MaxOutputTokensError(), 0.0),
    ],
)
def test_a_wait_that_reaches_the_deadline_is_not_begun(error: OpenCodeError, needed: float) -> None:
    assert after(error, remaining_s=needed) == Stop("deadline")
    assert after(error, remaining_s=needed + 0.1) == Wait(needed, in_seconds(needed))


def test_the_bound_of_a_wait_is_the_policys() -> None:
    patient = RetryPolicy(max_wait_s=1000)

    assert after(RateLimitError(reset_time=in_seconds(999)), policy=patient) == Wait(
        999.0, in_seconds(999)
    )
    assert after(RateLimitError(), policy=RetryPolicy(rate_limit_wait_s=5)) == Wait(
        5.0, in_seconds(5)
    )
    assert after(RateLimitError(), policy=RetryPolicy(max_wait_s=59)) == Stop("max_wait")


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000, 60.0)]
)
def test_the_backoff_doubles_up_to_its_ceiling(attempt: int, seconds: float) -> None:
    assert POLICY.backoff_s(attempt, 0.5) == seconds


@pytest.mark.parametrize(("random01", "seconds"), [(0.0, 1.5), (0.5, 2.0), (1.0, 2.5)])
def test_jitter_spreads_the_backoff_to_both_sides(random01: float, seconds: float) -> None:
    assert POLICY.backoff_s(2, random01) == seconds


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1), st.floats(1, 10))
def test_a_backoff_is_never_negative_nor_beyond_its_bounds(
    attempt: int, random01: float, jitter: float, factor: float
) -> None:
    policy = RetryPolicy(jitter=jitter, factor=factor)

    assert 0 <= policy.backoff_s(attempt, random01) <= 120


@given(
    st.sampled_from([error for error, *_ in TABLE]),
    st.integers(1, 5),
    st.none() | st.floats(-10, 1000),
    st.floats(0, 1),
)
def test_a_wait_respects_every_bound(
    error: BaseException, attempt: int, remaining_s: float | None, random01: float
) -> None:
    decision = after(error, attempt, remaining_s=remaining_s, random01=random01)

    if isinstance(decision, Wait):
        assert attempt < POLICY.retries
        assert 0 <= decision.seconds <= POLICY.max_wait_s
        assert remaining_s is None or decision.seconds < remaining_s


@pytest.mark.parametrize(
    "bad",
    [
        {"retries": 0},
        {"base_wait_s": -1},
        {"max_wait_s": -0.1},
        {"cold_wait_s": float("nan")},
        {"rate_limit_wait_s": -1},
        {"max_backoff_s": -1},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
    ids=str,
)
def test_a_senseless_policy_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**bad)


def test_a_policy_is_a_value() -> None:
    assert RetryPolicy(retries=2) == RetryPolicy(retries=2)
    with pytest.raises(FrozenInstanceError):
        POLICY.retries = 5  # type: ignore[misc]


@dataclass
class World:
    """A clock that only sleeping moves, and what was seen of it."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)
    told: list[Retrying] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: in_seconds(self.seconds - 1000), monotonic=lambda: self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def run(self, outcomes: list[BaseException | str], **more: Any) -> Any:
        """Run attempts with these outcomes: an error is raised, a text returned."""

        async def attempt(number: int) -> str:
            outcome = outcomes[number - 1]
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        return asyncio.run(self.loop(attempt, **more))

    async def loop(self, attempt: Callable[[int], Awaitable[str]], **more: Any) -> str:
        return await run_with_retries(
            attempt,
            more.pop("policy", POLICY),
            clock=self.clock,
            sleep=self.sleep,
            random01=lambda: 0.5,
            on_retry=self.told.append,
            **more,
        )


def test_a_success_needs_no_second_attempt() -> None:
    world = World()

    assert world.run(["4"]) == "4"
    assert (world.slept, world.told) == ([], [])


def test_failures_are_waited_out_and_told() -> None:
    world, first, second = World(), ServerError(), RateLimitError()

    assert world.run([first, second, "4"]) == "4"
    assert world.slept == [1.0, 60.0]
    assert world.told == [
        Retrying(attempt=1, error=first, wait_seconds=1.0),
        Retrying(attempt=2, error=second, wait_seconds=60.0),
    ]


def test_the_last_error_is_raised_and_the_earlier_ones_were_told() -> None:
    world, errors = World(), [ServerError(raw_message=str(n)) for n in range(3)]

    with pytest.raises(ServerError) as caught:
        world.run([*errors])

    assert caught.value is errors[2]
    assert [record.error for record in world.told] == errors[:2]


def test_a_permanent_error_is_raised_at_once() -> None:
    world = World()

    with pytest.raises(AuthenticationError):
        world.run([AuthenticationError()])

    assert world.slept == []


def test_a_reset_time_is_waited_for_on_the_wall_clock() -> None:
    world = World()

    world.run([RateLimitError(reset_time=in_seconds(5)), "4"])

    assert world.slept == [5.0]


def test_a_reset_time_that_waiting_has_reached_is_not_waited_for_again() -> None:
    world = World()
    error = RateLimitError(reset_time=in_seconds(5))

    world.run([error, error, "4"])

    assert world.slept == [5.0, 0.0]


def test_no_wait_passes_the_deadline() -> None:
    world = World()

    with pytest.raises(ServerError):
        world.run([ServerError(), ServerError(), "4"], deadline=1002.5)

    assert world.slept == [1.0]


def test_sampling_is_tried_once_more_even_after_another_failure() -> None:
    world = World()

    assert world.run([ServerError(), MaxOutputTokensError(), "4"]) == "4"
    assert world.slept == [1.0, 0.0]


def test_sampling_that_fails_twice_is_raised() -> None:
    world = World()

    with pytest.raises(StructuredOutputError):
        world.run([MaxOutputTokensError(), StructuredOutputError(), "4"])

    assert world.slept == [0.0]


def test_a_failure_between_two_samplings_does_not_reset_their_count() -> None:
    world, policy = World(), RetryPolicy(retries=9)

    with pytest.raises(MaxOutputTokensError):
        world.run([MaxOutputTokensError(), ServerError(), MaxOutputTokensError()], policy=policy)


def test_attempts_used_up_below_end_the_loop() -> None:
    world, relayed = World(), ServerError(request_id="relayed")

    with pytest.raises(ServerError) as caught:
        world.run([ServerError(), relayed, "4"], used_up=lambda error: error is relayed)

    assert caught.value is relayed
    assert world.slept == [1.0]


@pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("x"), OSError(5, "disk")])
def test_what_is_not_ours_goes_straight_through(bug: Exception) -> None:
    world = World()

    with pytest.raises(type(bug)):
        world.run([bug, "4"])

    assert (world.slept, world.told) == ([], [])


def test_a_cancelled_attempt_is_not_tried_again() -> None:
    world = World()

    with pytest.raises(asyncio.CancelledError):
        world.run([asyncio.CancelledError(), "4"])

    assert world.slept == []


def test_a_cancelled_wait_ends_the_loop() -> None:
    attempts: list[int] = []

    async def attempt(number: int) -> str:
        attempts.append(number)
        raise ServerError

    async def cancelled(_: float) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run_with_retries(attempt, POLICY, sleep=cancelled))

    assert attempts == [1]


def test_without_anything_given_it_uses_the_real_clock() -> None:
    outcomes: list[BaseException | str] = [MaxOutputTokensError(), "4"]

    async def attempt(number: int) -> str:
        outcome = outcomes[number - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert asyncio.run(run_with_retries(attempt, POLICY)) == "4"
    assert abs(Clock().wall() - datetime.now(UTC)) < timedelta(minutes=1)
