"""A run's folder and its one writer: what `append` has returned for survives any crash.

Transcripts are on the disk before the results that name them. Every task stands in results.jsonl
once at most, at all times: a result that is asked anew is written to attempts.jsonl first, and then
the results are replaced by a file without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chutes_opencode.batch.durable import (
    DRAFT_SUFFIX,
    StoreError,
    make_folder,
    storing,
    sync_folder,
)
from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.store.folder import ATTEMPTS, RESULTS, read_records
from chutes_opencode.batch.store.index import Key
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.manifest import (
    NAME,
    Manifest,
    differences,
    read_manifest,
    resumed,
    write_manifest,
)
from chutes_opencode.batch.store.mending import Contents, load, move
from chutes_opencode.batch.store.record_json import from_line, line_of, to_json
from chutes_opencode.batch.store.run_lock import RunLock
from chutes_opencode.batch.store.totals import Tally, Totals
from chutes_opencode.batch.store.transcripts import FOLDER, TranscriptShards, transcript_line
from chutes_opencode.batch.store.writer import GroupCommit
from chutes_opencode.results import QueryResult


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    result: QueryResult | None


@dataclass(slots=True)
class _Files:
    results: Journal
    attempts: Journal
    transcripts: TranscriptShards
    contents: Contents
    writer: GroupCommit[_Entry, Record]


class RunStore:
    """A run that is being worked at.

    Attributes:
        path: The folder.
        manifest: As it stands in run.json; None: the run has not begun.
        mended: What was found broken and mended, a sentence each.
    """

    def __init__(self, path: Path, manifest: Manifest | None, release: ExitStack) -> None:
        """Use `RunStore.open`."""
        self.path = path
        self.manifest = manifest
        self.mended: list[str] = []
        self._release = release
        self._opened: _Files | None = None
        self._on_their_way = 0
        self._guard = threading.Lock()  # of what is in memory
        self._writing = threading.Lock()  # of the files

    @classmethod
    def open(cls, path: Path | str, *, manifest: Manifest | None = None) -> Self:
        """Take a folder for a run, or one that holds a run, and keep all others out.

        Args:
            path: The folder; it is made, with those above it.
            manifest: What the run is begun, or resumed, with; None: `begin` is called later. Until
                then write hidden files only: a folder without a run that holds others is refused.

        Raises:
            StoreError: Another process works there, the folder holds other things, its run cannot
                be read, or the system refuses.
            ConfigurationError: See `begin`.
        """
        folder = Path(path)
        make_folder(folder)
        _refuse_foreign(folder)
        with ExitStack() as stack:
            stack.callback(RunLock(folder).release)
            _refuse_foreign(folder)
            store = cls(folder, read_manifest(folder), stack.pop_all())
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
        if self._opened is not None:
            raise RuntimeError("the run has begun")
        if self.manifest is not None:
            _refuse_other_settings(self.path, differences(self.manifest, manifest))
            manifest = resumed(self.manifest, manifest)
        write_manifest(self.path, manifest)
        self.manifest = manifest
        with ExitStack() as stack:
            self._opened = self._open_files(stack)
            self._release.push(stack.pop_all())

    def _open_files(self, stack: ExitStack) -> _Files:
        results = Journal(self.path / RESULTS)
        stack.callback(results.close)
        attempts = Journal(self.path / ATTEMPTS)
        stack.callback(attempts.close)
        with storing(self.path):
            sync_folder(self.path)
        transcripts = TranscriptShards(self.path / FOLDER)
        stack.callback(transcripts.close)
        contents, self.mended = load(results, attempts)
        if transcripts.repaired:
            self.mended.append(f"{FOLDER}: a last line had not been written whole")
        writer = GroupCommit[_Entry, Record](self._commit)
        stack.callback(writer.close)
        return _Files(results, attempts, transcripts, contents, writer)

    @property
    def _files(self) -> _Files:
        if self._opened is None:
            raise RuntimeError("the run has not begun, or is closed")
        return self._opened

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
        files = self._files
        files.writer.check()
        with self._guard:
            new = files.contents.index.add(record.key, record.content_hash, record.status)
            self._on_their_way += new
        if not new:
            raise StoreError(
                raw_message=f"{record.id!r} ({record.model}, sample {record.sample}) has a result",
                hint="Take it back before the item is asked again.",
            )
        return await files.writer.put(_Entry(record, result))

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
        return await self._files.writer.put(_Entry(record, result))

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
        files = self._files
        files.writer.check()
        if self._on_their_way:
            raise RuntimeError("results are on their way: take back before the first one")
        with self._writing:
            files.writer.check()  # once more: `close` may have been before us
            try:
                moved = move(
                    files.results,
                    lambda line: files.attempts if predicate(from_line(line)) else None,
                    files.attempts,
                )
                contents = load(files.results, files.attempts)[0] if moved else None
            except BaseException as error:
                files.writer.fail(error)  # the files may be half-way: opening them again mends that
                raise
        if contents is not None:
            with self._guard:
                files.contents = contents
        return moved

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
        write_manifest(self.path, finished)
        self.manifest = finished

    def _commit(self, entries: list[_Entry]) -> list[Record]:
        """Make records durable; runs in the writer's thread."""
        files = self._files
        with self._writing:
            stored = [_with_transcript(entry, files.transcripts) for entry in entries]
            files.transcripts.commit()
            lines = [to_json(record) for record in stored]
            for fields in lines:
                journal = files.attempts if fields["status"] == CUT else files.results
                journal.add(line_of(fields))
            files.attempts.commit()
            files.results.commit()
            with self._guard:
                for fields in lines:
                    self._count(fields, files.contents.tally)
        return stored

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
            return self._files.contents.index.standing(key, content_hash)

    def done(self, key: Key, content_hash: str) -> bool:
        """Tell whether a task has a result, be it an answer or a failure."""
        return bool(self.standing(key, content_hash))

    def changed(self, key: Key, content_hash: str) -> bool:
        """Tell whether a key has a result of another content: take it back before asking again."""
        with self._guard:
            return self._files.contents.index.changed(key, content_hash)

    def totals(self) -> Totals:
        """Return the sums over all that is durable, earlier sessions included."""
        with self._guard:
            return self._files.contents.tally.totals()

    def records(self) -> Iterator[Record]:
        """Yield the results that are in the file.

        Raises:
            StoreError: The file cannot be read.
        """
        return read_records(self.path / RESULTS)

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Store what is on its way, close the files and let others in.

        Results that are just being taken back are first.
        """
        if self._opened is not None:
            self._opened.writer.close()  # not within the lock: it writes what is on its way
        with self._writing:
            self._opened = None
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
            for draft in self.path.glob(f".*.jsonl{DRAFT_SUFFIX}"):
                draft.unlink(missing_ok=True)


def _with_transcript(entry: _Entry, transcripts: TranscriptShards) -> Record:
    if entry.result is None:
        return entry.record
    place = transcripts.add(transcript_line(entry.record, entry.result))
    return replace(entry.record, transcript=place)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds things but no run; hidden files do not count."""
    with storing(folder):
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if names and NAME not in names:
        raise StoreError(
            raw_message=f"{folder} holds other things ({', '.join(names[:3])}) and no {NAME}",
            hint="Name a new or empty folder, or one that holds a run.",
        )


def _refuse_other_settings(folder: Path, changed: list[str]) -> None:
    if changed:
        raise StoreError(
            raw_message=f"{folder} was begun with other settings: {'; '.join(changed)}",
            hint="Name another folder for the new settings, or use the old ones.",
        )
