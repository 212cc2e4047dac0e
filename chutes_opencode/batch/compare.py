"""Two runs side by side: what is only in one, what came out differently, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from statistics import median

from chutes_opencode.batch.record import OK, Record
from chutes_opencode.batch.report.distributions import percentile
from chutes_opencode.batch.report.summary import latency

Key = tuple[str, str, int]
"""Id, model, sample; the model is "" where each run asked one model only."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        models: Models that were asked, sorted.
        items: Results.
        ok: How many of them have an answer.
        failed: How many have an error.
        tokens: Of all results.
        cost_usd: US dollars of all results whose price is known.
        unpriced: Results whose price is not known.
        p50_s: Median of the seconds that an answer took, without the wait for a free place; None:
            there is none.
        p95_s: Seconds within which 95 of 100 answers came.
        errors: How many failures each class has.
    """

    models: tuple[str, ...]
    items: int
    ok: int
    failed: int
    tokens: int
    cost_usd: float
    unpriced: int
    p50_s: float | None
    p95_s: float | None
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """An item that came out differently.

    Attributes:
        key: What tells it from all others.
        before: "ok", or the class of the error.
        after: The same of the second run.
        same_text: Whether both answers are the same; None: one of them failed.
        asked_differently: Whether the item itself is another one now.
        tokens: How many more the second took.
        cost_usd: How many US dollars more the second took; None: a price is unknown.
        latency_s: How many seconds more the second took, waits for a free place left out.
    """

    key: Key
    before: str
    after: str
    same_text: bool | None
    asked_differently: bool
    tokens: int
    cost_usd: float | None
    latency_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What tells two runs apart.

    Attributes:
        a: The first run.
        b: The second.
        only_a: Items that the second does not have, sorted.
        only_b: Items that the first does not have, sorted.
        both: How many items both have.
        fixed: Items that failed in the first and have an answer in the second.
        broken: Items that have an answer in the first and failed in the second.
        failed_both: Items that failed in both.
        same_text: Items with the same answer in both.
        other_text: Items with different answers.
        median_tokens: Median over the items with an answer in both of how many tokens more the
            second took; None: there are none.
        median_cost_usd: The same of US dollars, where both prices are known.
        median_latency_s: The same of seconds.
        changes: The items whose status, error class, text or question differs, in the order of
            the second run.
    """

    a: Side
    b: Side
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    both: int
    fixed: int
    broken: int
    failed_both: int
    same_text: int
    other_text: int
    median_tokens: float | None
    median_cost_usd: float | None
    median_latency_s: float | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is kept of a result, so that a run of many fits in memory."""

    content_hash: str
    outcome: str
    text: bytes
    tokens: int
    cost_usd: float | None
    latency_s: float


def compare(a: Iterable[Record], b: Iterable[Record]) -> Comparison:
    """Compare two runs, item by item.

    Items belong together by id, model and sample. Where each run asked one model only, the model
    does not count, so that two models can be compared. Texts are compared with blanks around them
    left out; structured answers and diffs count as part of them.

    Args:
        a: Results of the first run.
        b: Results of the second.
    """
    first, second = _outcomes(a), _outcomes(b)
    if len(_models(first)) == len(_models(second)) == 1:
        (left, right) = (_without_model(first), _without_model(second))
    else:
        left, right = first, second
    changes = [_change(key, left[key], outcome) for key, outcome in right.items() if key in left]
    answered = [change for change in changes if change.before == change.after == OK]
    priced = [change.cost_usd for change in answered if change.cost_usd is not None]
    return Comparison(
        a=_side(first),
        b=_side(second),
        only_a=tuple(sorted(left.keys() - right.keys())),
        only_b=tuple(sorted(right.keys() - left.keys())),
        both=len(changes),
        fixed=sum(change.before != OK and change.after == OK for change in changes),
        broken=sum(change.before == OK and change.after != OK for change in changes),
        failed_both=sum(OK not in (change.before, change.after) for change in changes),
        same_text=sum(change.same_text is True for change in changes),
        other_text=sum(change.same_text is False for change in changes),
        median_tokens=_median([change.tokens for change in answered]),
        median_cost_usd=_median(priced),
        median_latency_s=_median([change.latency_s for change in answered]),
        changes=tuple(change for change in changes if _differs(change)),
    )


def _outcomes(records: Iterable[Record]) -> dict[Key, _Outcome]:
    """Return what came of each; where no model was named, by the one that mostly answered."""
    outcomes: dict[Key, _Outcome] = {}
    served: Counter[str] = Counter()
    for record in records:
        outcomes[record.key] = _outcome(record)
        if not record.model and record.served_model:
            served[record.served_model] += 1
    own = served.most_common(1)[0][0] if served else ""
    return {
        (item, model or own, sample): found for (item, model, sample), found in outcomes.items()
    }


def _outcome(record: Record) -> _Outcome:
    text = repr((record.result.strip(), record.structured, record.diff))
    return _Outcome(
        content_hash=record.content_hash,
        outcome=record.status if record.error is None else record.error.type,
        text=blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(),
        tokens=record.usage.total,
        cost_usd=record.cost_usd,
        latency_s=latency(record),
    )


def _models(outcomes: Mapping[Key, _Outcome]) -> set[str]:
    return {model for _, model, _ in outcomes}


def _without_model(outcomes: Mapping[Key, _Outcome]) -> dict[Key, _Outcome]:
    return {(item, "", sample): outcome for (item, _, sample), outcome in outcomes.items()}


def _change(key: Key, before: _Outcome, after: _Outcome) -> Change:
    priced = before.cost_usd is not None and after.cost_usd is not None
    return Change(
        key=key,
        before=before.outcome,
        after=after.outcome,
        same_text=before.text == after.text if before.outcome == after.outcome == OK else None,
        asked_differently=before.content_hash != after.content_hash,
        tokens=after.tokens - before.tokens,
        cost_usd=(after.cost_usd or 0.0) - (before.cost_usd or 0.0) if priced else None,
        latency_s=after.latency_s - before.latency_s,
    )


def _differs(change: Change) -> bool:
    return change.before != change.after or change.same_text is False or change.asked_differently


def _side(outcomes: Mapping[Key, _Outcome]) -> Side:
    values = outcomes.values()
    seconds = sorted(value.latency_s for value in values if value.outcome == OK)
    errors: dict[str, int] = {}
    for value in values:
        if value.outcome != OK:
            errors[value.outcome] = errors.get(value.outcome, 0) + 1
    return Side(
        models=tuple(sorted(_models(outcomes))),
        items=len(outcomes),
        ok=len(seconds),
        failed=len(outcomes) - len(seconds),
        tokens=sum(value.tokens for value in values),
        cost_usd=sum(value.cost_usd or 0.0 for value in values),
        unpriced=sum(value.cost_usd is None for value in values),
        p50_s=percentile(seconds, 0.5),
        p95_s=percentile(seconds, 0.95),
        errors=errors,
    )


def _median(values: list[float] | list[int]) -> float | None:
    return median(values) if values else None
