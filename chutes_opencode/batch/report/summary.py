"""What a run came to, counted in one pass: texts are looked at and let go."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from chutes_opencode.batch.record import FAILED, OK, Record, RecordedError
from chutes_opencode.batch.report.distributions import Distribution, distribution, percentile
from chutes_opencode.batch.report.timeline import Clock, Step, Timeline
from chutes_opencode.results import Usage

EXTREMES = 10
"""How many of the slowest, and of the dearest, items are shown."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """An item among the slowest or dearest.

    Attributes:
        position: Of its line in results.jsonl, 0 for the first.
        record: What it came to.
    """

    position: int
    record: Record


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """Failures of one class.

    Attributes:
        type: Class name of the error.
        count: How many stand.
        example: The first of them.
        position: Of its line in results.jsonl.
        item: Its item's id.
    """

    type: str
    count: int
    example: RecordedError
    position: int
    item: str


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What was asked of one model.

    Attributes:
        model: The model string.
        ok: Answers.
        failed: Failures.
        usage: Tokens, tries in vain included.
        cost_usd: US dollars of those whose price is known; None: none is.
        unpriced: Tries whose price is unknown.
        p50: Seconds; None: no answer. Latency without the wait for a free place.
        p95: Seconds.
    """

    model: str
    ok: int
    failed: int
    usage: Usage
    cost_usd: float | None
    unpriced: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures.

    Attributes:
        ok: Answers.
        failed: Failures that stand.
        retries: Earlier tries that count no more: failures tried again, tries that were cut.
        usage: Tokens of all that was asked, tries in vain included.
        vain_usage: What of that was asked in vain.
        cost_usd: US dollars of all that was asked; None: no price is known.
        vain_usd: US dollars of tries without an answer.
        unpriced: Tries whose price is unknown.
        latency: Seconds a prompt took, without the wait for a free place.
        first_token: Seconds from a prompt's first model request to its first byte.
        timeline: The run over its own time.
        models: By model, the one asked most first.
        errors: By class, the most frequent first.
        slowest: The longest first.
        dearest: The dearest first.
        ended_at: When the last of it ended, seconds since the epoch; None: nothing did.
        keys: Hash of each line's key, in order: tells a later pass whether it reads the same.
        default_model: The model of records that name none.
    """

    ok: int
    failed: int
    retries: int
    usage: Usage
    vain_usage: Usage
    cost_usd: float | None
    vain_usd: float
    unpriced: int
    latency: Distribution
    first_token: Distribution
    timeline: Timeline
    models: tuple[ModelFigures, ...]
    errors: tuple[ErrorFigures, ...]
    slowest: tuple[Ranked, ...]
    dearest: tuple[Ranked, ...]
    ended_at: float | None
    keys: array[int]
    default_model: str

    @property
    def finished(self) -> int:
        """Tasks with a result."""
        return self.ok + self.failed


def latency(record: Record) -> float:
    """Return the seconds a prompt took, without its wait for a free place."""
    return max(record.duration_s - record.queued_s, 0.0)


def input_tokens(usage: Usage) -> int:
    """Return the tokens that went in, cached ones included."""
    return usage.input + usage.cache_read + usage.cache_write


def output_tokens(usage: Usage) -> int:
    """Return the tokens that came out, reasoning included."""
    return usage.output + usage.reasoning


_COUNTS = ("input", "output", "reasoning", "cache_read", "cache_write")


@dataclass(slots=True)
class _Tokens:
    """Adds up in place: a million sums of `Usage` would take seconds."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0
    estimated: bool = False

    def add(self, usage: Usage) -> None:
        self.input += usage.input
        self.output += usage.output
        self.reasoning += usage.reasoning
        self.cache_read += usage.cache_read
        self.cache_write += usage.cache_write
        self.estimated = self.estimated or usage.estimated

    def usage(self) -> Usage:
        counts = {name: getattr(self, name) for name in _COUNTS}
        return Usage(**counts, estimated=self.estimated)


@dataclass(slots=True)
class _Model:
    ok: int = 0
    failed: int = 0
    tokens: _Tokens = field(default_factory=_Tokens)
    cost_usd: float | None = None
    unpriced: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))

    def spend(self, record: Record) -> None:
        self.tokens.add(record.usage)
        if record.cost_usd is None:
            self.unpriced += 1
        else:
            self.cost_usd = (self.cost_usd or 0.0) + record.cost_usd


@dataclass(slots=True)
class _Class:
    example: RecordedError
    position: int
    item: str
    count: int = 0


