"""Whatever a provider sends, opencode gets a whole answer, or one that makes it stop or repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chutes_opencode.relay.server import Relay
from tests.unit.relay.stage import GOOD, Stage, ended, repeats, set_up, stream, whole

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(GOOD),
        st.sampled_from([b"data: ", b"\n", b"\r\n", b'{"error":', b"data: {}\n\n", b": hi\n\n"]),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def stage(relay: Relay) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield set_up(stack, relay)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=PIECES)
def test_no_bytes_hang_or_break_a_prompt(stage: Stage, pieces: list[bytes]) -> None:
    stage.provider.answers = [stream(*pieces)]
    booking = stage.open(tries_left=2)

    answer = stage.ask()
    booking.close()

    assert ended(answer) or repeats(answer) or b"finish_reason" in answer.content
    assert booking.error is None or ended(answer)
    assert booking.waiting is False
    assert stage.limiter().in_flight == 0


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, len(b"".join(GOOD))), max_size=12))
def test_any_chunking_of_a_good_stream_passes_byte_for_byte(stage: Stage, cuts: list[int]) -> None:
    data = b"".join(GOOD)
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    stage.provider.answers = [stream(*pieces)]
    booking = stage.open()

    answer = stage.ask()
    booking.close()

    assert answer.content == data
    assert whole(answer)
