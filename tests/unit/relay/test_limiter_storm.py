"""A hundred prompts at once against an account that takes 4 at once and 60 a minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import product

import pytest

from chutes_opencode.relay.limiter import AdaptiveLimiter, LimiterStats
from tests.unit.relay.account import RETRIES, Account, Storm, storm, time_allowed
from tests.unit.relay.virtual_time import clock, run

PROMPTS = 100
SERVICE_S = (0.05, 0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SEEDS = range(4)


def varied(seconds: float, spread: float, chance: random.Random) -> Callable[[], float]:
    return lambda: seconds * (1 + spread * (2 * chance.random() - 1))


def account(
    service_s: float, *, spread: float = 0.0, seed: int = 0, hints: bool = False
) -> Account:
    """The account of the issue; `spread` varies the times, 0.5 by half up and down."""
    chance = random.Random(seed)
    return Account(
        service_s=varied(service_s, spread, chance),
        way_s=varied(0.005, spread, chance),
        hints=hints,
    )


def run_storm(
    target: Account,
    prompts: int = PROMPTS,
    *,
    seed: int = 0,
    then: tuple[float, tuple[float, float]] | None = None,
) -> tuple[Storm, LimiterStats]:
    """Run a storm; `then` is the time of a change, and the limits after it."""

    def change(limits: tuple[float, float]) -> None:
        target.at_once, target.per_minute = limits
        target.refuse_all = False

    async def main() -> tuple[Storm, LimiterStats]:
        limiter = AdaptiveLimiter(clock=clock, random01=random.Random(seed).random)
        if then is not None:
            asyncio.get_running_loop().call_later(then[0], change, then[1])
        outcome = await storm(limiter, target, prompts)
        return outcome, limiter.stats()

    return run(main())


def check_bounds(outcome: Storm, service_s: float) -> None:
    assert outcome.failed == 0
    assert len(outcome.waits) == PROMPTS
    assert outcome.requests <= 1.3 * PROMPTS
    assert outcome.longest <= 3 * outcome.median
    assert outcome.longest <= 1.25 * time_allowed(PROMPTS, account(service_s))


def test_the_time_that_the_limits_allow_is_that_of_a_perfect_client() -> None:
    assert time_allowed(4, account(1.0)) == pytest.approx(1.01)
    assert time_allowed(8, account(1.0)) == pytest.approx(2.02)
    assert time_allowed(61, account(1.0)) == pytest.approx(61.01)
    assert time_allowed(100, account(3.0)) == pytest.approx(90.1)


@pytest.mark.parametrize("hints", [False, True], ids=["silent", "with Retry-After"])
@pytest.mark.parametrize("service_s", SERVICE_S)
def test_everyone_succeeds_soon_and_with_few_refusals(service_s: float, hints: bool) -> None:
    outcome, stats = run_storm(account(service_s, hints=hints))

    check_bounds(outcome, service_s)
    assert (stats.in_flight, stats.waiting) == (0, 0)


@pytest.mark.parametrize("hints", [False, True], ids=["silent", "with Retry-After"])
@pytest.mark.parametrize("service_s", SERVICE_S)
def test_also_where_the_times_vary(service_s: float, hints: bool) -> None:
    for spread, seed in product((0.2, 0.5, 0.9), SEEDS):
        target = account(service_s, spread=spread, seed=seed, hints=hints)

        outcome, _ = run_storm(target, seed=seed)

        check_bounds(outcome, service_s)


def test_it_learns_the_true_limits() -> None:
    _, stats = run_storm(account(1.0))

    assert stats.ceiling == 60
    assert stats.limit == 4


@pytest.mark.parametrize("service_s", [0.05, 1.0, 3.0])
def test_a_long_batch_wastes_ever_less(service_s: float) -> None:
    target = account(service_s, spread=0.5, seed=1)

    outcome, _ = run_storm(target, 600)

    assert outcome.failed == 0
    assert outcome.requests <= 1.1 * 600
    assert outcome.longest <= 1.15 * time_allowed(600, account(service_s))


@pytest.mark.parametrize(
    ("at_once", "per_minute"),
    [(1, 1e9), (16, 1e9), (40, 1e9), (1e9, 5), (1e9, 300), (1e9, 1e9)],
)
def test_other_limits_are_found_as_well(at_once: float, per_minute: float) -> None:
    target = account(1.0, spread=0.5)
    target.at_once, target.per_minute = at_once, per_minute

    outcome, _ = run_storm(target, 40)

    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((4, 60), (16, 240)),
        ((16, 240), (4, 60)),
        ((4, 90), (4, 60)),
        ((4, 60), (2, 30)),
        ((4, 1e9), (64, 1e9)),
        ((64, 1e9), (4, 1e9)),
    ],
)
def test_limits_that_change_are_found_again(
    before: tuple[float, float], after: tuple[float, float]
) -> None:
    for seed in SEEDS:
        target = account(1.0, spread=0.5, seed=seed)
        target.at_once, target.per_minute = before

        outcome, _ = run_storm(target, 500, seed=seed, then=(40.0, after))

        stricter = account(1.0)
        stricter.at_once, stricter.per_minute = min(before, after)
        assert outcome.failed == 0
        assert outcome.requests <= 1.3 * 500
        assert outcome.longest <= 1.15 * time_allowed(500, stricter)


def test_limits_that_are_raised_are_made_use_of() -> None:
    target = account(1.0, spread=0.5)

    outcome, stats = run_storm(target, 500, then=(40.0, (16, 240)))

    assert outcome.longest <= 0.5 * time_allowed(500, account(1.0))
    assert stats.ceiling is None or stats.ceiling > 120
    assert stats.limit > 8


def test_a_permanent_429_ends_a_prompt_after_its_retries() -> None:
    target = account(1.0)
    target.refuse_all = True

    outcome, stats = run_storm(target, 1)

    assert outcome.failed == 1
    assert target.requests == RETRIES
    assert stats.refused_in_a_row == RETRIES


def test_a_permanent_429_ends_every_prompt_of_a_storm() -> None:
    target = account(1.0)
    target.refuse_all = True

    outcome, _ = run_storm(target)

    assert outcome.failed == PROMPTS
    assert target.requests <= PROMPTS * RETRIES + 16, "each its retries, and one first burst"


def test_a_model_without_capacity_ends_every_prompt_too() -> None:
    target = account(1.0)
    target.at_once, target.per_minute = 0, 1e9

    outcome, _ = run_storm(target)

    assert outcome.failed == PROMPTS
    assert target.requests <= PROMPTS * RETRIES + 16


def test_who_has_an_attempt_left_survives_an_outage() -> None:
    target = account(1.0)
    target.refuse_all = True

    outcome, _ = run_storm(target, 1, then=(5.0, (4, 60)))

    assert outcome.failed == 0
    assert target.requests == 3


def test_two_processes_that_share_an_account_do_not_starve_each_other() -> None:
    target = account(1.0, spread=0.5)

    async def main() -> list[Storm]:
        limiters = [AdaptiveLimiter(clock=clock, random01=random.Random(n).random) for n in (1, 2)]
        return await asyncio.gather(*(storm(each, target, 50) for each in limiters))

    outcomes = run(main())

    assert [outcome.failed for outcome in outcomes] == [0, 0]
    assert target.requests <= 1.5 * PROMPTS
