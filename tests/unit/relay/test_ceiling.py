from __future__ import annotations

import math

import pytest

from chutes_opencode.relay.ceiling import Ceiling, RecentCount


def ceiling(value: float = 4, most: float = 100) -> Ceiling:
    return Ceiling(value, most, wait_s=2, longest_wait_s=10)


def learnt(value: float = 4, most: float = 100) -> Ceiling:
    made = ceiling(value, most)
    made.learn(value, 0.0)
    return made


def test_below_the_ceiling_there_is_room_now() -> None:
    assert ceiling(4).opens_at(3, now=7.0) == 7.0


def test_a_ceiling_that_nothing_has_taught_is_never_tested() -> None:
    assert ceiling(4).opens_at(4, now=7.0) == math.inf


def test_a_learnt_ceiling_is_tested_after_its_wait() -> None:
    assert learnt(4).opens_at(4, now=1.0) == 2.0
    assert learnt(4).opens_at(4, now=3.0) == 3.0


def test_there_is_one_test_at_a_time() -> None:
    tested = learnt(4)

    assert tested.enter(4)

    assert tested.opens_at(5, now=9.0) == math.inf
    assert tested.opens_at(4, now=9.0) == math.inf


def test_what_fits_below_the_ceiling_is_no_test() -> None:
    assert not learnt(4).enter(3)


def test_a_test_without_an_answer_may_be_repeated() -> None:
    tested = learnt(4)
    tested.enter(4)

    tested.untold()

    assert tested.opens_at(4, now=9.0) == 9.0


def test_passed_tests_raise_the_ceiling_by_doubling_steps() -> None:
    tested = learnt(4)
    values = []

    for now in range(4):
        tested.enter(99)
        tested.passed(float(now))
        values.append(tested.value)

    assert values == [5, 7, 11, 19]


def test_a_refusal_ends_the_doubling_of_steps() -> None:
    tested = learnt(4)
    tested.passed(1.0)
    tested.passed(2.0)

    tested.learn(6, 3.0)
    tested.passed(4.0)

    assert tested.value == 7


def test_no_test_passes_the_most() -> None:
    tested = learnt(4, most=5)

    tested.passed(1.0)
    tested.passed(2.0)

    assert tested.value == 5
    assert tested.opens_at(5, now=99.0) == math.inf


def test_failed_tests_double_the_wait_up_to_its_limit() -> None:
    tested, now, waits = learnt(4), 2.0, []

    for _ in range(4):
        tested.enter(4)
        tested.failed(now)
        waits.append(tested.opens_at(4, now) - now)
        now += waits[-1]

    assert waits == [4, 8, 10, 10]
    assert tested.value == 4


def test_one_pass_may_be_luck_and_two_in_a_row_make_the_wait_short_again() -> None:
    once, twice = learnt(4), learnt(4)
    for tested, passes in ((once, 1), (twice, 2)):
        tested.failed(0.0)  # the wait is 4 s now
        for _ in range(passes):
            tested.passed(0.0)

    assert once.opens_at(99, now=0.0) == twice.opens_at(99, now=0.0) == 2.0
    for tested in (once, twice):
        tested.learn(4, 0.0)

    assert once.opens_at(4, now=0.0) == 8.0
    assert twice.opens_at(4, now=0.0) == 4.0


def test_a_lesson_overtakes_a_running_test() -> None:
    tested = learnt(4)
    tested.enter(4)

    tested.learn(3, 10.0)

    assert tested.opens_at(3, now=20.0) == 20.0


def test_lowering_never_raises_and_lifting_never_lowers() -> None:
    moved = ceiling(4, most=6)

    moved.lower(9)
    assert moved.value == 4
    moved.lift(2)
    assert moved.value == 4
    moved.lift(9)
    assert moved.value == 6
    moved.lower(1)
    assert moved.value == 1


@pytest.mark.parametrize("teach", ["stop_growing", "learn"])
def test_growth_without_tests_ends_with_the_first_lesson(teach: str) -> None:
    growing = ceiling(4, most=6)
    for _ in range(5):
        growing.grow()
    assert growing.value == 6

    if teach == "learn":
        growing.learn(3, 0.0)
    else:
        growing.stop_growing(0.0)
        growing.stop_growing(1.0)  # the second time it is no news
    value = growing.value
    growing.grow()

    assert growing.value == value
    assert growing.opens_at(5 if teach == "stop_growing" else 3, now=0.0) <= 2.0


def test_the_count_forgets_what_is_older_than_the_window() -> None:
    recent = RecentCount(60.0)
    for time in (0.0, 1.0, 50.0):
        recent.add(time)

    assert recent.level(59.9) == 3
    assert recent.level(60.0) == 2
    assert recent.level(61.0) == 1
    assert recent.level(1000.0) == 0


def test_growth_can_be_told_at_once() -> None:
    growing = ceiling(4, most=20)

    growing.grow(10)
    assert growing.value == 14
    growing.grow(10)

    assert growing.value == 20


def test_another_ceiling_goes_on_with_what_was_learnt() -> None:
    tested, heir = learnt(4), ceiling(50, most=90)
    tested.failed(10.0)
    tested.enter(4)

    heir.adopt(tested.lessons(11.0), 111.0)

    assert heir.value == 4
    assert heir.opens_at(4, now=111.0) == 114.0
    assert ceiling(4).lessons(5.0).test_in_s == math.inf


def test_many_are_counted_and_taken_back_at_once() -> None:
    recent = RecentCount(60.0)
    recent.add(1.0, 10)
    recent.add(1.0, 5)

    recent.forget(1.0, 3)
    assert recent.level(2.0) == 12
    recent.forget(1.0, 100)

    assert recent.level(2.0) == 0
    assert recent.ages(2.0) == ()


def test_it_tells_when_there_will_be_room_among_many() -> None:
    recent = RecentCount(60.0)
    for time in (0.0, 1.0, 2.0):
        recent.add(time, 10)

    assert [recent.below_at(bound, 5.0) for bound in (31, 30, 21, 20, 11, 10, 1)] == [
        5.0,
        60.0,
        60.0,
        61.0,
        61.0,
        62.0,
        62.0,
    ]


def test_it_tells_how_old_they_are_at_least() -> None:
    recent = RecentCount(60.0)
    for time, count in ((0.5, 1), (3.25, 2), (3.75, 4), (9.25, 8)):
        recent.add(time, count)

    assert recent.ages(9.5) == ((8.5, 1), (5.5, 6), (0.0, 8))


def test_ages_can_be_counted_where_there_are_later_ones() -> None:
    recent = RecentCount(60.0)
    recent.add(100.0, 3)

    recent.adopt(((50.0, 7), (20.0, 1)), now=100.0)

    assert recent.level(109.9) == 11
    assert recent.level(110.0) == 4
    assert recent.level(140.0) == 3


def test_a_request_can_be_taken_back() -> None:
    recent = RecentCount(60.0)
    recent.add(1.0)

    recent.forget(1.0)
    recent.forget(1.0)

    assert recent.level(2.0) == 0


@pytest.mark.parametrize(
    ("bound", "at"), [(4, 5.0), (3, 60.0), (2, 61.0), (1, 63.5), (math.inf, 5.0)]
)
def test_it_tells_when_there_will_be_room(bound: float, at: float) -> None:
    recent = RecentCount(60.0)
    for time in (0.0, 1.0, 3.5):
        recent.add(time)

    assert recent.below_at(bound, now=5.0) == at
    assert recent.level(at) < bound
