"""Whose turn it is, how large a block is, and what comes back from whom."""

from __future__ import annotations

import math

import pytest

from chutes_opencode.distributed.limiter.protocol import Ended, News
from chutes_opencode.relay.flow import Outcome, Pace
from tests.unit.distributed.limiter.shared_flows import ask, end, given, report, shared

# Blocks


def test_a_member_gets_what_it_wants_in_blocks_of_a_hundred_at_most() -> None:
    made = shared()
    ask(made, "a", 250)

    assert given(made, "a") == {"a": [100, 100, 50]}
    assert made.held() == {"a": 250}


def test_an_answer_has_ten_blocks_at_most() -> None:
    made = shared()
    ask(made, "a", 5000)

    assert given(made, "a") == {"a": [100] * 10}


@pytest.mark.parametrize(("per_minute", "block"), [(30, 1), (60, 1), (600, 10), (60_000, 100)])
def test_a_block_is_a_second_of_the_rate_at_most(per_minute: int, block: int) -> None:
    made = shared(Pace(start=1000, requests_per_minute=per_minute))
    ask(made, "a", 300)

    assert given(made, "a")["a"][0] == block


def test_a_rate_is_honoured_whoever_asks() -> None:
    made = shared(Pace(start=1000, requests_per_minute=10))
    for member in ("a", "b"):
        ask(made, member, 10)

    assert given(made, "a", "b") == {"a": [1] * 5, "b": [1] * 5}
    assert given(made, "a", "b", now=60.0) == {}
    assert made.opens_at(60.0) == 61.0


def test_never_more_than_the_limit_in_flight() -> None:
    made = shared(Pace(start=7, max_in_flight=7))
    for member in ("a", "b", "c"):
        ask(made, member, 10)

    blocks = given(made, "a", "b", "c")

    assert sum(map(sum, blocks.values())) == 7
    assert made.opens_at(0.0) == math.inf


# Turns


def test_the_room_is_shared_among_the_nodes() -> None:
    made = shared(Pace(start=12))
    for member in ("a", "b", "c"):
        ask(made, member, 100)

    blocks = given(made, "a", "b", "c")

    assert {member: sum(each) for member, each in blocks.items()} == {"a": 4, "b": 4, "c": 4}


def test_what_one_does_not_want_the_others_get() -> None:
    made = shared(Pace(start=12))
    ask(made, "a", 100)
    ask(made, "b", 2)

    blocks = given(made, "a", "b")

    assert {member: sum(each) for member, each in blocks.items()} == {"a": 10, "b": 2}


def test_nodes_take_turns_and_the_processes_of_a_node_among_each_other() -> None:
    made = shared(Pace(start=1, max_in_flight=1))
    for member, node in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        ask(made, member, 10, node=node)
    order = []

    for _ in range(8):
        ((member, (grant,)),) = made.allot(("a1", "a2", "b1"), 0.0).items()
        order.append(member)
        made.hear(
            report(
                member,
                node=member[0],
                news=News(unused=((grant.number, 1),)),
                ordinary=10,
                received=1000,
            ),
            0.0,
        )

    assert order == ["a1", "b1", "a2", "b1", "a1", "b1", "a2", "b1"]


def test_the_urgent_go_first() -> None:
    made = shared(Pace(start=1, max_in_flight=1))
    ask(made, "a", 10)
    ask(made, "b", 10, urgent=1)

    assert given(made, "a", "b") == {"b": [1]}


def test_a_member_gets_its_urgent_ones_before_the_others() -> None:
    made = shared()
    ask(made, "a", 5, urgent=2)

    assert given(made, "a") == {"a": [2, 5]}


def test_who_does_not_wait_for_an_answer_is_passed_over() -> None:
    made = shared()
    ask(made, "a", 1)
    ask(made, "b", 1)

    assert given(made, "b") == {"b": [1]}


@pytest.mark.parametrize(
    ("urgent", "ordinary", "blocks"), [(0, 8, [3]), (3, 5, [3]), (6, 5, [1, 5]), (2, 3, [])]
)
def test_what_is_on_its_way_to_a_member_is_not_given_twice(
    urgent: int, ordinary: int, blocks: list[int]
) -> None:
    made = shared()
    ask(made, "a", 5)
    given(made, "a")

    ask(made, "a", ordinary, urgent=urgent, received=0)

    assert given(made, "a").get("a", []) == blocks


