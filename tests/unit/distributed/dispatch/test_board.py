"""Which worker gets the next order, and what is known of each."""

from __future__ import annotations

import pytest

from chutes_opencode.distributed.dispatch.board import Board
from chutes_opencode.distributed.work.orders import Load


def board(**loads: Load) -> Board:
    made = Board()
    for name, load in loads.items():
        made.join(name, load)
    return made


def give(made: Board, count: int, first: int = 0) -> list[str | None]:
    """Give orders as long as there is a free place; return who got them."""
    chosen = []
    for number in range(first, first + count):
        name = made.choose()
        chosen.append(name)
        if name is not None:
            made.give(name, number)
    return chosen


def test_the_least_loaded_worker_is_chosen_by_its_places() -> None:
    made = board(small=Load(places=1), large=Load(places=3))

    assert give(made, 5) == ["small", "large", "large", "large", None]


def test_a_worker_without_places_for_the_moment_gets_nothing() -> None:
    made = board(one=Load(places=2))
    give(made, 2)

    assert made.choose() is None
    assert made.end("one", 0)
    assert made.choose() == "one"


def test_an_answer_that_is_being_stored_takes_no_place() -> None:
    made = board(one=Load(places=2))
    give(made, 2)
    made.report("one", Load(places=2, settling=1))

    assert made.places == 3
    assert made.choose() == "one"


def test_a_draining_worker_gets_nothing_more_and_keeps_what_it_has() -> None:
    made = board(one=Load(places=4), two=Load(places=4))
    give(made, 4)
    made.report("one", Load(places=4, draining=True))

    assert made.drains("one")
    assert made.places == 2 + 4
    assert give(made, 3, first=4) == ["two", "two", None]


def test_a_worker_that_leaves_gives_back_its_orders_in_their_order() -> None:
    made = board(one=Load(places=3))
    give(made, 3)
    made.end("one", 1)

    assert made.leave("one") == (0, 2)
    assert made.leave("one") == ()
    assert made.places == 0


@pytest.mark.parametrize(("name", "number"), [("one", 7), ("gone", 0)])
def test_a_receipt_of_nobodys_order_is_told_apart(name: str, number: int) -> None:
    made = board(one=Load(places=1))
    give(made, 1)

    assert not made.end(name, number)
    assert (made.in_flight("one"), made.done("one")) == (1, 0)


def test_each_thing_that_is_waited_for_is_said_once() -> None:
    wait = "rate limit until 12:00:00"
    made = board(one=Load(waiting=wait), two=Load(waiting=wait), three=Load())

    assert made.waiting == (wait,)
