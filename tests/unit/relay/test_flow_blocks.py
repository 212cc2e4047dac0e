"""Blocks of requests cost no more than one, and a flow can go on where another one ended."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.relay.flow import Flow, Outcome, Pace, Sent
from tests.unit.relay.flows import PACE, end, fill, flow, refuse, use_up


def ok(made: Flow, sent: Sent, count: int, now: float, *, is_wanted: bool = True) -> None:
    made.taken(sent, now, count)
    made.ended(sent, Outcome.OK, now, hint=None, is_wanted=is_wanted, count=count, taken=count)


def test_there_is_room_for_as_many_as_may_be_in_flight() -> None:
    made = flow()
    made.let_in(0.0)

    assert made.room(0.0) == 15
    block = made.let_in(0.0, 15)

    assert (block.number, block.count) == (16, 15)
    assert made.in_flight == made.count == 16
    assert made.room(0.0) == 0
    assert made.opens_at(0.0) == math.inf


def test_there_is_room_for_as_many_as_the_minute_has() -> None:
    made = flow(Pace(start=100, requests_per_minute=10))
    made.let_in(0.0, 7)

    assert made.room(1.0) == 3
    made.let_in(1.0, 3)
    assert made.opens_at(1.0) == 61.0
    assert made.room(61.0) == 7


def test_a_pause_has_no_room_for_blocks() -> None:
    made = flow()
    refuse(made, 0.0)

    assert made.room(99.0) == 0
    assert made.opens_at(99.0) == 99.0


def test_a_block_teaches_as_much_as_its_requests_would_one_by_one() -> None:
    blocks, singles = flow(), flow()
    for now in (0.0, 1.0, 2.0):
        room = blocks.room(now)
        ok(blocks, blocks.let_in(now, room), room, now)
        for each in fill(singles, now):
            end(singles, each, Outcome.OK, now)

    assert blocks.lessons(3.0) == singles.lessons(3.0)


def test_successes_of_a_block_before_a_shrinking_lift_the_limit() -> None:
    made = flow()
    block = made.let_in(0.0, 8)
    made.ended(block, Outcome.CAPACITY, 0.1, hint=None, is_wanted=True, taken=0)
    assert made.flights.value == 1

    made.taken(block, 0.2, 4)

    assert made.flights.value == 4


def test_a_refused_request_of_a_block_does_not_count_in_the_minute() -> None:
    made = flow()
    block = made.let_in(0.0, 8)
    ok(made, block, 7, 0.5)

    assert not made.ended(block, Outcome.RATE_LIMITED, 1.0, hint=None, is_wanted=True)

    assert made.minute.value == 7


def test_what_was_never_sent_does_not_count_in_the_minute() -> None:
    made = flow(Pace(requests_per_minute=10))
    block = made.let_in(0.0, 10)

    made.unused(block, 1.0, 4)

    assert made.in_flight == block.count == 6
    assert made.room(1.0) == 4


def test_a_test_that_was_never_sent_is_repeated_and_so_is_a_probe() -> None:
    made = flow()
    sent = fill(made, most=5)
    for each in sent[1:]:
        made.taken(each, 0.0)
    end(made, sent[0], Outcome.CAPACITY, 0.0)
    made.unused(made.let_in(2.0), 2.5)
    assert made.opens_at(2.5) == 2.5

    paused = flow()
    refuse(paused, 0.0)
    paused.unused(paused.let_in(2.0), 2.5)
    assert paused.opens_at(2.5) == 2.5


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.floats(0, 5)), max_size=30),
    per_minute=st.integers(1, 40),
)
def test_a_rate_is_honoured_in_any_minute(sizes: list[tuple[int, float]], per_minute: int) -> None:
    made, now = flow(Pace(start=1000, requests_per_minute=per_minute)), 0.0
    sent: list[tuple[float, int]] = []

    for size, wait in sizes:
        now += wait
        count = min(size, made.room(now))
        if count:
            ok(made, made.let_in(now, count), count, now)
            sent.append((now, count))

    for begin, _ in sent:
        assert sum(count for at, count in sent if begin <= at < begin + 60) <= per_minute


# Handing over


def test_another_flow_goes_on_with_what_was_learnt() -> None:
    made = flow()
    use_up(made, 10, now=0.0)
    refuse(made, 1.0)
    made.let_in(3.0)
    lessons = made.lessons(4.0)
    heir = flow()

    heir.learn(lessons, 104.0)

    told = heir.lessons(104.0)
    assert replace(told, recent=()) == replace(lessons, recent=())
    assert [count for _, count in told.recent] == [10, 1]
    assert heir.minute.value == 10
    assert heir.paused_until == 103.0
    assert heir.refused_in_a_row == 1
    assert heir.room(104.0) == 0


def test_lessons_age() -> None:
    made = flow()
    use_up(made, 10, now=0.0)
    refuse(made, 1.0, hint=41.0)

    aged = made.lessons(1.0).aged(5.0)

    assert aged.paused_s == 35.0
    assert aged.recent == ((5.0, 10),)
    assert aged.minute.test_in_s == -3.0
    assert flow().lessons(0.0).aged(5.0).paused_s is None


def test_what_others_hold_is_in_flight_and_what_they_sent_counts() -> None:
    made = flow(Pace(start=100, requests_per_minute=20))

    made.adopt(Sent(40, 95.0, count=5, taken=2))
    made.count_sent(44, 10.0, 12, now=100.0)

    assert made.in_flight == 5
    assert made.count == 44
    assert made.room(100.0) == 8
    assert made.let_in(100.0).number == 45
    assert made.room(151.0) == 19, "the older ones have left the minute, though counted later"


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.CANCELLED])
def test_what_was_adopted_ends_like_any_other(outcome: Outcome) -> None:
    made = flow(PACE)
    sent = Sent(3, 0.0, count=2, taken=1)
    made.adopt(sent)

    made.ended(sent, outcome, 1.0, hint=None, is_wanted=False, count=2, taken=1)

    assert made.in_flight == sent.count == sent.taken == 0