# What comes back


def test_ended_requests_make_room_and_their_block_is_forgotten() -> None:
    made = shared(Pace(start=4, max_in_flight=4))
    ask(made, "a", 4)
    made.allot(["a"], 0.0)

    end(made, "a", Ended(4, Outcome.OK, 3, taken=True), taken=3)
    assert made.held() == {"a": 1}
    end(made, "a", Ended(4, Outcome.ERROR, 1))

    assert made.held() == {"a": 0}
    assert not made.is_busy("a")
    ask(made, "a", 4, received=1000)
    assert given(made, "a") == {"a": [4]}


def test_permits_that_were_not_used_do_not_count_in_the_minute() -> None:
    made = shared(Pace(start=10, requests_per_minute=60))
    ask(made, "a", 1)
    ((grant,),) = made.allot(["a"], 0.0).values()

    made.hear(report("a", news=News(unused=((grant.number, 1),)), received=1), 0.0)

    lessons = made.lessons(0.0)
    assert lessons.recent == ()


def test_refusals_have_verdicts_in_their_order() -> None:
    made = shared()
    ask(made, "a", 3)
    made.allot(["a"], 0.0)
    refused = Ended(3, Outcome.RATE_LIMITED)

    assert end(made, "a", refused, Ended(3, Outcome.CANCELLED), refused) == (False, True)
    assert made.view(0.0).paused_s == 2.0
    assert made.view(0.5).rate_limited == 2


@pytest.mark.parametrize(("hint", "paused"), [(None, 2.0), (-3.0, 2.0), (41.0, 41.0)])
def test_hints_are_seconds_from_now(hint: float | None, paused: float) -> None:
    made = shared()
    ask(made, "a", 1)
    made.allot(["a"], 0.0)

    end(made, "a", Ended(1, Outcome.RATE_LIMITED, hint_s=hint), now=10.0)

    assert made.view(10.0).paused_s == paused


def test_what_may_be_in_flight_grows_only_while_somebody_waits() -> None:
    for wanted, limit in ((0, 16), (5, 32)):
        made = shared(Pace())
        ask(made, "a", 16)
        made.allot(["a"], 0.0)
        ask(made, "b", wanted)

        end(made, "a", Ended(16, Outcome.OK, 16, taken=True), taken=16)

        assert made.view(0.0).limit == limit


def test_a_node_that_is_forgotten_gives_everything_back() -> None:
    made = shared(Pace(start=4, max_in_flight=4))
    for member, node in (("a1", "a"), ("a2", "a"), ("b", "b")):
        ask(made, member, 2, node=node)
    given(made, "a1", "a2")

    made.forget_node("a", 1.0)
    made.forget("nobody", 1.0)

    assert made.held() == {"b": 0}
    assert not made.knows("a1")
    assert given(made, "b", now=1.0) == {"b": [2]}


def test_who_is_silent_for_five_seconds_is_forgotten() -> None:
    made = shared()
    ask(made, "a", 2)
    made.allot(["a"], 0.0)
    ask(made, "b", 0, now=3.0)

    made.forget_silent(4.9)
    assert made.knows("a")
    made.forget_silent(5.0)

    assert not made.knows("a")
    assert made.knows("b")
    made.forget_silent(8.0)
    assert made.is_idle


def test_it_tells_what_it_knows() -> None:
    made = shared(Pace(start=3, requests_per_minute=600))
    ask(made, "a", 5)
    ask(made, "b", 0)
    made.allot(["a"], 0.0)

    view = made.view(0.0)
    stats = made.stats(0.0)

    assert (view.limit, view.members, view.ceiling) == (3, 1, 600)
    assert (view.paused_s, view.taken_s) == (None, math.inf)
    assert (stats.in_flight, stats.waiting, stats.permits) == (3, 2, 3)
    assert made.is_wanting("a")
    assert not made.is_wanting("b")
