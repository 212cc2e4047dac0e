"""Values of tables, as JSON has them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from chutes_opencode.batch.items.lines import BadRowError
from chutes_opencode.batch.items.plain import plain, plain_row


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (np.float64(0.5), 0.5),
        (np.str_("a"), "a"),
        (np.datetime64("2026-11-21"), "2026-11-21"),
        (pd.Timestamp("2026-11-21"), "2026-11-21T00:00:00"),
        (pd.NaT, None),
        (pd.NA, None),
        (date(2026, 11, 21), "2026-11-21"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a/b"), "a/b"),
        ({1: (2, float("nan"))}, {"1": [2, None]}),
        ({"a"}, ["a"]),
        (True, True),
    ],
)
def test_values_are_as_json_has_them(value: object, as_json: object) -> None:
    made = plain(value)

    assert made == as_json
    assert type(made) is type(as_json)


def test_a_value_without_a_form_in_json_makes_a_bad_row() -> None:
    row = plain_row(4, {"prompt": "a", "blob": [b"x"]})

    assert isinstance(row, BadRowError)
    assert str(row) == "line 4: 'blob' has no form in JSON: it is a bytes"


def test_a_value_that_holds_itself_makes_a_bad_row() -> None:
    circle: list[Any] = []
    circle.append(circle)

    assert isinstance(plain_row(1, {"a": circle}), BadRowError)
