"""What a process knows of its permits, whatever becomes of its calls."""

from __future__ import annotations

from dataclasses import replace

from chutes_opencode.distributed.limiter.book import Book, Refusal
from chutes_opencode.distributed.limiter.protocol import Ended, Grant, HandOver, Holding, News
from chutes_opencode.distributed.limiter.shared_flow import SharedFlow
from chutes_opencode.relay.flow import Outcome, Pace
from chutes_opencode.relay.lessons import Lessons


def holding(*grants: Grant) -> Book:
    made = Book()
    for grant in grants:
        made.granted(grant, 0.0)
    return made


def lessons(count: int) -> Lessons:
    return replace(SharedFlow(Pace(), lambda: 0.5, now=0.0).lessons(0.0), count=count)


def hand_over(made: Book, now: float = 10.0) -> HandOver:
    return made.hand_over("m", "n", "e", now)


def test_news_are_numbers_but_for_refusals() -> None:
    made = holding(Grant(9, 9))
    made.events.taken[9] += 2
    made.events.unused[9] += 3
    for _ in range(2):
        made.events.ended[9, Outcome.OK, True] += 1
    for until in (None, 17.0):
        made.events.refused.append(Refusal(9, Outcome.CAPACITY, False, until, bool))

    news = made.tell().news(10.0)

    assert news == News(
        taken=((9, 2),),
        ended=(
            Ended(9, Outcome.OK, 2, taken=True),
            Ended(9, Outcome.CAPACITY),
            Ended(9, Outcome.CAPACITY, hint_s=7.0),
        ),
        unused=((9, 3),),
    )
    assert not made.events


def test_permits_are_held_until_the_desk_has_heard_of_their_end() -> None:
    made = holding(Grant(3, 3))
    made.events.taken[3] += 1
    made.events.ended[3, Outcome.OK, True] += 1
    made.events.unused[3] += 1

    made.tell()
    assert made.holds == 3
    made.heard(())

    assert made.holds == 1
    assert hand_over(made).holdings == (Holding(3, 1, 0, 10.0),)


def test_a_refusal_is_told_its_verdict() -> None:
    made = holding(Grant(2, 2))
    verdicts: list[bool] = []
    for _ in range(2):
        made.events.refused.append(Refusal(2, Outcome.RATE_LIMITED, False, None, verdicts.append))

    made.tell()
    made.heard((False, True))

    assert verdicts == [False, True]
    assert made.holds == 0
    assert hand_over(made).holdings == ()


def test_what_was_told_to_a_desk_that_died_is_told_again() -> None:
    made = holding(Grant(3, 3))
    made.events.ended[3, Outcome.OK, False] += 1
    made.tell()
    made.events.ended[3, Outcome.OK, False] += 1
    made.events.unused[3] += 1
    made.tell()
    made.events.taken[3] += 1

    made.lost()

    assert hand_over(made).holdings == (Holding(3, 3, 0, 10.0),)
    assert made.tell().news(0.0) == News(
        taken=((3, 1),), ended=(Ended(3, Outcome.OK, 2),), unused=((3, 1),)
    )


def test_answers_confirm_the_calls_in_their_order() -> None:
    made = holding(Grant(3, 3))
    made.events.ended[3, Outcome.OK, False] += 1
    made.tell()
    made.events.ended[3, Outcome.OK, False] += 2
    made.tell()

    made.heard(())

    assert made.holds == 2


def test_the_lessons_age_and_blocks_since_then_are_kept() -> None:
    made = holding(Grant(3, 3))
    assert hand_over(made).since == ((3, 10.0, 3),)
    made.granted(Grant(8, 5), 4.0)

    made.taught(lessons(3), ("m", "o"), 5.0)
    told = hand_over(made)

    assert told.lessons == lessons(3).aged(5.0)
    assert told.holders == ("m", "o")
    assert told.since == ((8, 6.0, 5),)
    assert told.received == 8
