"""Secrets are masked wherever they stand."""

from __future__ import annotations

import pytest

from chutes_opencode.masking import MASK, MIN_SECRET_LENGTH, mask, mask_value, register_secret


def test_a_registered_secret_is_masked_everywhere_in_a_text() -> None:
    register_secret("tok-registered-1")

    assert mask("a tok-registered-1 b tok-registered-1") == f"a {MASK} b {MASK}"


def test_a_secret_that_contains_another_is_masked_as_a_whole() -> None:
    register_secret("nested-secret")
    register_secret("nested-secret-longer")

    assert mask("x nested-secret-longer y") == f"x {MASK} y"


def test_a_short_value_is_not_taken_for_a_secret() -> None:
    short = "q" * (MIN_SECRET_LENGTH - 1)

    register_secret(short)

    assert mask(f"a {short} b") == f"a {short} b"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key cpk_masking0123456789.x-y end", f"key {MASK} end"),
        ("cpk_short", "cpk_short"),
        ("Authorization: Bearer abcdefgh12345678", f"Authorization: Bearer {MASK}"),
        ("AUTHORIZATION: BEARER abcdefgh12345678==", f"AUTHORIZATION: BEARER {MASK}"),
        ("a bearer of news", "a bearer of news"),
        (f"Bearer {MASK}", f"Bearer {MASK}"),
        ("nothing to hide", "nothing to hide"),
        ("", ""),
    ],
)
def test_a_secret_is_known_by_its_shape(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_strings_inside_of_dicts_lists_and_tuples_are_masked() -> None:
    register_secret("tok-inside-1234")
    value = {"tok-inside-1234": ["tok-inside-1234", ("tok-inside-1234", 7)], "n": None}

    assert mask_value(value) == {MASK: [MASK, (MASK, 7)], "n": None}


@pytest.mark.parametrize("value", [None, 3, 2.5, True, b"bytes"])
def test_other_values_stay_as_they_are(value: object) -> None:
    assert mask_value(value) is value
