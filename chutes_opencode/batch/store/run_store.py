"""A run's folder and its one writer: what `append` has returned for survives any crash.

Transcripts are on the disk before the results that name them. Every task stands in results.jsonl
once at most, at all times: a result that is asked anew is written to attempts.jsonl first, and then
the results are replaced by a file without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chutes_opencode.batch.durable import DRAFT_SUFFIX, StoreError, storing
from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.store.appending import Entry
from chutes_opencode.batch.store.index import Key
from chutes_opencode.batch.store.lines import run_results
from chutes_opencode.batch.store.manifest import (
    NAME,
    Manifest,
    differences,
    read_manifest,
    resumed,
    write_manifest,
)
from chutes_opencode.batch.store.mending import Contents
from chutes_opencode.batch.store.run_files import OpenFiles
from chutes_opencode.batch.store.run_place import WORK, RunPlace, open_place
from chutes_opencode.batch.store.shard_files import SHARDS
from chutes_opencode.batch.store.totals import Tally, Totals, counted_fields
from chutes_opencode.batch.store.writer import GroupCommit
from chutes_opencode.results import QueryResult


@dataclass(slots=True)
class _Opened:
    files: OpenFiles
    contents: Contents
    writer: GroupCommit[Entry, Record]


class RunStore:
    """A run that is being worked at.

    Attributes:
        path: The folder; of a run at a URL, its copy on this machine.
        place: The folder as it was given, or the URL.
        address: The folder from its root on, or the URL: what other processes name the run by.
        manifest: As it stands in run.json; None: the run has not begun.
        mended: What was found broken and mended, a sentence each.
    """

    def __init__(self, place: RunPlace, manifest: Manifest | None, release: ExitStack) -> None:
        """Use `RunStore.open`."""
        self.path = place.folder
        self.place = place.text
        self.address = place.address
        self.manifest = manifest
        self.mended: list[str] = []
        self._place = place
        self._release = release
        self._state: _Opened | None = None
        self._on_their_way = 0
        self._guard = threading.Lock()  # of what is in memory
        self._writing = threading.Lock()  # of the files

    @classmethod
    def open(cls, path: Path | str, *, manifest: Manifest | None = None) -> Self:
        """Take a place for a run, or one that holds a run, and keep all others out.

        Args:
            path: The folder, which is made, with those above it; or an fsspec URL.
            manifest: What the run is begun, or resumed, with; None: `begin` is called later. Until
                then write hidden files only: a folder without a run that holds others is refused.

        Raises:
            StoreError: Another process works there, the place holds other things, its run cannot
                be read, or the system refuses.
            ConfigurationError: See `begin`; or what a URL needs is not installed.
        """
        place = open_place(path, WORK)
        _refuse_foreign(place)
        with ExitStack() as stack:
            place.lock(stack)
            _refuse_foreign(place)
            store = cls(place, read_manifest(place.folder), stack.pop_all())
        try:
            store._drop_drafts()
            if manifest is not None:
                store.begin(manifest)
        except BaseException:
            store.close()
            raise
        return store

    def begin(self, manifest: Manifest) -> None:
        """Begin the run, or go on with it: mend its files and read what is done.

        Args:
            manifest: What is in force now; a run that is resumed keeps its id and its beginning.

        Raises:
            StoreError: A file cannot be read or written, or the run was begun with settings that
                make other answers.
        """
        if self._state is not None:
            raise RuntimeError("the run has begun")
        if self.manifest is not None:
            _refuse_other_settings(self.place, differences(self.manifest, manifest))
            manifest = resumed(self.manifest, manifest)
        self._write_manifest(manifest)
        with ExitStack() as stack:
            files = OpenFiles(self._place, stack)
            contents, self.mended = files.load()
            writer = GroupCommit[Entry, Record](self._commit, interval_s=self._place.interval_s)
            stack.callback(writer.close)
            self._state = _Opened(files, contents, writer)
            self._release.push(stack.pop_all())

    @property
    def _opened(self) -> _Opened:
        if self._state is None:
            raise RuntimeError("the run has not begun, or is closed")
        return self._state

    # --- writing ---------------------------------------------------------------------------------

    async def append(self, record: Record, result: QueryResult | None = None) -> Record:
        """Store a result, and return when it is durable.

        Many that come together share one write and one sync. A caller that is cancelled no longer
        waits; its result is stored all the same.

        Args:
            record: "ok" or "failed"; its key has no result yet.
            result: Its transcript is kept; None: it is not.

        Returns:
            The record as it is stored: with the place of its transcript.

        Raises:
            StoreError: It cannot be stored, nor can any after it.
        """
        if record.status == CUT:
            raise ValueError("what was cut is no result: use cut()")
        opened = self._opened
        opened.writer.check()
        with self._guard:
            new = opened.contents.index.add(record.key, record.content_hash, record.status)
            self._on_their_way += new
        if not new:
            raise StoreError(
                raw_message=f"{record.id!r} ({record.model}, sample {record.sample}) has a result",
                hint="Take it back before the item is asked again.",
            )
        return await opened.writer.put(Entry(record, result))

    async def cut(self, record: Record, result: QueryResult | None = None) -> Record:
        """Store what a task cost that we ended: it has no result, and runs again some day.

        Args:
            record: Status "cut".
            result: Its transcript is kept; None: it is not.

        Returns:
            The record as it is stored.

        Raises:
            StoreError: It cannot be stored, nor can any after it.
        """
        if record.status != CUT:
            raise ValueError(f"status {record.status!r} is a result's: use append()")
        return await self._opened.writer.put(Entry(record, result))

    def note(self, record: Record) -> bool:
        """Count a result that is durable in a shard of the run already.

        Args:
            record: What it says in words may be left out.

        Returns:
            False if its task has a result: then it is a second one, and only its cost counts.
        """
        with self._guard:
            contents = self._opened.contents
            new = contents.index.add(record.key, record.content_hash, record.status)
            add = contents.tally.add_result if new else contents.tally.add_try
            add(counted_fields(record))
        return new

    def take_back(self, predicate: Callable[[Record], bool]) -> int:
        """Move results to the attempts, so that their tasks run again.

        No `append` may be on its way.

        Args:
            predicate: Tells which.

        Returns:
            How many there were.

        Raises:
            StoreError: A file cannot be read or written, and nothing can be stored any more then;
                or the run is being closed.
        """
        opened = self._opened
        opened.writer.check()
        if self._on_their_way:
            raise RuntimeError("results are on their way: take back before the first one")
        with self._changing(opened):
            moved = opened.files.take_back(predicate)
            if moved:
                self._set_contents(opened.files.load()[0])
        return moved

    def close_shards(self) -> list[str]:
        """End the run's shards: they take nothing more, and second results are moved away.

        Returns:
            What was mended, a sentence each.

        Raises:
            StoreError: A file cannot be read or written, and nothing can be stored any more then.
        """
        opened = self._opened
        with self._changing(opened):
            found = opened.files.close_shards(len(opened.contents.index))
            if found is None:
                return []
            self._set_contents(found[0])
        return found[1]

    @contextmanager
    def _changing(self, opened: _Opened) -> Iterator[None]:
        """Keep writing apart from changes to the files; after one that fails, none is written."""
        with self._writing:
            opened.writer.check()  # `close` may have been before us
            try:
                yield
            except BaseException as error:
                opened.writer.fail(error)  # they may be half-way: opening them again mends that
                raise

    def _set_contents(self, contents: Contents) -> None:
        with self._guard:
            self._opened.contents = contents

    def finish(self, at: float | None = None) -> None:
        """Say in the manifest that the run is at its end.

        Args:
            at: Seconds since the epoch; None: now.

        Raises:
            StoreError: It cannot be written.
        """
        if self.manifest is None:
            raise RuntimeError("the run has not begun")
        finished = replace(self.manifest, finished_at=time.time() if at is None else at)
        self._write_manifest(finished)

    def _write_manifest(self, manifest: Manifest) -> None:
        write_manifest(self.path, manifest)
        self._place.publish(NAME)
        self.manifest = manifest

    def publish(self, name: str) -> None:
        """Have a file that was written in the folder at the run's URL, too, if it has one.

        Raises:
            StoreError: It cannot be written.
        """
        self._place.publish(name)

    def _commit(self, entries: list[Entry]) -> list[Record]:
        """Make records durable; runs in the writer's thread."""
        opened = self._opened
        with self._writing:
            stored = opened.files.write(entries)
            with self._guard:
                for each in stored:
                    self._count(each.fields, opened.contents.tally)
        return [each.record for each in stored]

    def _count(self, fields: dict[str, Any], tally: Tally) -> None:
        if fields["status"] == CUT:
            tally.add_try(fields)
        else:
            tally.add_result(fields)
            self._on_their_way -= 1

    # --- reading ---------------------------------------------------------------------------------

    def standing(self, key: Key, content_hash: str) -> str:
        """Return the status of the result that a task has: "ok", "failed"; "": it has none.

        A result counts from the moment it is given to `append`.
        """
        with self._guard:
            return self._opened.contents.index.standing(key, content_hash)

    def done(self, key: Key, content_hash: str) -> bool:
        """Tell whether a task has a result, be it an answer or a failure."""
        return bool(self.standing(key, content_hash))

    def changed(self, key: Key, content_hash: str) -> bool:
        """Tell whether a key has a result of another content: take it back before asking again."""
        with self._guard:
            return self._opened.contents.index.changed(key, content_hash)

    def totals(self) -> Totals:
        """Return the sums over all that is durable, earlier sessions included."""
        with self._guard:
            return self._opened.contents.tally.totals()

    def records(self) -> Iterator[Record]:
        """Yield the results that are in the files.

        Raises:
            StoreError: The file cannot be read.
        """
        return run_results(self.path)

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Store what is on its way, close the files and let others in.

        Results that are just being taken back are first.
        """
        if self._state is not None:
            self._state.writer.close()  # not within the lock: it writes what is on its way
        with self._writing:
            self._state = None
            self._release.close()

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

    def _drop_drafts(self) -> None:
        """Remove what a killed process had not finished; the next write would replace it."""
        with storing(self.path):
            for folder in (self.path, *(self.path / SHARDS).glob("*/")):
                for draft in folder.glob(f".*.jsonl{DRAFT_SUFFIX}"):
                    draft.unlink(missing_ok=True)


def _refuse_foreign(place: RunPlace) -> None:
    """Refuse a place that holds things but no run; hidden files do not count."""
    names = [name for name in place.names() if not name.startswith(".")]
    if names and NAME not in names:
        raise StoreError(
            raw_message=f"{place.text} holds other things ({', '.join(names[:3])}) and no {NAME}",
            hint="Name a new or empty folder, or one that holds a run.",
        )


def _refuse_other_settings(place: str, changed: list[str]) -> None:
    if changed:
        raise StoreError(
            raw_message=f"{place} was begun with other settings: {'; '.join(changed)}",
            hint="Name another folder for the new settings, or use the old ones.",
        )
