"""Numbers as people read them; the browser's check holds format.js to the same table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chutes_opencode.batch.report import numbers

TABLE = json.loads(
    (Path(__file__).parents[3] / "browser" / "numbers.json").read_text(encoding="utf-8")
)
CASES = [(name, value, shown) for name, rows in TABLE.items() for value, shown in rows]


@pytest.mark.parametrize(("name", "value", "shown"), CASES)
def test_a_number_is_written_for_people(name: str, value: float | None, shown: str) -> None:
    assert getattr(numbers, name)(value) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 0, "–"),
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 8, "12.5 %"),
        (1, 100_000, "<0.1 %"),
        (99_999, 100_000, ">99.9 %"),
    ],
)
def test_a_share_never_hides_that_there_is_some(part: int, whole: int, shown: str) -> None:
    assert numbers.percent(part, whole) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.321, "0.32"), (3.21, "3.2"), (2345.6, "2,346")]
)
def test_a_rate_has_the_digits_that_count(value: float | None, shown: str) -> None:
    assert numbers.rate(value) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(1, "1 item"), (0, "0 items"), (1200, "1,200 items")]
)
def test_one_is_singular(number: int, shown: str) -> None:
    assert numbers.counted(number, "item") == shown


def test_a_moment_names_its_zone() -> None:
    assert numbers.moment(1_760_000_000.0) == "2025-10-09 08:53 UTC"
    assert numbers.moment(None) == "–"
