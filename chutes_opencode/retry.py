"""When to try again and how long to wait: one pure decision, and the one loop that sleeps.

====================  =========================================================================
PermanentError        never tried again
RetryOnceError        one more try in all, without a wait
RateLimitError        waits until `reset_time` (not told: `rate_limit_wait_s`)
ServerError           waits `retry_after` if told, else the backoff
ColdModelError        as ServerError, with a longer backoff: an instance takes minutes
other TransientError  waits the backoff
anything else         never: a fault of ours is not mended by repeating it
====================  =========================================================================

No wait is longer than `max_wait_s` or reaches the deadline: then the error is raised at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from chutes_opencode.errors import (
    ColdModelError,
    ConfigurationError,
    OpenCodeError,
    RateLimitError,
    RetryOnceError,
    ServerError,
    TransientError,
)
from chutes_opencode.events import Retrying

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try.

    Attributes:
        retries: Attempts in all, the first included.
        base_wait_s: Backoff after the first failure, seconds.
        factor: Growth of the backoff with each further failure.
        max_backoff_s: Ceiling of the backoff before its jitter, seconds.
        jitter: Part of the backoff that is random: 0.25 spreads it over -25 % … +25 %.
        cold_wait_s: First backoff when the model has no instance yet, seconds.
        rate_limit_wait_s: Wait for a rate limit whose end was not told, seconds.
        max_wait_s: The longest wait that is worth it, seconds.
    """

    retries: int = 3
    base_wait_s: float = 1.0
    factor: float = 2.0
    max_backoff_s: float = 60.0
    jitter: float = 0.25
    cold_wait_s: float = 10.0
    rate_limit_wait_s: float = 60.0
    max_wait_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what cannot be a policy.

        Raises:
            ConfigurationError: Less than one attempt, or a negative or senseless number.
        """
        waits = (self.base_wait_s, self.max_backoff_s, self.cold_wait_s, self.rate_limit_wait_s)
        if self.retries < 1:
            raise ConfigurationError(raw_message=f"retries must be at least 1, not {self.retries}")
        # Written so that NaN is refused too.
        if not all(wait >= 0 for wait in (*waits, self.max_wait_s)):
            raise ConfigurationError(raw_message="the waits of a RetryPolicy must not be negative")
        if not (self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ConfigurationError(raw_message="factor must be >= 1 and jitter between 0 and 1")

    def backoff_s(self, attempt: int, random01: float, base_s: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt`.

        Args:
            attempt: 1 for the first.
            random01: A random number from 0 to 1.
            base_s: First backoff; None: `base_wait_s`.
        """
        base = self.base_wait_s if base_s is None else base_s
        # The exponent is capped: a thousandth attempt must not overflow.
        plain = min(base * self.factor ** min(attempt - 1, 64), self.max_backoff_s)
        return plain * (1 + self.jitter * (2 * random01 - 1))


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again.

    Attributes:
        seconds: After this wait.
        until: The time (aware) at which it ends.
    """

    seconds: float
    until: datetime


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not try again.

    Attributes:
        reason: "permanent", "attempts", "once", "max_wait" or "deadline".
    """

    reason: str


Decision = Wait | Stop


def decide(
    policy: RetryPolicy,
    error: BaseException,
    attempt: int,
    *,
    now: datetime,
    remaining_s: float | None = None,
    random01: float = 0.5,
    used_up: bool = False,
    retried_once: bool = False,
) -> Decision:
    """Decide what follows a failed attempt.

    Args:
        policy: How often and how patiently.
        error: Why it failed.
        attempt: Its number, 1 for the first.
        now: The time (aware).
        remaining_s: Seconds until the deadline; None: there is none.
        random01: A random number from 0 to 1, for the jitter.
        used_up: Whether someone below (the relay) has used the attempts of this error.
        retried_once: Whether an earlier attempt was already a RetryOnceError.
    """
    if not isinstance(error, RetryOnceError | TransientError):
        return Stop("permanent")
    if used_up or attempt >= policy.retries:
        return Stop("attempts")
    if isinstance(error, RetryOnceError) and retried_once:
        return Stop("once")
    seconds = _wait_s(policy, error, attempt, now, random01)
    if seconds > policy.max_wait_s:
        return Stop("max_wait")
    if remaining_s is not None and seconds >= remaining_s:
        return Stop("deadline")
    return Wait(seconds, now + timedelta(seconds=seconds))


def _wait_s(
    policy: RetryPolicy, error: OpenCodeError, attempt: int, now: datetime, random01: float
) -> float:
    if isinstance(error, RetryOnceError):
        return 0.0
    if isinstance(error, RateLimitError):
        if error.reset_time is None:
            return policy.rate_limit_wait_s
        return max((error.reset_time - now).total_seconds(), 0.0)
    if isinstance(error, ServerError) and error.retry_after is not None:
        return max(error.retry_after, 0.0)
    cold = isinstance(error, ColdModelError)
    return policy.backoff_s(attempt, random01, policy.cold_wait_s if cold else None)


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a retry loop, to be replaced in tests.

    Attributes:
        wall: The time (aware), for the reset times that providers tell.
        monotonic: Seconds of a clock that never jumps, for the deadline.
    """

    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


async def run_with_retries(
    attempt: Callable[[int], Awaitable[T]],
    policy: RetryPolicy,
    *,
    deadline: float | None = None,
    clock: Clock | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    random01: Callable[[], float] = random.random,
    on_retry: Callable[[Retrying], object] | None = None,
    used_up: Callable[[OpenCodeError], bool] | None = None,
) -> T:
    """Call `attempt` until it succeeds or the policy says stop.

    Args:
        attempt: Called with the attempt's number, 1 for the first.
        policy: How often and how patiently.
        deadline: On the monotonic clock, seconds; None: there is none.
        clock: None: the real ones.
        sleep: Waits the given seconds.
        random01: Random numbers from 0 to 1.
        on_retry: Told of each failed attempt that another one follows, before the wait.
        used_up: Whether the attempts of an error were used up below; None: they never were.

    Returns:
        What the first attempt that succeeded returned.

    Raises:
        OpenCodeError: The last attempt's; `on_retry` was told the earlier ones.
    """
    clock = clock or Clock()
    number, retried_once = 1, False
    while True:
        try:
            return await attempt(number)
        except OpenCodeError as error:
            failure = error
            decision = decide(
                policy,
                error,
                number,
                now=clock.wall(),
                remaining_s=None if deadline is None else deadline - clock.monotonic(),
                random01=random01(),
                used_up=used_up is not None and used_up(error),
                retried_once=retried_once,
            )
            if isinstance(decision, Stop):
                raise
        # Outside of `except`: while we sleep, the failed attempt's frames are free to go.
        retried_once = retried_once or isinstance(failure, RetryOnceError)
        if on_retry is not None:
            on_retry(Retrying(attempt=number, error=failure, wait_seconds=decision.seconds))
        await sleep(decision.seconds)
        number += 1
