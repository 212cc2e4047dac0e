"""How the flow learns a ceiling a minute, pauses, and probes."""

import math

import pytest

from chutes_opencode.relay.flow import Flow, Outcome, Pace
from tests.unit.relay.flows import end, fill, flow, refuse, use_up


def test_no_ceiling_a_minute_at_first() -> None:
    made = flow()

    use_up(made, 5000, now=0.0)

    assert made.opens_at(0.0) == 0.0


def test_a_configured_ceiling_is_kept_and_never_tested() -> None:
    made = flow(Pace(requests_per_minute=20))

    use_up(made, 20, now=5.0)

    assert made.opens_at(5.0) == 66.0
    assert made.opens_at(66.0) == 66.0


def test_a_429_teaches_as_many_as_were_taken_in_the_last_minute() -> None:
    made = flow()
    use_up(made, 60, now=0.0)

    assert not refuse(made, 1.0)

    assert made.minute.value == 60
    assert made.paused_until == 3.0


def test_what_was_in_flight_at_a_429_is_collateral_and_refines_the_ceiling() -> None:
    made = flow()
    use_up(made, 58, now=0.0)
    sent = fill(made, 1.0)

    collateral = [end(made, each, Outcome.RATE_LIMITED, 1.1) for each in sent[2:]]

    assert collateral == [False] + [True] * 13
    assert made.minute.value == 60
    assert made.paused_until == pytest.approx(3.1)


def test_no_ceiling_below_five_a_minute_is_believed() -> None:
    made = flow()
    use_up(made, 1, now=0.0)

    refuse(made, 1.0)

    assert made.minute.value == 5


def test_a_prompt_that_meets_only_429_has_every_refusal_counted() -> None:
    made, now, collateral = flow(), 0.0, []

    for _ in range(3):
        collateral.append(refuse(made, now))
        now = made.opens_at(now)

    assert collateral == [False] * 3
    assert now == 2 + 4 + 8


def test_the_first_probe_comes_soon_and_the_second_when_the_minute_has_room() -> None:
    made = flow()
    use_up(made, 60, now=0.0)
    refuse(made, 1.0)
    assert made.opens_at(1.0) == 3.0

    assert refuse(made, 3.0), "it went above the learnt ceiling: expected"

    assert made.opens_at(3.0) == 61.0
    assert made.opens_at(61.0) == 61.0


def test_one_probe_at_a_time() -> None:
    made = flow()
    refuse(made, 0.0)

    made.let_in(2.0)

    assert made.opens_at(2.5) == 32.0, "it is taken for lost after 30 s"


def test_a_probe_that_is_taken_ends_the_pause_before_its_stream_ends() -> None:
    made = flow()
    refuse(made, 0.0)

    made.taken(made.let_in(2.0), 2.1)

    assert made.paused_until is None
    assert made.opens_at(2.1) == 2.1
    refuse(made, 10.0)
    assert made.paused_until == 12.0, "the next pause is short again"


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CANCELLED])
def test_a_probe_without_an_answer_is_followed_by_another(outcome: Outcome) -> None:
    made = flow()
    refuse(made, 0.0)

    end(made, made.let_in(2.0), outcome, 3.0)

    assert made.paused_until == 2.0
    assert made.opens_at(3.0) == 3.0


def test_a_success_from_before_the_pause_does_not_end_it() -> None:
    made = flow()
    old = made.let_in(0.0)
    refuse(made, 1.0)

    end(made, old, Outcome.OK, 2.0)

    assert made.paused_until == 3.0


def test_a_pause_does_not_let_more_into_flight_than_fits() -> None:
    made = flow()
    sent = fill(made)

    end(made, sent[0], Outcome.RATE_LIMITED, 0.0)
    made.let_in(2.0)

    assert made.opens_at(99.0) == math.inf


def test_a_probe_that_is_refused_below_the_ceiling_shows_that_it_is_far_too_high() -> None:
    made = flow()
    use_up(made, 20, now=0.0)
    for now in range(30, 34):
        use_up(made, 10, now=float(now))
    refuse(made, 34.0)
    refuse(made, 36.0)
    assert made.opens_at(36.0) == 61.0

    assert not refuse(made, 61.0)

    assert made.minute.value == 10, "a quarter of the 40 that were taken in this minute"
    assert made.opens_at(61.0) == 94.0, "when the last ten of them begin to leave it"


def test_a_learnt_ceiling_is_tested_where_it_is_surely_reached() -> None:
    made = flow()
    use_up(made, 10, now=0.0)
    refuse(made, 1.0)
    made.taken(made.let_in(61.0), 61.0)
    use_up(made, 9, now=61.0)

    assert made.opens_at(61.0) == 61.0
    test = made.let_in(61.0)
    assert end(made, test, Outcome.RATE_LIMITED, 61.1)

    assert made.paused_until is None, "the refusal was expected: nobody else has to wait"
    assert made.opens_at(61.1) == pytest.approx(65.1)
    assert made.opens_at(120.5) == 122.0, "in the last second a test would not tell anything"


def test_a_passed_test_raises_the_ceiling_a_minute() -> None:
    made = flow()
    use_up(made, 10, now=0.0)
    refuse(made, 1.0)

    made.taken(made.let_in(3.0), 3.0)  # the first probe goes above the ceiling

    assert made.minute.value == 11


def test_a_test_that_a_pause_has_overtaken_proves_nothing() -> None:
    made = flow()
    use_up(made, 10, now=0.0)
    refuse(made, 1.0)
    use_up(made, 1, now=3.0)
    test = made.let_in(5.0)
    refuse(made, 5.0, hint=9.0)

    made.taken(test, 5.5)

    assert made.minute.value == 11
    assert made.paused_until == 9.0


# Hints


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.CAPACITY])
def test_a_hint_pauses_until_then(outcome: Outcome) -> None:
    made = flow()

    end(made, made.let_in(0.0), outcome, 1.0, hint=41.0)

    assert made.paused_until == 41.0
    assert made.opens_at(1.0) == 41.0


def test_the_longest_hint_of_a_burst_counts() -> None:
    made = flow()
    sent = fill(made, most=3)

    for each, hint in zip(sent, (20.0, 40.0, 30.0), strict=True):
        end(made, each, Outcome.RATE_LIMITED, 1.0, hint=hint)

    assert made.paused_until == 40.0


def test_a_hint_is_believed_for_an_hour_at_most() -> None:
    made = flow()

    refuse(made, 1.0, hint=1e9)

    assert made.paused_until == 3601.0


def test_jitter_spreads_the_pauses() -> None:
    pauses = []
    for random01 in (0.0, 1.0):
        made = Flow(Pace(), lambda value=random01: value)  # type: ignore[misc]
        refuse(made, 0.0)
        pauses.append(made.paused_until)

    assert pauses == [1.5, 2.5]


def test_refusals_are_counted_until_the_server_takes_a_request() -> None:
    made = flow()
    refuse(made, 0.0)
    refuse(made, 2.0)
    assert made.refused_in_a_row == 2
    assert made.refusals == {Outcome.RATE_LIMITED: 2, Outcome.CAPACITY: 0}

    made.taken(made.let_in(6.0), 6.0)

    assert made.refused_in_a_row == 0
