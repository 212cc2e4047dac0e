"""What a run's files hold, and mending what a killed writer or a hand has left in them.

A line that is no record, or no result, is moved to `damaged.jsonl`, and said: its task has no
result then and runs again, while the other results of the run stay in use. (To refuse the whole run
for it would leave its owner with a file of a hundred thousand lines and an editor.) A second result
of a task is moved to `attempts.jsonl`: what it cost counts. What stands in both files was being
moved when its process died: the result stays.

Shards are mended like results.jsonl, once they are closed: an open one is its writer's. The torn
end of a shard's file stays: nobody writes behind it, and readers leave it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from chutes_opencode.batch.durable import storing, sync_folder
from chutes_opencode.batch.fingerprints import Fingerprints
from chutes_opencode.batch.record import CUT
from chutes_opencode.batch.store.index import Index, Key, task_mark, try_mark
from chutes_opencode.batch.store.journal import Journal, read_lines
from chutes_opencode.batch.store.rows import result_row, row
from chutes_opencode.batch.store.shard_files import (
    attempt_files,
    is_closed,
    result_files,
)
from chutes_opencode.batch.store.totals import Tally

DAMAGED = "damaged.jsonl"

Choose = Callable[[bytes], Journal | None]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run that is open, shards included as they were when it was looked.

    Attributes:
        results: results.jsonl.
        attempts: attempts.jsonl.
        shards: Files with results in shards, in their order.
        tries: Files with tries in shards.
        closed: Those of the shards' files that no writer has any more.
    """

    results: Journal
    attempts: Journal
    shards: Sequence[Path] = ()
    tries: Sequence[Path] = ()
    closed: frozenset[Path] = frozenset()

    @classmethod
    def of(cls, results: Journal, attempts: Journal) -> Self:
        """Look for the shards beside the run's own files.

        Raises:
            StoreError: They cannot be read.
        """
        run = results.path.parent
        shards, tries = result_files(run), attempt_files(run)
        closed = {
            folder for folder in {path.parent for path in shards + tries} if is_closed(folder)
        }
        mine = frozenset(path for path in shards + tries if path.parent in closed)
        return cls(results, attempts, shards, tries, mine)

    def of_results(self) -> list[Path]:
        """Return the files with results, in their order."""
        return [self.results.path, *self.shards]

    def of_tries(self) -> list[Path]:
        """Return the files with tries, in their order."""
        return [self.attempts.path, *self.tries]

    def name(self, path: Path) -> str:
        """Return what people call one of the files."""
        return str(path.relative_to(self.results.path.parent))

    def may_mend(self, path: Path) -> bool:
        """Tell whether one of the files may be written anew."""
        return path in (self.results.path, self.attempts.path) or path in self.closed

    def mendable(self, counts: Mapping[Path, int]) -> list[Path]:
        """Return those of some files that may be written anew, sorted."""
        return sorted(path for path in counts if self.may_mend(path))

    @contextmanager
    def opened(self, path: Path) -> Iterator[Journal]:
        """Open one of the files to write it anew; the run's own are open already."""
        own = {journal.path: journal for journal in (self.results, self.attempts)}
        if path in own:
            yield own[path]
            return
        with closing(Journal(path)) as journal:
            yield journal


@dataclass(slots=True)
class Contents:
    """What the files hold.

    Attributes:
        index: Which tasks have a result.
        tally: The sums.
        doubles: Second results of a task, by the file that they stand in.
        damaged: Lines that are no record, by file.
        undone: Marks of results that stand in attempts.jsonl too.
    """

    index: Index = field(default_factory=Index)
    tally: Tally = field(default_factory=Tally)
    doubles: Counter[Path] = field(default_factory=Counter)
    damaged: Counter[Path] = field(default_factory=Counter)
    undone: set[int] = field(default_factory=set)


def load(files: RunFiles) -> tuple[Contents, list[str]]:
    """Read a run's files, and mend them.

    Args:
        files: The run's.

    Returns:
        What they hold, and what was mended, a sentence each.

    Raises:
        StoreError: They cannot be read or mended.
    """
    said = [
        f"{journal.path.name}: the last line had not been written whole ({cut} bytes cut off)"
        for journal in (files.attempts, files.results)
        if (cut := journal.repair())
    ]
    while True:
        contents = read_contents(files)
        mended = _mend(contents, files)
        if not mended:
            return contents, said
        said += mended


def read_contents(files: RunFiles) -> Contents:
    """Read a run's files as they are.

    Raises:
        StoreError: They cannot be read.
    """
    contents, tried = Contents(), Fingerprints()
    for path in files.of_tries():
        for line in read_lines(path):
            fields = row(line)
            if fields is None:
                contents.damaged[path] += 1
                continue
            contents.tally.add_try(fields)
            if fields["status"] != CUT:
                tried.add(try_mark(fields))
    for path in files.of_results():
        _read_results(path, contents, tried)
    return contents


def _read_results(path: Path, contents: Contents, tried: Fingerprints) -> None:
    any_tried = bool(len(tried))
    for line in read_lines(path):
        fields = result_row(line)
        if fields is None:
            contents.damaged[path] += 1
            continue
        if contents.index.add(_key(fields), fields["content_hash"], fields["status"]):
            contents.tally.add_result(fields)
        else:
            contents.tally.add_try(fields)
            contents.doubles[path] += 1
        if any_tried and (mark := try_mark(fields)) in tried:
            contents.undone.add(mark)


def _key(fields: dict[str, Any]) -> Key:
    return fields["id"], fields["model"], fields["sample"]


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


def _mend(contents: Contents, files: RunFiles) -> list[str]:
    attempts, undone = files.attempts, contents.undone
    if undone:  # results are only ever moved to this one
        attempts.replace(line for line in attempts.lines() if not _stands(line, undone))
        return [f"{attempts.path.name}: {len(undone)} results had not been taken back"]
    said: list[str] = []
    for path in files.mendable(contents.damaged):
        _move_damaged(path, files)
        count = contents.damaged[path]
        said.append(f"{files.name(path)}: {count} damaged lines moved to {DAMAGED}")
    if doubled := files.mendable(contents.doubles):
        _move_doubles(doubled, files)
    for path in doubled:
        count = contents.doubles[path]
        said.append(f"{files.name(path)}: {count} second results of a task moved away")
    return said


def _stands(line: bytes, undone: set[int]) -> bool:
    fields = row(line)
    return fields is not None and fields["status"] != CUT and try_mark(fields) in undone


def _move_damaged(path: Path, files: RunFiles) -> None:
    read = result_row if path in files.of_results() else row
    with closing(Journal(files.results.path.with_name(DAMAGED))) as damaged:
        damaged.repair()
        with storing(damaged.path):
            sync_folder(damaged.path.parent)
        with files.opened(path) as journal:
            move(journal, lambda line: damaged if read(line) is None else None, damaged)


def _move_doubles(doubled: Sequence[Path], files: RunFiles) -> None:
    """Move second results to the attempts; which is the first, all files before it tell."""
    seen = Fingerprints()

    def choose(line: bytes) -> Journal | None:
        fields = result_row(line)
        first = fields is None or seen.add(task_mark(_key(fields)))
        return None if first else files.attempts

    for path in files.of_results():
        if path in doubled:
            with files.opened(path) as journal:
                move(journal, choose, files.attempts)
        else:
            for line in read_lines(path):
                choose(line)
