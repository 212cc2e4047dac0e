"""Shards of a run: where its workers store answers, each in its own, on any machine.

What `append` has returned for survives any crash, and is found by whoever reads the run. A shard
that is fenced takes nothing more: its writer may be lost, or only late, and another one may have
been given its tasks. A line that such a writer had on its way may still arrive, but it never
returns for it; whoever reads takes the first result of each task, and mending moves the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from chutes_opencode.batch.durable import FOLDER_MODE, make_folder, storing, sync_folder
from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.store.appending import Entry, JournalAppender, Stored
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.lines import read_records, records_in
from chutes_opencode.batch.store.manifest import NAME as MANIFEST
from chutes_opencode.batch.store.manifest import parse_manifest, read_manifest
from chutes_opencode.batch.store.parts import PART_SECONDS, PartAppender
from chutes_opencode.batch.store.remote import Remote, is_url
from chutes_opencode.batch.store.shard_files import (
    CLOSED,
    check_name,
    close_shard,
    closed_error,
    files_of,
    is_closed,
    is_results,
    results_name,
    shard_folder,
    shard_path,
    used_error,
)
from chutes_opencode.batch.store.transcripts import FOLDER, TranscriptShards
from chutes_opencode.batch.store.writer import GroupCommit
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.results import QueryResult


class _Files(Protocol):
    """The files or objects of one shard."""

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make records durable."""
        ...

    def is_closed(self) -> bool:
        """Tell whether the shard takes nothing more."""
        ...

    def close(self) -> None:
        """Close the files."""


class ShardWriter:
    """One writer's shard. Made on any thread, used from any event loop.

    Attributes:
        name: The shard's.
    """

    def __init__(self, name: str, files: _Files, interval_s: float = 0.0) -> None:
        """Use `ShardWriter.open`."""
        self.name = name
        self._files = files
        self._writer = GroupCommit[Entry, Record](self._commit, interval_s=interval_s)

    @classmethod
    def open(cls, place: str, name: str) -> Self:
        """Begin a shard; it waits for the disk or the network.

        Args:
            place: The run's folder or URL.
            name: Letters, digits and dashes; one that no shard of this run has had before: a
                worker that begins anew takes another one.

        Raises:
            StoreError: There is a shard of that name, or it cannot be made.
            ValueError: That is no name.
        """
        if is_url(place):
            return cls(name, PartAppender(Remote(place), name), PART_SECONDS)
        return cls(name, _LocalFiles(Path(place), name))

    async def append(self, record: Record, result: QueryResult | None = None) -> Record:
        """Store a result, and return when it is durable.

        Many that come together share one write. A caller that is cancelled no longer waits; the
        result may be stored all the same.

        Args:
            record: A result, not a try that was cut.
            result: Its transcript is kept; None: it is not.

        Returns:
            The record as it is stored: with the place of its transcript.

        Raises:
            StoreError: It cannot be stored, nor can any after it; or the shard was fenced.
        """
        if record.status == CUT:
            raise ValueError("what was cut is no result")
        return await self._writer.put(Entry(record, result))

    def close(self) -> None:
        """Write what is on its way, and end; it waits for the disk or the network."""
        self._writer.close()
        self._files.close()

    def __enter__(self) -> Self:
        """Work within a `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _commit(self, entries: list[Entry]) -> list[Record]:
        self._check_fence()
        stored = self._files.write(entries)
        # Once more: a fence that came before the lines did may have had them left out.
        self._check_fence()
        return [each.record for each in stored]

    def _check_fence(self) -> None:
        if self._files.is_closed():
            raise closed_error(self.name)


class _LocalFiles:
    """A shard in a folder of this machine, or one that all machines share."""

    def __init__(self, run: Path, name: str) -> None:
        self._folder = shard_folder(run, name)
        make_folder(self._folder.parent)
        with storing(self._folder):
            try:
                self._folder.mkdir(FOLDER_MODE)
            except FileExistsError:
                raise used_error(name) from None
            sync_folder(self._folder.parent)
        self._results = Journal(self._folder / results_name(1))
        with storing(self._folder):
            sync_folder(self._folder)
        self._transcripts = TranscriptShards(self._folder / FOLDER)
        self._appender = JournalAppender(self._results, None, self._transcripts, f"{name}/")

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        return self._appender.write(entries)

    def is_closed(self) -> bool:
        return is_closed(self._folder)

    def close(self) -> None:
        self._transcripts.close()
        self._results.close()


def require_run(place: str, run_id: str) -> None:
    """Refuse a place that is another one than the run's, though it has the same name.

    So is a folder on a disk of each machine's own: shards that are written there are seen by nobody
    who reads the run.

    Args:
        place: The run's folder or URL.
        run_id: The run's, as its manifest has it.

    Raises:
        ConfigurationError: The run is not there.
        StoreError: The place cannot be read.
    """
    if is_url(place):
        remote = Remote(place)
        data = remote.get(MANIFEST)
        found = None if data is None else parse_manifest(data, f"{remote.url}/{MANIFEST}")
    else:
        found = read_manifest(Path(place))
    if found is None or found.run_id != run_id:
        has = "has no run" if found is None else f"has another run ({found.run_id})"
        raise ConfigurationError(
            raw_message=f"{place} {has} on this machine: the driver's is {run_id}",
            hint="Name a folder on storage that all machines of the cluster share, or a URL.",
        )


def read_shard(place: str, name: str) -> Iterator[Record]:
    """Yield the results that are durable in a shard; none if there is no such shard.

    Args:
        place: The run's folder or URL.
        name: The shard's.

    Raises:
        StoreError: A line is damaged (it is named), or the shard cannot be read.
        ValueError: That is no name.
    """
    if not is_url(place):
        for file in files_of(Path(place), check_name(name)):
            yield from read_records(file)
        return
    remote = Remote(place)
    sizes = remote.sizes(shard_path(name))
    parts = {path: size for path, size in sizes.items() if is_results(path)}
    for path, data in remote.get_many(parts):
        yield from records_in(data, f"{remote.url}/{path}")


def fence_shard(place: str, name: str) -> None:
    """Have a shard take nothing more: what `read_shard` yields afterwards is all of it.

    But for a line that was on its way: its writer is told that it was not stored.

    Args:
        place: The run's folder or URL.
        name: The shard's; one that is not there yet can never be begun afterwards.

    Raises:
        StoreError: It cannot be written.
        ValueError: That is no name.
    """
    if is_url(place):
        Remote(place).put(f"{shard_path(name)}/{CLOSED}", b"")
        return
    shard = shard_folder(Path(place), name)
    make_folder(shard)
    close_shard(shard)
