import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.simulator.arithmetic import solve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 17 + 25?", "42"),
        ("17+25", "42"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("10 - 2 - 3", "5"),
        ("100 / 8 / 2", "6.25"),
        ("1/3", "0.333333333333"),
        ("0.1 + 0.2", "0.3"),
        ("2 * -3", "-6"),
        ("-4 + 1", "-3"),
        ("6*7.", "42"),
        ("3 * (4 + ", None),
        ("1 + 2 + (", "3"),
        ("2 * 3 * (", "6"),
        ("(17 + 25 apples)", "42"),
        ("-(1 + 2", None),
        ("1 / 0", "undefined"),
        ("On 2026-08-22 add 1 + 1", "2"),
        ("and 3/4/2026.", None),
        ("just 42 or 3.14", None),
        ("version1 + 2", None),
        ("no numbers", None),
        ("", None),
    ],
)
def test_the_first_expression_of_a_text_is_solved(text: str, expected: str | None) -> None:
    assert solve(text) == expected


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**9))
def test_whole_numbers_are_exact(a: int, b: int, c: int) -> None:
    assert solve(f"{a} + {b} * {c}") == str(a + b * c)


@given(st.text(alphabet="0123456789+-*/(). a", max_size=300))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    solve(text)


@pytest.mark.parametrize("text", ["(" * 200_000, "1+" * 100_000, "((1" * 60_000, "1" * 200_000])
def test_long_texts_take_no_long_time(text: str) -> None:
    started = time.monotonic()
    solve(text)
    assert time.monotonic() - started < 60
