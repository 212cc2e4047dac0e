"""What a run has come to so far, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add, itemgetter
from typing import Any

from chutes_opencode.batch.record import CUT, FAILED, OK, Record
from chutes_opencode.batch.store.record_json import usage_fields
from chutes_opencode.results import Usage

_COUNTS = ("input", "output", "reasoning", "cache_read", "cache_write", "num_turns", "num_requests")
_counts_of = itemgetter(*_COUNTS)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a run.

    Attributes:
        ok: Results that are answers.
        failed: Results that are failures.
        errors: The failures, by class.
        cut: Tries that we ended.
        taken_back: Results that were asked anew.
        usage: Tokens of all results and tries.
        failed_usage: What of that was asked in vain; all of the tries are.
        cost_usd: US dollars of all results and tries, as far as their price is known.
        unpriced: How many have no known price.
    """

    ok: int = 0
    failed: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0
    taken_back: int = 0
    usage: Usage = field(default_factory=Usage)
    failed_usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    unpriced: int = 0

    @property
    def results(self) -> int:
        """Results, answers and failures."""
        return self.ok + self.failed


class Tally:
    """Adds up records, given as their JSON fields."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self._statuses: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._usage, self._failed = _Tokens(), _Tokens()
        self._cost_usd = 0.0
        self._unpriced = 0
        self._taken_back = 0

    def add_result(self, fields: Mapping[str, Any]) -> None:
        """Count a line of results.jsonl."""
        self._statuses[fields["status"]] += 1
        if fields["error"] is not None:
            self._errors[fields["error"]["type"]] += 1
        self._failed.add(fields["failed_usage"])
        self._add_cost(fields)

    def add_try(self, fields: Mapping[str, Any]) -> None:
        """Count a line of attempts.jsonl."""
        if fields["status"] == CUT:
            self._statuses[CUT] += 1
        else:
            self._taken_back += 1
        self._failed.add(fields["usage"])
        self._add_cost(fields)

    def totals(self) -> Totals:
        """Return the sums so far."""
        return Totals(
            ok=self._statuses[OK],
            failed=self._statuses[FAILED],
            errors=dict(self._errors),
            cut=self._statuses[CUT],
            taken_back=self._taken_back,
            usage=self._usage.sum(),
            failed_usage=self._failed.sum(),
            cost_usd=self._cost_usd,
            unpriced=self._unpriced,
        )

    def _add_cost(self, fields: Mapping[str, Any]) -> None:
        self._usage.add(fields["usage"])
        cost_usd = fields["cost_usd"]
        if cost_usd is None:
            self._unpriced += 1
        else:
            self._cost_usd += cost_usd


def counted_fields(record: Record) -> dict[str, Any]:
    """Return those of a record's fields that are counted, as its line has them."""
    error = record.error
    return {
        "status": record.status,
        "error": None if error is None else {"type": error.type},
        "usage": usage_fields(record.usage),
        "failed_usage": usage_fields(record.failed_usage),
        "cost_usd": record.cost_usd,
    }


class _Tokens:
    """Sums of usages, made without a new object for each."""

    def __init__(self) -> None:
        self._sums = [0] * len(_COUNTS)
        self._estimated = False

    def add(self, usage: Mapping[str, Any]) -> None:
        self._sums = list(map(add, self._sums, _counts_of(usage)))  # in C: 100,000 on opening
        self._estimated = self._estimated or usage["estimated"]

    def sum(self) -> Usage:
        sums: dict[str, Any] = dict(zip(_COUNTS, self._sums, strict=True))
        return Usage(**sums, estimated=self._estimated)
