"""A shared flow that follows one that has died: what it is told, and for whom it waits."""

from __future__ import annotations

from chutes_opencode.distributed.limiter.protocol import Ended, HandOver, Holding
from chutes_opencode.distributed.limiter.shared_flow import SharedFlow
from chutes_opencode.relay.flow import Outcome
from chutes_opencode.relay.lessons import Lessons
from tests.unit.distributed.limiter.shared_flows import ask, end, shared


def learnt(numbers: int = 60) -> tuple[SharedFlow, Lessons]:
    """A flow that has met a ceiling of a minute, and what it would hand over."""
    made = shared()
    ask(made, "a", numbers)
    made.allot(["a"], 0.0)
    end(made, "a", Ended(numbers, Outcome.OK, numbers, taken=True), taken=numbers)
    ask(made, "a", 1, received=1000)
    made.allot(["a"], 1.0)
    end(made, "a", Ended(numbers + 1, Outcome.RATE_LIMITED), now=1.0)
    return made, made.lessons(1.0)


def test_what_was_learnt_and_is_held_goes_on() -> None:
    _, lessons = learnt()
    made = shared()

    made.hand_over(
        HandOver("a", "n", "old", (Holding(61, 2, 1, 5.0),), lessons, received=63),
        100.0,
        is_ours=False,
    )

    assert made.held() == {"n": 2}
    assert made.view(100.0).ceiling == 60
    assert made.view(100.0).paused_s == 2.0
    assert made.view(100.0).rate_limited == 1
    assert made.lessons(100.0).count == 61
    end(made, "a", Ended(61, Outcome.OK, 2, taken=True), taken=1, now=100.0)
    assert made.held() == {"n": 0}


def test_nothing_is_let_in_until_all_could_be_heard() -> None:
    _, lessons = learnt()
    made = shared()
    made.hand_over(HandOver("a", "a", "old", (), lessons), 100.0, is_ours=False)
    made.hand_over(HandOver("b", "b", "old", (), lessons), 100.5, is_ours=False)

    assert made.opens_at(100.0) >= 101.0
    assert shared(is_successor=True).opens_at(0.0) == 1.0
    assert shared().opens_at(0.0) == 0.0


def test_a_member_that_held_permits_is_waited_for_until_it_counts_as_silent() -> None:
    made, calm = shared(), shared().lessons(0.0)
    a, b, c = (f"{node}:1" for node in "abc")

    made.hand_over(HandOver(a, "a", "old", (), calm, (a, b, c)), 100.0, is_ours=False)
    assert made.opens_at(101.0) == 105.0
    made.hand_over(HandOver(b, "b", "old"), 100.5, is_ours=False)
    assert made.opens_at(101.0) == 105.0

    made.forget_node("c", 100.6)
    assert made.opens_at(100.7) == 101.0


def test_the_newest_lessons_count_and_what_was_sent_after_them() -> None:
    _, old = learnt(20)
    _, new = learnt(60)
    made = shared()

    made.hand_over(
        HandOver("a", "a", "old", (), old, since=((50, 3.0, 5), (70, 2.0, 9))), 100.0, is_ours=False
    )
    made.hand_over(HandOver("b", "b", "old", (), new, since=((70, 2.0, 9),)), 100.0, is_ours=False)
    made.hand_over(HandOver("c", "c", "old", (), old, since=((64, 2.0, 3),)), 100.0, is_ours=False)

    assert made.view(100.0).ceiling == 60
    assert sum(count for _, count in made.lessons(100.0).recent) == 60 + 9 + 3
    assert made.lessons(100.0).count == 70


def test_a_member_without_lessons_brings_what_it_had_sent() -> None:
    made = shared()

    made.hand_over(
        HandOver("a", "a", "old", (Holding(3, 3, 0, 1.0),), None, since=((3, 1.0, 3),)),
        100.0,
        is_ours=False,
    )

    assert sum(count for _, count in made.lessons(100.0).recent) == 3
    assert made.held() == {"a": 3}


def test_who_was_cut_off_and_comes_back_teaches_nothing_new() -> None:
    made, lessons = learnt()
    ask(made, "a", 5, received=1000, now=61.5)
    made.allot(["a"], 61.5)

    made.hand_over(
        HandOver("a", "a", "ours", (Holding(62, 1, 0, 1.0),), lessons), 70.0, is_ours=True
    )

    assert made.held() == {"a": 1}
    assert made.lessons(70.0).count == 62
    assert made.opens_at(70.0) == 70.0
