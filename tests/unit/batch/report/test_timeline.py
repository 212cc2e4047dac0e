"""A run over its own time: pauses between sessions are left out, nothing is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.report.timeline import POINTS, Clock, Step


def test_the_pause_between_two_sessions_is_left_out() -> None:
    clock = Clock([1000.0, 90_000.0])
    clock.add(1000.0, 1060.0, Step(ok=1))
    clock.add(90_000.0, 90_030.0, Step(ok=2))

    line = clock.timeline()

    assert line.duration_s == 90.0
    assert line.resumed == [60.0]
    assert line.ok[-1] == 3
    assert line.ok[len(line.ok) // 2] == 0


def test_a_session_lasts_until_it_was_last_seen() -> None:
    clock = Clock([1000.0], seen_at=1300.0)
    clock.add(1000.0, 1060.0, Step(ok=1))

    assert clock.timeline().duration_s == 300.0


def test_a_run_without_sessions_begins_with_its_first_result() -> None:
    clock = Clock([])
    clock.add(500.0, 510.0, Step(failed=1, errors=Counter({"ServerError": 1})))

    line = clock.timeline()

    assert line.duration_s == 10.0
    assert sum(line.errors["ServerError"]) == 1


def test_nothing_is_a_timeline_too() -> None:
    line = Clock([1000.0]).timeline()

    assert (line.duration_s, line.ok, line.resumed) == (0.0, [0], [])


def test_what_ended_before_the_run_began_is_counted_at_its_beginning() -> None:
    clock = Clock([1000.0])
    clock.add(900.0, 950.0, Step(ok=1))
    clock.add(1000.0, 1010.0, Step(ok=1))

    assert clock.timeline().ok[0] == 1


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 9), st.floats(0, 5)), min_size=1, max_size=200
    )
)
def test_sums_grow_to_all_there_is_in_bounded_memory(
    ends: list[tuple[float, int, float]],
) -> None:
    clock = Clock([1000.0, 400_000.0])
    for after, tokens, cost in ends:
        clock.add(1000.0, 1000.0 + after, Step(ok=1, input=tokens, cost_usd=cost))

    line = clock.timeline()

    assert line.ok[-1] == len(ends)
    assert line.input[-1] == sum(tokens for _, tokens, _ in ends)
    assert line.cost_usd[-1] == pytest.approx(sum(cost for _, _, cost in ends))
    assert line.ok == sorted(line.ok)
    assert len(line.seconds) <= POINTS
