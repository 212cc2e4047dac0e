"""What may run now, and what becomes of a failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from chutes_opencode.batch.running.gates import (
    BATCH_BUDGET,
    MAX_REQUEUES,
    Gates,
    Keep,
    Leave,
    Requeue,
    Stop,
    Ticket,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    InvalidRequestError,
    LimitExceededError,
    MaxOutputTokensError,
    ModelNotFoundError,
    NoWorkerError,
    OpenCodeError,
    OpenCodeNotFoundError,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)

NOW = 1_000_000.0
COLD = ColdModelError(raw_message="no instance")
GONE = ModelNotFoundError(raw_message="no such model")


def limited(seconds: float | None, cls: type[RateLimitError] = RateLimitError) -> RateLimitError:
    reset = None if seconds is None else datetime.fromtimestamp(NOW + seconds, UTC)
    return cls(reset_time=reset, raw_message="slow down")


def fail(gates: Gates, error: OpenCodeError, at: float = NOW, model: str = "a", **more: Any) -> Any:
    """Let a task in that fails at once."""
    ticket = gates.enter(model, at, more.get("since"))
    return gates.decide(ticket, error, more.get("requeued", 0), at)


# --- what stops a batch, and what is an item's own ------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AuthenticationError(raw_message="x"), "authentication"),
        (BillingError(raw_message="x"), "billing"),
        (OpenCodeNotFoundError(raw_message="x"), "opencode"),
        (NoWorkerError(raw_message="x"), "workers"),
        (LimitExceededError(limit=BATCH_BUDGET), "budget"),
        (LimitExceededError(limit="max_total_cost_usd"), "budget"),
        (LimitExceededError(limit="max_process_cost_usd"), "budget"),
    ],
)
def test_what_every_further_item_would_meet_stops_the_batch(
    error: OpenCodeError, reason: str
) -> None:
    assert fail(Gates(["a", "b"]), error) == Stop(reason, error)


@pytest.mark.parametrize(
    "error",
    [
        LimitExceededError(limit="max_cost_usd"),
        LimitExceededError(limit="max_requests"),
        LimitExceededError(limit=BATCH_BUDGET, overrun=True),
        InvalidRequestError(raw_message="x"),
        ContextOverflowError(raw_message="x"),
        ContentFilterError(raw_message="x"),
        ConfigurationError(raw_message="x"),
        MaxOutputTokensError(raw_message="x"),
        PromptTimeoutError(raw_message="x"),
        ServerError(raw_message="x", retry_after=60.0),
        UnknownOpenCodeError(raw_message="x"),
        limited(None),
        limited(None, CapacityError),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'limit', '')}",
)
def test_any_other_failure_is_the_items_own(error: OpenCodeError) -> None:
    gates = Gates(["a"])

    assert fail(gates, error) == Keep()
    assert gates.admits("a", NOW)


# --- a cold model ---------------------------------------------------------------------------------


def test_a_cold_model_is_paused_and_the_others_go_on() -> None:
    gates = Gates(["a", "b"])

    assert fail(gates, COLD) == Requeue(NOW + 30, "model")

    assert not gates.admits("a", NOW + 29)
    assert gates.opens_at("a", NOW) == NOW + 30
    assert gates.admits("b", NOW)
    assert not gates.closed("a")


def test_after_its_pause_one_task_tries_it() -> None:
    gates = Gates(["a"])
    fail(gates, COLD)

    probe = gates.enter("a", NOW + 30)

    assert gates.opens_at("a", NOW + 31) == math.inf
    gates.succeeded(probe)
    assert gates.admits("a", NOW + 31)
    second = gates.enter("a", NOW + 31)
    assert gates.admits("a", NOW + 31), "no probe is needed any more"
    gates.succeeded(second)


def test_pauses_double_up_to_five_minutes() -> None:
    gates, now, waits = Gates(["a"], max_pause_s=1e6), NOW, []
    for _ in range(6):
        decision = fail(gates, COLD, now)
        waits.append(decision.until - now)
        now = decision.until

    assert waits == [30, 60, 120, 240, 300, 300]


def test_a_pause_is_not_shorter_than_the_provider_asks_for() -> None:
    error = ColdModelError(raw_message="x", retry_after=100.0)

    assert fail(Gates(["a"]), error) == Requeue(NOW + 100, "model")


def test_those_that_were_on_their_way_do_not_make_the_pause_longer() -> None:
    gates = Gates(["a"])
    tickets = [gates.enter("a", NOW) for _ in range(16)]

    decisions = {gates.decide(ticket, COLD, 0, NOW + 1) for ticket in tickets[:1]}
    decisions |= {gates.decide(ticket, COLD, 0, NOW + 2) for ticket in tickets[1:]}

    assert decisions == {Requeue(NOW + 31, "model")}


@pytest.mark.parametrize(
    ("ends", "opens"),
    [
        (lambda gates, probe: gates.succeeded(probe), True),
        (lambda gates, probe: gates.decide(probe, ContentFilterError(), 0, NOW + 31), True),
        (lambda gates, probe: gates.decide(probe, ServerError(), 0, NOW + 31), False),
        (lambda gates, probe: gates.dropped(probe), False),
    ],
    ids=["an answer", "a refusal", "no answer", "cut"],
)
def test_a_model_is_open_when_the_probe_was_answered(
    ends: Callable[[Gates, Ticket], object], opens: bool
) -> None:
    gates = Gates(["a"])
    fail(gates, COLD)

    ends(gates, gates.enter("a", NOW + 30))

    gates.enter("a", NOW + 31)
    assert gates.admits("a", NOW + 31) is opens, "else the next one is the probe"


def test_a_model_that_stays_cold_is_closed_and_no_wait_is_without_end() -> None:
    gates, now, decisions = Gates(["a", "b"]), NOW, []
    while not gates.closed("a"):
        decisions.append(fail(gates, COLD, now))
        now = max(now, gates.opens_at("a", now)) if not gates.closed("a") else now

    assert decisions[-1] == Leave("cold")
    assert now - NOW <= 1800
    assert gates.closed("a") == "cold"
    assert gates.opens_at("a", now + 1e9) == math.inf
    assert gates.admits("b", now)


def test_when_the_only_model_stays_cold_the_batch_stops() -> None:
    assert fail(Gates(["a"], max_pause_s=10), COLD) == Stop("models", COLD)


def test_a_task_is_not_put_back_for_ever() -> None:
    gates = Gates(["a"])

    assert fail(gates, COLD, requeued=MAX_REQUEUES) == Leave("cold")
    assert fail(gates, limited(5), requeued=MAX_REQUEUES) == Leave("rate limit")


# --- a model that is gone -------------------------------------------------------------------------


def test_a_model_that_is_unknown_to_three_tasks_in_a_row_is_closed_and_the_others_go_on() -> None:
    gates = Gates(["a", "b"])

    decisions = [fail(gates, GONE) for _ in range(4)]

    assert decisions == [Requeue(NOW + 1, "model")] * 2 + [Leave("model")] * 2
    assert gates.closed("a") == "model"
    assert not gates.admits("a", NOW)
    assert gates.admits("b", NOW)


def test_an_only_task_asks_a_model_that_is_unknown_four_times() -> None:
    gates, now, waits = Gates(["a", "b"]), NOW, []
    for times in range(3):
        decision = fail(gates, GONE, now, since=NOW, requeued=times)
        waits.append(decision.until - now)
        now = decision.until

    assert waits == [1, 2, 4]
    assert fail(gates, GONE, now, since=NOW, requeued=3) == Leave("model")


def test_when_no_model_is_left_the_batch_stops_with_what_to_do() -> None:
    gates = Gates(["a", "b"])
    fail(gates, GONE, requeued=3)

    assert fail(gates, GONE, model="b", requeued=3) == Stop("models", GONE)


def test_an_items_own_model_may_be_gone_without_stopping_the_batch() -> None:
    assert fail(Gates(["a"]), GONE, model="an item's", requeued=3) == Leave("model")


@pytest.mark.parametrize("between", [None, ContentFilterError()], ids=["an answer", "a refusal"])
def test_tasks_are_told_in_a_row_if_nothing_comes_between(between: OpenCodeError | None) -> None:
    gates = Gates(["a"])
    for _ in range(3):
        assert fail(gates, GONE) == Requeue(NOW + 1, "model")
        if between is None:
            gates.succeeded(gates.enter("a", NOW))
        else:
            assert fail(gates, between) == Keep()


# --- a model that answers others ------------------------------------------------------------------


@pytest.mark.parametrize("error", [GONE, COLD], ids=["gone", "cold"])
def test_what_a_model_that_answers_others_tells_twice_is_the_items_own_failure(
    error: OpenCodeError,
) -> None:
    gates = Gates(["a"])
    first = gates.enter("a", NOW)
    other = gates.enter("a", NOW + 1)

    assert isinstance(gates.decide(first, error, 0, NOW + 2), Requeue)
    gates.succeeded(other)

    assert gates.admits("a", NOW + 2)
    assert fail(gates, error, NOW + 40, since=NOW, requeued=1) == Keep()
    assert not gates.closed("a")


@pytest.mark.parametrize("error", [GONE, COLD], ids=["gone", "cold"])
def test_what_it_answered_before_the_item_began_tells_nothing(error: OpenCodeError) -> None:
    gates = Gates(["a"])
    gates.succeeded(gates.enter("a", NOW - 1))

    assert isinstance(fail(gates, error, NOW + 40, since=NOW, requeued=1), Requeue)


def test_a_rate_limit_that_an_item_alone_meets_twenty_times_is_its_own_failure() -> None:
    gates = Gates(["a"])
    gates.succeeded(gates.enter("a", NOW + 1))

    assert isinstance(fail(gates, limited(5), since=NOW, requeued=MAX_REQUEUES - 1), Requeue)
    assert fail(gates, limited(5), since=NOW, requeued=MAX_REQUEUES) == Keep()


# --- rate limits ----------------------------------------------------------------------------------


def test_a_rate_limit_that_tells_its_end_pauses_everything() -> None:
    gates = Gates(["a", "b"])

    assert fail(gates, limited(90)) == Requeue(NOW + 90, "all")

    assert gates.opens_at("b", NOW) == NOW + 90
    assert gates.admits("b", NOW + 90)


def test_one_that_has_passed_pauses_nothing() -> None:
    gates = Gates(["a"])

    assert fail(gates, limited(-5)) == Requeue(NOW, "all")
    assert gates.admits("a", NOW)


def test_a_model_that_is_full_until_then_pauses_only_itself() -> None:
    gates = Gates(["a", "b"])

    assert fail(gates, limited(90, CapacityError)) == Requeue(NOW + 90, "model")

    assert not gates.admits("a", NOW + 89)
    assert gates.admits("b", NOW)


def test_a_rate_limit_that_lasts_too_long_stops_the_batch() -> None:
    error = limited(1801)

    assert fail(Gates(["a"]), error) == Stop("rate limit", error)


def test_rate_limits_in_a_row_stop_it_too_unless_something_was_answered() -> None:
    gates = Gates(["a"])
    assert fail(gates, limited(1000)) == Requeue(NOW + 1000, "all")
    gates.succeeded(gates.enter("a", NOW + 1000))
    assert fail(gates, limited(2500), NOW + 1001) == Requeue(NOW + 2500, "all")
    assert isinstance(fail(gates, limited(3000), NOW + 2500), Stop)


@pytest.mark.parametrize(("let_in", "ends"), [(NOW + 1000, True), (NOW - 1, False)])
def test_a_refusal_ends_the_pause_of_the_account_if_it_began_before(
    let_in: float, ends: bool
) -> None:
    gates = Gates(["a"])
    ticket = gates.enter("a", let_in)
    fail(gates, limited(1000))

    gates.decide(ticket, InvalidRequestError(raw_message="x"), 0, NOW + 1001)

    after = fail(gates, limited(2500), NOW + 1001)
    assert isinstance(after, Requeue if ends else Stop)


# --- what people are told -------------------------------------------------------------------------


def test_people_are_told_what_is_waited_for() -> None:
    gates = Gates(["a", "b"])
    assert gates.waiting(NOW) == ""

    fail(gates, COLD)
    until = datetime.fromtimestamp(NOW + 30).strftime("%H:%M:%S")
    assert gates.waiting(NOW) == f"cold a until {until}"
    assert gates.waiting(NOW + 30) == "cold a is being tried"

    fail(gates, limited(30), model="b")
    assert gates.waiting(NOW) == f"rate limit until {until}"
