"""The lines of a run's files as they stand: a torn end is left out, damage is an error.

The results of a run are those of the run's own file, then those of its shards, by their names: the
first result of a task is the one that counts. Only where there are shards can there be a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.fingerprints import Fingerprints
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.index import task_mark
from chutes_opencode.batch.store.journal import read_lines
from chutes_opencode.batch.store.record_json import from_line
from chutes_opencode.batch.store.rows import row
from chutes_opencode.batch.store.shard_files import attempt_files, result_files

RESULTS = "results.jsonl"
ATTEMPTS = "attempts.jsonl"


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file; none if there is no file.

    Raises:
        StoreError: A line is damaged (it is named), or the file cannot be read.
    """
    for number, line in _numbered(path):
        try:
            yield from_line(line)
        except ValueError as error:
            raise _damaged(path, number) from error


def records_in(data: bytes, name: str) -> Iterator[Record]:
    """Yield the records of an object; a part of a line at its end is left out.

    Args:
        data: The object's.
        name: What it is called in an error.

    Raises:
        StoreError: A line is damaged.
    """
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            yield from_line(line)
        except ValueError as error:
            raise _damaged(name, number) from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the fields of a file's records; as `read_records`, and quicker."""
    for number, line in _numbered(path):
        fields = row(line)
        if fields is None:
            raise _damaged(path, number)
        yield fields


def run_results(run: Path) -> Iterator[Record]:
    """Yield the results of a run, each task's once.

    Raises:
        StoreError: A line is damaged (it is named), or a file cannot be read.
    """
    return (record for record, first in _results(run) if first)


def run_tries(run: Path) -> Iterator[Record]:
    """Yield the tries of a run that do not count, second results of a task included.

    Raises:
        StoreError: A line is damaged (it is named), or a file cannot be read.
    """
    for path in (run / ATTEMPTS, *attempt_files(run)):
        yield from read_records(path)
    if result_files(run):
        yield from (record for record, first in _results(run) if not first)


def run_rows(run: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the fields of all tries and results of a run, and whether each counts as a result.

    Raises:
        StoreError: A line is damaged (it is named), or a file cannot be read.
    """
    for path in (run / ATTEMPTS, *attempt_files(run)):
        yield from ((fields, False) for fields in read_rows(path))
    shards, seen = result_files(run), Fingerprints()
    for path in (run / RESULTS, *shards):
        for fields in read_rows(path):
            key = fields["id"], fields["model"], fields["sample"]
            yield fields, not shards or seen.add(task_mark(key))


def _results(run: Path) -> Iterator[tuple[Record, bool]]:
    shards, seen = result_files(run), Fingerprints()
    for path in (run / RESULTS, *shards):
        for record in read_records(path):
            yield record, not shards or seen.add(task_mark(record.key))


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.exists():
        yield from enumerate(read_lines(path), 1)


def _damaged(path: Path | str, number: int) -> StoreError:
    return StoreError(
        raw_message=f"{path}: line {number} is damaged",
        hint="Resume the run: that moves the line to damaged.jsonl and asks its item again.",
    )
