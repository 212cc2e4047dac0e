"""A line of a run's files, checked: is it a record's, or a result's?"""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Any

import orjson

from chutes_opencode.batch.record import CUT, FAILED, OK
from chutes_opencode.results import Usage

_COUNTS = frozenset({int, bool})
_USAGE = frozenset(each.name for each in dataclass_fields(Usage))


def result_row(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a result's line; None: it is no result's."""
    fields = row(line)
    return None if fields is None or fields["status"] == CUT else fields


def row(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a record's line; None: it is no record's."""
    try:
        fields = orjson.loads(line)
        error, usage, failed = fields["error"], fields["usage"], fields["failed_usage"]
        whole = (
            type(fields["id"]) is str
            and type(fields["model"]) is str
            and type(fields["sample"]) is int
            and type(fields["content_hash"]) is str
            and fields["status"] in (OK, FAILED, CUT)
            and type(fields["started_at"]) in (float, int)
            and type(fields["cost_usd"]) in (float, int, type(None))
            and (error is None or type(error["type"]) is type(error["message"]) is str)
            and _COUNTS.issuperset(map(type, usage.values()))
            and _COUNTS.issuperset(map(type, failed.values()))
            and usage.keys() & failed.keys() >= _USAGE
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return fields if whole else None
