"""The files of a run that is open for writing: loaded and mended, added to, taken back from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from chutes_opencode.batch.durable import storing, sync_folder
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.appending import Entry, Stored
from chutes_opencode.batch.store.journal import Journal, read_lines
from chutes_opencode.batch.store.lines import ATTEMPTS, RESULTS
from chutes_opencode.batch.store.mending import Contents, RunFiles, load, move
from chutes_opencode.batch.store.record_json import from_line
from chutes_opencode.batch.store.run_place import RunPlace


class OpenFiles:
    """The files of a run and its shards. Used by one thread at a time."""

    def __init__(self, place: RunPlace, stack: ExitStack) -> None:
        """Open them; shards of earlier sessions take nothing more from now on.

        Args:
            place: Where the run lies; it is locked.
            stack: Closes them.

        Raises:
            StoreError: A file cannot be read or written.
        """
        self._place = place
        folder = place.folder
        self._results = Journal(folder / RESULTS)
        stack.callback(self._results.close)
        self._attempts = Journal(folder / ATTEMPTS)
        stack.callback(self._attempts.close)
        with storing(folder):
            sync_folder(folder)
        place.close_shards()  # whoever still writes there has lost the run
        self._stack = stack
        self._appender, self._torn = place.make_appender(self._results, self._attempts, stack)

    def load(self) -> tuple[Contents, list[str]]:
        """Read all there is, mended.

        Returns:
            What the files hold, and what was mended, a sentence each.

        Raises:
            StoreError: A file cannot be read or written.
        """
        self._place.pull()
        contents, said = load(self._look())
        self._place.push()
        said, self._torn = said + self._torn, []
        return contents, said

    def write(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make records durable; see `Appender.write`."""
        return self._appender.write(entries)

    def take_back(self, predicate: Callable[[Record], bool]) -> int:
        """Move results to the tries, out of all files but those a worker may be writing to.

        Args:
            predicate: Tells which.

        Returns:
            How many there were; `load` tells what the files hold then.

        Raises:
            StoreError: A file cannot be read or written.
        """

        def choose(line: bytes) -> Journal | None:
            return self._attempts if predicate(from_line(line)) else None

        self._place.pull()
        files, moved = self._look(), 0
        for path in files.of_results():
            if files.may_mend(path):
                with files.opened(path) as journal:
                    moved += move(journal, choose, self._attempts)
        self._place.push()
        return moved

    def close_shards(self, known: int) -> tuple[Contents, list[str]] | None:
        """Have the shards take nothing more, and mend what is wrong with them.

        Args:
            known: How many tasks are known to have a result.

        Returns:
            None if there are as many results: then each has one, and nothing has to be read. Else
            as `load`.

        Raises:
            StoreError: A file cannot be read or written.
        """
        self._place.close_shards()
        self._place.pull()
        files = self._look().of_results()
        if sum(1 for path in files for _ in read_lines(path)) == known:
            return None
        return self.load()

    def _look(self) -> RunFiles:
        return RunFiles.of(self._results, self._attempts)
