"""The answer of a look-up: a sequence that knows where it is from."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.listing import Difference, Listing, describe_age
from chutes_opencode.catalog.models import Model

A, B = Model("a"), Model("b")


def test_a_listing_is_a_sequence_of_models() -> None:
    listing = Listing((A, B), "cache", age_s=3.0)

    assert list(listing) == [A, B]
    assert (len(listing), listing[1], listing[:1], B in listing) == (2, B, (A,), True)


def test_an_empty_listing_is_false() -> None:
    assert not Listing()


def test_an_empty_difference_is_none() -> None:
    assert not Difference().changes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (12_600, "3.5 h"),
        (172_800, "2 days"),
        (9 * 86400, "9 days"),
    ],
)
def test_an_age_is_said_as_people_do(seconds: float, text: str) -> None:
    assert describe_age(seconds) == text
