"""Values of Python, numpy, pandas and pyarrow as plain JSON values. Imports none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from chutes_opencode.batch.items.lines import BadRowError

# Singletons of pandas that mean absent; the first compares to nothing, not even to itself.
_ABSENT_TYPES = ("NAType", "NaTType")


def plain_row(number: int, row: Mapping[Any, Any]) -> dict[str, Any] | BadRowError:
    """Return a row of plain values.

    Args:
        number: The row's line.
        row: Values by column; whatever means absent (None, NaN, NaT, NA) becomes None.

    Returns:
        The row, or what is wrong with it: a value that JSON has no form for.
    """
    values: dict[str, Any] = {}
    for name, value in row.items():
        try:
            values[str(name)] = plain(value)
        except (TypeError, ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            return BadRowError(number, f"{str(name)!r:.60} has no form in JSON: {reason:.200}")
    return values


def plain(value: Any) -> Any:
    """Return a value as JSON has it: times as ISO text, numbers of numpy as numbers.

    Raises:
        TypeError: It has no form there.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if type(value).__name__ in _ABSENT_TYPES:
        return None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, str | PurePath | UUID | Decimal):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # an array of numpy, or one of its numbers
        return plain(value.tolist())
    raise TypeError(f"it is a {type(value).__name__}")
