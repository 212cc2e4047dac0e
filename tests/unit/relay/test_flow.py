from __future__ import annotations

import math

import pytest

from chutes_opencode.relay.flow import Outcome, Pace
from tests.unit.relay.flows import end, fill, flow, refuse

# In flight


def test_sixteen_may_be_in_flight_at_first() -> None:
    made = flow()

    assert len(fill(made)) == 16
    assert made.opens_at(0.0) == math.inf


def test_each_round_of_successes_doubles_what_may_be_in_flight() -> None:
    made = flow()
    rounds = []

    for now in (0.0, 1.0, 2.0):
        sent = fill(made, now)
        rounds.append(len(sent))
        for each in sent:
            end(made, each, Outcome.OK, now)

    assert rounds == [16, 32, 64]


def test_it_grows_only_while_somebody_waits() -> None:
    made = flow()

    for each in fill(made):
        end(made, each, Outcome.OK, 0.0, is_wanted=False)

    assert len(fill(made)) == 16


def test_there_is_a_most_in_flight() -> None:
    assert len(fill(flow(Pace(max_in_flight=3)))) == 3


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CANCELLED])
def test_other_endings_teach_nothing(outcome: Outcome) -> None:
    made = flow()

    collateral = [end(made, each, outcome, 0.0) for each in fill(made)]

    assert not any(collateral)
    assert len(fill(made)) == 16


def test_a_refusal_for_want_of_capacity_takes_a_quarter_off() -> None:
    made = flow()
    sent = fill(made)
    for each in sent[1:]:
        made.taken(each, 0.0)

    end(made, sent[0], Outcome.CAPACITY, 0.0)

    assert made.flights.value == 12


def test_of_a_burst_that_is_partly_refused_only_the_first_counts_and_the_rest_fits() -> None:
    made = flow()
    sent = fill(made)

    collateral = [end(made, each, Outcome.CAPACITY, 0.1) for each in sent[4:]]
    for each in sent[:4]:
        made.taken(each, 0.2)

    assert collateral == [False] + [True] * 11
    assert made.flights.value == 4
    assert made.paused_until is None


def test_after_a_lesson_one_request_more_is_tested_and_its_refusal_is_ours() -> None:
    made = flow()
    sent = fill(made, most=5)
    for each in sent[1:]:
        made.taken(each, 0.0)
    end(made, sent[0], Outcome.CAPACITY, 0.0)
    assert made.opens_at(0.0) == 2.0

    test = made.let_in(2.0)
    assert made.opens_at(2.0) == math.inf

    assert end(made, test, Outcome.CAPACITY, 2.0)
    assert made.flights.value == 4
    assert made.opens_at(2.0) == 6.0


def test_a_test_that_the_server_takes_raises_the_limit() -> None:
    made = flow()
    sent = fill(made, most=5)
    for each in sent[1:]:
        made.taken(each, 0.0)
    end(made, sent[0], Outcome.CAPACITY, 0.0)

    made.taken(made.let_in(2.0), 2.1)

    assert made.flights.value == 5
    assert made.opens_at(2.1) == pytest.approx(4.1)


def test_a_test_that_ends_without_an_answer_is_repeated() -> None:
    made = flow()
    sent = fill(made, most=5)
    for each in sent[1:]:
        made.taken(each, 0.0)
    end(made, sent[0], Outcome.CAPACITY, 0.0)

    end(made, made.let_in(2.0), Outcome.ERROR, 2.1)

    assert made.opens_at(2.1) == 2.1


def test_shortly_after_a_lesson_refusals_are_ours_and_later_the_prompts() -> None:
    made = flow()
    sent = fill(made)
    for each in sent[1:]:
        made.taken(each, 0.0)
    end(made, sent[0], Outcome.CAPACITY, 0.0)
    for each in sent[5:]:
        made.ended(each, Outcome.OK, 0.1, hint=None, is_wanted=True)

    assert end(made, made.let_in(0.2), Outcome.CAPACITY, 0.3)
    made.ended(sent[1], Outcome.OK, 0.4, hint=None, is_wanted=True)
    assert not end(made, made.let_in(2.5), Outcome.CAPACITY, 2.5)


def test_a_full_model_with_nothing_of_ours_in_flight_pauses_and_counts_each_time() -> None:
    made = flow()
    pauses, now, collateral = [], 0.0, []

    for _ in range(6):
        collateral.append(end(made, made.let_in(now), Outcome.CAPACITY, now))
        assert made.paused_until is not None
        pauses.append(made.paused_until - now)
        now = made.opens_at(now)

    assert pauses == [2, 4, 8, 16, 30, 30]
    assert not any(collateral)
    assert made.refused_in_a_row == 6


def test_a_late_refusal_for_want_of_capacity_does_not_prolong_a_pause() -> None:
    made = flow()
    late = made.let_in(0.0)
    refuse(made, 0.0)
    assert made.paused_until == 2.0

    end(made, late, Outcome.CAPACITY, 1.0)

    assert made.paused_until == 2.0


# In a minute
