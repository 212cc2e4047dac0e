"""A set of fingerprints: exact over its values, and small."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.fingerprints import Fingerprints, fingerprint

BYTES_PER_ENTRY = 16

# Neighbours and multiples meet in the same places.
crowded = st.integers(1, 40) | st.integers(2**64 - 40, 2**64 - 1) | st.integers(1, 2**64 - 1)


@given(st.lists(crowded, max_size=300))
def test_it_is_a_set(values: list[int]) -> None:
    kept, model = Fingerprints(), set[int]()

    for value in values:
        assert kept.add(value) is (value not in model)
        model.add(value)

    assert len(kept) == len(model)
    assert all(value in kept for value in values)
    assert all((value in kept) is (value in model) for value in range(1, 45))


@pytest.mark.parametrize("value", [0, -1, 2**64])
def test_what_is_no_fingerprint_is_refused(value: int) -> None:
    kept = Fingerprints()

    with pytest.raises(ValueError, match="no fingerprint"):
        kept.add(value)


def test_an_entry_takes_at_most_sixteen_bytes_also_while_it_grows() -> None:
    count = 50_000
    values = random.Random(1)
    tracemalloc.start()
    try:
        kept = Fingerprints()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            kept.add(values.getrandbits(64) or 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(kept) == count
    assert peak - before <= BYTES_PER_ENTRY * count


def test_texts_are_told_apart_by_their_borders() -> None:
    texts = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("a", "b", "c"),
        ("1:a",),
        ("", "abc"),
        ("abc", ""),
    ]

    assert len({fingerprint(*parts) for parts in texts}) == len(texts)


@given(st.lists(st.text(st.characters())))
def test_any_text_has_a_fingerprint(parts: list[str]) -> None:
    assert 0 < fingerprint(*parts) < 2**64
    assert fingerprint(*parts) == fingerprint(*parts)
