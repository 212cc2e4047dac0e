"""A run's folder, for whoever only reads: a report, an export, a look from another terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.lines import run_results, run_rows, run_tries
from chutes_opencode.batch.store.manifest import Manifest, read_manifest
from chutes_opencode.batch.store.run_lock import Holder
from chutes_opencode.batch.store.run_place import VIEW, open_place
from chutes_opencode.batch.store.shard_files import SHARDS
from chutes_opencode.batch.store.totals import Tally, Totals
from chutes_opencode.batch.store.transcripts import FOLDER, read_transcript


class RunFolder:
    """A run as it is stored; nothing is locked, changed or mended.

    Of a run at a URL there is a copy in a folder of this machine, as it was when it was made or
    `refresh` was called.

    Attributes:
        path: The folder.
        place: The folder as it was given, or the URL.
        manifest: What the run was begun with.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the manifest.

        Args:
            path: The run's folder, or its URL.

        Raises:
            StoreError: The place holds no run, or its manifest cannot be read.
            ConfigurationError: What a URL needs is not installed.
        """
        self._place = open_place(path, VIEW)
        self.path = self._place.folder
        self.place = str(path)
        self._place.pull()
        manifest = read_manifest(self.path)
        if manifest is None:
            raise StoreError(
                raw_message=f"{self.place} holds no run",
                hint="Name the folder that was given to `batch run` with -o.",
            )
        self.manifest: Manifest = manifest

    @classmethod
    def at(cls, text: str) -> Self:
        """Open the run whose folder or URL a text names; see `__init__`."""
        return cls(text)

    def refresh(self, *, results: bool = True) -> None:
        """Have the copy of a run at a URL as the run is now; a folder is so already.

        Args:
            results: Whether results and tries are wanted, too, or only how far the run is.

        Raises:
            StoreError: The URL cannot be read.
        """
        if results:
            self._place.pull()
        else:
            self._place.pull_state()

    def publish(self, name: str) -> None:
        """Have a file that was written in the folder at the run's URL, too, if it has one.

        Args:
            name: The file's, such as "report.html".

        Raises:
            StoreError: It cannot be read, or the URL not written.
        """
        self._place.publish(name)

    def records(self) -> Iterator[Record]:
        """Yield the results; one that is being written is left out.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        return run_results(self.path)

    def attempts(self) -> Iterator[Record]:
        """Yield the tries that do not count as results.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        return run_tries(self.path)

    def totals(self) -> Totals:
        """Return the sums over results and tries.

        Raises:
            StoreError: A line is damaged (it is named), or the file cannot be read.
        """
        tally = Tally()
        for fields, counts in run_rows(self.path):
            (tally.add_result if counts else tally.add_try)(fields)
        return tally.totals()

    def transcript(self, record: Record) -> dict[str, Any] | None:
        """Return a result's transcript, None if none was kept.

        Raises:
            StoreError: It was kept and is not there.
        """
        if record.transcript is None:
            return None
        shard, _, place = record.transcript.rpartition("/")
        owner = f"{SHARDS}/{shard}/{FOLDER}" if shard else FOLDER
        self._place.fetch(f"{owner}/{place.partition(':')[0]}")
        return read_transcript(self.path / owner, place)

    def holder(self) -> Holder | None:
        """Return the process that works at the run now, None if none does."""
        return self._place.holder()


def open_folder(place: str) -> RunFolder:
    """Open a run to read it.

    Args:
        place: Its folder or URL.

    Raises:
        StoreError: The place holds no run, or it cannot be read.
        ConfigurationError: What a URL needs is not installed.
    """
    return RunFolder(place)