class Aggregator:
    """Counts records one by one."""

    def __init__(self, clock: Clock, default_model: str = "") -> None:
        """Start with nothing.

        Args:
            clock: Knows the run's sessions.
            default_model: The model of records that name none.
        """
        self._default_model = default_model
        self._clock = clock
        self._models: dict[str, _Model] = {}
        self._classes: dict[str, _Class] = {}
        self._slow_failures = array("d")
        self._first_tokens = array("d"), array("d")
        self._slowest: list[tuple[float, int, Record]] = []
        self._dearest: list[tuple[float, int, Record]] = []
        self._vain = _Model()
        self._retries = 0
        self._keys = array("q")

    def add(self, record: Record) -> None:
        """Count a line of results.jsonl; they come in its order."""
        model = self._spend(record)
        if record.status == OK:
            model.ok += 1
            model.latencies.append(latency(record))
            self._vain.tokens.add(record.failed_usage)
        else:
            self._fail(model, record)
        if record.first_token_s is not None:
            self._first_tokens[record.status != OK].append(record.first_token_s)
        self._rank(self._slowest, latency(record), record)
        self._rank(self._dearest, record.cost_usd or 0.0, record)
        self._keys.append(hash(record.key))

    def add_retried(self, record: Record) -> None:
        """Count a line of attempts.jsonl: only what it cost."""
        self._spend(record, counts=False)
        self._vain.spend(record)
        self._retries += 1

    def _fail(self, model: _Model, record: Record) -> None:
        model.failed += 1
        self._slow_failures.append(latency(record))
        self._vain.spend(record)
        error = record.error or RecordedError("", "")
        known = self._classes.setdefault(error.type, _Class(error, len(self._keys), record.id))
        known.count += 1

    def _spend(self, record: Record, *, counts: bool = True) -> _Model:
        model = self._models.setdefault(record.model or self._default_model, _Model())
        model.spend(record)
        step = Step(
            ok=int(counts and record.status == OK),
            failed=int(counts and record.status == FAILED),
            input=input_tokens(record.usage),
            output=output_tokens(record.usage),
            cost_usd=record.cost_usd or 0.0,
        )
        if step.failed:
            step.errors[record.error.type if record.error else ""] += 1
        self._clock.add(record.started_at, record.started_at + record.duration_s, step)
        return model

    def _rank(self, heap: list[tuple[float, int, Record]], value: float, record: Record) -> None:
        entry = (value, -len(self._keys), record)
        if not value:
            return
        if len(heap) < EXTREMES:
            heapq.heappush(heap, entry)
        elif value > heap[0][0]:
            heapq.heapreplace(heap, entry)

    def summary(self) -> Summary:
        """Return what was counted."""
        models = self._models.values()
        known = [model.cost_usd for model in models if model.cost_usd is not None]
        timely = distribution(
            chain.from_iterable(model.latencies for model in models), self._slow_failures
        )
        return Summary(
            ok=sum(model.ok for model in models),
            failed=sum(model.failed for model in models),
            retries=self._retries,
            usage=sum((model.tokens.usage() for model in models), Usage()),
            vain_usage=self._vain.tokens.usage(),
            cost_usd=sum(known) if known else None,
            vain_usd=self._vain.cost_usd or 0.0,
            unpriced=sum(model.unpriced for model in models),
            latency=timely,
            first_token=distribution(*self._first_tokens),
            timeline=self._clock.timeline(),
            models=_models(self._models),
            errors=_errors(self._classes),
            slowest=_ranked(self._slowest),
            dearest=_ranked(self._dearest),
            ended_at=self._clock.last_end,
            keys=self._keys,
            default_model=self._default_model,
        )


def summarize(
    records: Iterable[Record], retried: Iterable[Record], clock: Clock, default_model: str = ""
) -> Summary:
    """Count a run.

    Args:
        records: The lines of results.jsonl, in order.
        retried: Those of attempts.jsonl.
        clock: Knows the run's sessions.
        default_model: The model of records that name none.
    """
    aggregator = Aggregator(clock, default_model)
    for record in records:
        aggregator.add(record)
    for record in retried:
        aggregator.add_retried(record)
    return aggregator.summary()


def _models(models: dict[str, _Model]) -> tuple[ModelFigures, ...]:
    def figures(name: str, model: _Model) -> ModelFigures:
        ordered = array("d", sorted(model.latencies))
        return ModelFigures(
            name,
            model.ok,
            model.failed,
            model.tokens.usage(),
            model.cost_usd,
            model.unpriced,
            percentile(ordered, 0.5),
            percentile(ordered, 0.95),
        )

    ranked = sorted(models.items(), key=lambda pair: -(pair[1].ok + pair[1].failed))
    return tuple(figures(name, model) for name, model in ranked)


def _errors(classes: dict[str, _Class]) -> tuple[ErrorFigures, ...]:
    ranked = sorted(classes.items(), key=lambda pair: -pair[1].count)
    return tuple(
        ErrorFigures(name, each.count, each.example, each.position, each.item)
        for name, each in ranked
    )


def _ranked(heap: list[tuple[float, int, Record]]) -> tuple[Ranked, ...]:
    ordered = sorted(heap, key=lambda entry: entry[:2], reverse=True)
    return tuple(Ranked(-position, record) for _, position, record in ordered)
