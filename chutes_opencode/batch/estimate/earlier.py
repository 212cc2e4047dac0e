"""What earlier results tell of those to come: tokens and seconds of a prompt."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Self

from chutes_opencode.batch.record import OK, Record
from chutes_opencode.batch.store.journal import read_lines
from chutes_opencode.batch.store.lines import RESULTS
from chutes_opencode.batch.store.record_json import from_line
from chutes_opencode.batch.store.run_place import VIEW, open_place
from chutes_opencode.batch.store.shard_files import result_files
from chutes_opencode.errors import ConfigurationError

MAX_RECORDS = 100_000
"""How many results are looked at: their numbers are held in memory."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number that differs from prompt to prompt.

    Attributes:
        low: One prompt in ten has less.
        mean: The mean.
        high: One prompt in ten has more.
    """

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Take the numbers of some prompts; at least one."""
        ordered = sorted(values)
        last = len(ordered) - 1
        low, high = ordered[round(0.1 * last)], ordered[round(0.9 * last)]
        return cls(low, sum(ordered) / len(ordered), high)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What some answered prompts of one model used, their failed attempts left out.

    Attributes:
        prompts: How many there are.
        output: Output tokens, reasoning included.
        input: Input tokens, cached ones included.
        requests: Model requests of a prompt, on average.
        seconds: How long a prompt ran, on average, without its wait for a free place.
    """

    prompts: int
    output: Spread
    input: Spread
    requests: float
    seconds: float


def read_earlier(place: Path | str, *, must_exist: bool = False) -> dict[str, Earlier]:
    """Read what the answers of a run used.

    Args:
        place: The run's folder or URL.
        must_exist: Whether it is an error if there are none.

    Returns:
        By model, as it was asked for, and under "*" of all models; empty if there are none.

    Raises:
        ConfigurationError: The results cannot be read, or there are none.
    """
    run = open_place(place, VIEW)
    run.pull()
    found = summarise(_records(run.folder))
    if must_exist and not found:
        raise ConfigurationError(
            raw_message=f"{place} holds no answers to learn from",
            hint="Name the folder of a run that has answers in its results.jsonl.",
        )
    return found


def summarise(records: Iterable[Record]) -> dict[str, Earlier]:
    """Sum answered records up; see `read_earlier`."""
    columns: dict[str, tuple[array[float], ...]] = defaultdict(
        lambda: tuple(array("d") for _ in range(4))
    )
    for record in records:
        if record.status != OK:
            continue
        used, failed = record.usage, record.failed_usage
        numbers = (
            used.output + used.reasoning - failed.output - failed.reasoning,
            used.input + used.cache_read - failed.input - failed.cache_read,
            used.num_requests - failed.num_requests,
            record.duration_s - record.queued_s,
        )
        for name in (record.model, "*"):
            for column, number in zip(columns[name], numbers, strict=True):
                column.append(number)
    return {name: _earlier(*each) for name, each in columns.items()}


def _earlier(
    output: array[float], input_: array[float], requests: array[float], seconds: array[float]
) -> Earlier:
    count = len(output)
    return Earlier(
        count, Spread.of(output), Spread.of(input_), sum(requests) / count, sum(seconds) / count
    )


def _records(run: Path) -> Iterator[Record]:
    """Yield results, of the run's shards too; a line that is not ours is passed over."""
    paths = (path for path in (run / RESULTS, *result_files(run)) if path.exists())
    for line in islice(chain.from_iterable(map(read_lines, paths)), MAX_RECORDS):
        with suppress(ValueError):
            yield from_line(line)
