"""What a run's files hold, and mending what a killed writer or a hand has left in them.

A line that is no record, or no result, is moved to `damaged.jsonl`, and said: its task has no
result then and runs again, while the other results of the run stay in use. (To refuse the whole run
for it would leave its owner with a file of a hundred thousand lines and an editor.) A second result
of a task is moved to `attempts.jsonl`: what it cost counts. What stands in both files was being
moved when its process died: the result stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

import orjson

from chutes_opencode.batch.durable import storing, sync_folder
from chutes_opencode.batch.fingerprints import Fingerprints
from chutes_opencode.batch.record import CUT, FAILED, OK
from chutes_opencode.batch.store.index import Index, try_mark
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.totals import Tally
from chutes_opencode.results import Usage

DAMAGED = "damaged.jsonl"

_COUNTS = frozenset({int, bool})
_USAGE = frozenset(each.name for each in dataclass_fields(Usage))

Choose = Callable[[bytes], Journal | None]


@dataclass(slots=True)
class Contents:
    """What the files hold.

    Attributes:
        index: Which tasks have a result.
        tally: The sums.
        doubles: Second results of a task.
        damaged: Lines that are no record: of the results, of the attempts.
        undone: Marks of results that stand among the attempts too.
    """

    index: Index = field(default_factory=Index)
    tally: Tally = field(default_factory=Tally)
    doubles: int = 0
    damaged: list[int] = field(default_factory=lambda: [0, 0])
    undone: set[int] = field(default_factory=set)


def load(results: Journal, attempts: Journal) -> tuple[Contents, list[str]]:
    """Read a run's files, and mend them.

    Args:
        results: results.jsonl.
        attempts: attempts.jsonl.

    Returns:
        What they hold, and what was mended, a sentence each.

    Raises:
        StoreError: They cannot be read or mended.
    """
    said = [
        f"{journal.path.name}: the last line had not been written whole ({cut} bytes cut off)"
        for journal in (attempts, results)
        if (cut := journal.repair())
    ]
    while True:
        contents = read_contents(results, attempts)
        mended = _mend(contents, results, attempts)
        if not mended:
            return contents, said
        said += mended


def read_contents(results: Journal, attempts: Journal) -> Contents:
    """Read a run's files as they are.

    Raises:
        StoreError: They cannot be read.
    """
    contents, tried = Contents(), Fingerprints()
    for line in attempts.lines():
        fields = row(line)
        if fields is None:
            contents.damaged[1] += 1
            continue
        contents.tally.add_try(fields)
        if fields["status"] != CUT:
            tried.add(try_mark(fields))
    any_tried = bool(len(tried))
    for line in results.lines():
        fields = result_row(line)
        if fields is None:
            contents.damaged[0] += 1
            continue
        if _is_first(fields, contents.index):
            contents.tally.add_result(fields)
        else:
            contents.doubles += 1
        if any_tried and (mark := try_mark(fields)) in tried:
            contents.undone.add(mark)
    return contents


def _is_first(fields: dict[str, Any], seen: Index) -> bool:
    """Tell whether a result is the first of its task, and put it in then."""
    key = (fields["id"], fields["model"], fields["sample"])
    return seen.add(key, fields["content_hash"], fields["status"])


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


def move(source: Journal, choose: Choose, *targets: Journal) -> int:
    """Move lines from a file into others, so that none is ever lost.

    Killed in its midst, it leaves lines in both; never in neither, and no file half-written.

    Args:
        source: Where they are.
        choose: Returns where a line goes, None: it stays.
        targets: All that `choose` may return.

    Returns:
        How many were moved.

    Raises:
        StoreError: A file cannot be written.
    """
    moved = 0

    def kept(line: bytes) -> bool:
        nonlocal moved
        target = choose(line)
        if target is not None:
            target.add(line)
            moved += 1
        return target is None

    def arrived() -> bool:
        for target in targets:
            target.commit()
        return moved > 0

    source.replace(filter(kept, source.lines()), before=arrived)
    return moved


def _mend(contents: Contents, results: Journal, attempts: Journal) -> list[str]:
    if contents.undone:
        attempts.replace(line for line in attempts.lines() if not _stands(line, contents.undone))
        return [f"{attempts.path.name}: {len(contents.undone)} results had not been taken back"]
    said: list[str] = []
    files = ((results, result_row), (attempts, row))
    for (journal, read), count in zip(files, contents.damaged, strict=True):
        if count:
            _move_damaged(journal, read)
            said.append(f"{journal.path.name}: {count} damaged lines moved to {DAMAGED}")
    if contents.doubles:
        move(results, _second_ones(attempts), attempts)
        said.append(f"{results.path.name}: {contents.doubles} second results of a task moved away")
    return said


def _stands(line: bytes, undone: set[int]) -> bool:
    fields = row(line)
    return fields is not None and fields["status"] != CUT and try_mark(fields) in undone


def _move_damaged(journal: Journal, read: Callable[[bytes], object | None]) -> None:
    damaged = Journal(journal.path.with_name(DAMAGED))
    try:
        damaged.repair()
        with storing(damaged.path):
            sync_folder(damaged.path.parent)
        move(journal, lambda line: damaged if read(line) is None else None, damaged)
    finally:
        damaged.close()


def _second_ones(attempts: Journal) -> Choose:
    seen = Index()

    def choose(line: bytes) -> Journal | None:
        fields = row(line)
        if fields is None or _is_first(fields, seen):
            return None
        return attempts

    return choose
