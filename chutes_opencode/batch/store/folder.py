"""A run's folder, for whoever only reads: a report, an export, a look from another terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.journal import read_lines
from chutes_opencode.batch.store.manifest import Manifest, read_manifest
from chutes_opencode.batch.store.mending import row
from chutes_opencode.batch.store.record_json import from_line
from chutes_opencode.batch.store.run_lock import Holder, holder_of
from chutes_opencode.batch.store.totals import Tally, Totals
from chutes_opencode.batch.store.transcripts import FOLDER, read_transcript

RESULTS = "results.jsonl"
ATTEMPTS = "attempts.jsonl"


class RunFolder:
    """A run as it lies on the disk; nothing is locked, changed or mended.

    Attributes:
        path: The folder.
        manifest: What the run was begun with.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the manifest.

        Raises:
            StoreError: The folder holds no run, or its manifest cannot be read.
        """
        self.path = Path(path)
        manifest = read_manifest(self.path)
        if manifest is None:
            raise StoreError(
                raw_message=f"{self.path} holds no run",
                hint="Name the folder that was given to `batch run` with -o.",
            )
        self.manifest: Manifest = manifest

    def records(self) -> Iterator[Record]:
        """Yield the results; one that is being written is left out.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        return read_records(self.path / RESULTS)

    def attempts(self) -> Iterator[Record]:
        """Yield the tries that do not count as results.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        return read_records(self.path / ATTEMPTS)

    def totals(self) -> Totals:
        """Return the sums over results and tries.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        tally = Tally()
        for name, add in ((ATTEMPTS, tally.add_try), (RESULTS, tally.add_result)):
            for number, line in _numbered(self.path / name):
                fields = row(line)
                if fields is None:
                    raise _damaged(self.path / name, number)
                add(fields)
        return tally.totals()

    def transcript(self, record: Record) -> dict[str, Any] | None:
        """Return a result's transcript, None if none was kept.

        Raises:
            StoreError: It was kept and is not there.
        """
        if record.transcript is None:
            return None
        return read_transcript(self.path / FOLDER, record.transcript)

    def holder(self) -> Holder | None:
        """Return the process that works at the run now, None if none does."""
        return holder_of(self.path)


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


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.exists():
        yield from enumerate(read_lines(path), 1)


def _damaged(path: Path, number: int) -> StoreError:
    return StoreError(
        raw_message=f"{path}: line {number} is damaged",
        hint="Resume the run: that moves the line to damaged.jsonl and asks its item again.",
    )
