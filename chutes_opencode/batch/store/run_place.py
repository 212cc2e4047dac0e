"""Where a run lies: a folder, or a URL with a copy of it in a folder."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from chutes_opencode.batch.durable import make_folder, storing
from chutes_opencode.batch.store.appending import Appender, JournalAppender
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.mirror import Mirror, mirror_folder
from chutes_opencode.batch.store.parts import PART_SECONDS, PartAppender
from chutes_opencode.batch.store.remote import Remote, is_url
from chutes_opencode.batch.store.remote_lock import RemoteLock, remote_holder
from chutes_opencode.batch.store.run_lock import Holder, RunLock, holder_of
from chutes_opencode.batch.store.shard_files import CLOSED, close_shards, shard_of, shard_path
from chutes_opencode.batch.store.transcripts import FOLDER, TranscriptShards
from chutes_opencode.settings import load_settings

WORK, VIEW = "work", "view"


class RunPlace(Protocol):
    """Where a run lies. All calls wait for the disk or the network.

    Attributes:
        folder: Where its files are on this machine.
        text: The folder as it was given, or the URL.
        address: The folder from its root on, or the URL: what other processes name it by.
        interval_s: How long after the one before a commit begins at the soonest.
    """

    folder: Path
    text: str
    address: str
    interval_s: float

    def lock(self, stack: ExitStack) -> None:
        """Keep all others out until the stack is closed; then have the folder as the run is.

        Raises:
            StoreError: Another process works there, or the place cannot be written.
        """

    def names(self) -> list[str]:
        """Return what stands there, sorted."""
        ...

    def make_appender(
        self, results: Journal, attempts: Journal, stack: ExitStack
    ) -> tuple[Appender, list[str]]:
        """Return what makes records durable, and what was mended for it, a sentence each."""
        ...

    def close_shards(self) -> None:
        """Have all shards of the run take nothing more."""

    def pull(self) -> None:
        """Have the folder as the run is now."""

    def pull_state(self) -> None:
        """Have in the folder what tells how far the run is now."""

    def push(self) -> None:
        """Have the run as the folder is now."""

    def publish(self, name: str) -> None:
        """Have one file of the folder in the run."""

    def fetch(self, name: str) -> None:
        """Have one file of the run with transcripts in the folder."""

    def holder(self) -> Holder | None:
        """Return the process that works at the run now, None if none does."""
        ...


def open_place(place: Path | str, role: str) -> RunPlace:
    """Return where a run lies.

    Args:
        place: Its folder or URL.
        role: WORK for who writes to the run, VIEW for readers.

    Raises:
        ConfigurationError: What such a URL needs is not installed, or the settings are wrong.
        StoreError: The folder for its copy cannot be made.
    """
    if not is_url(place):
        return FolderPlace(Path(place))
    remote = Remote(str(place))
    return UrlPlace(remote, mirror_folder(load_settings().home, remote.url, role))


class FolderPlace:
    """A folder, on this machine or shared."""

    interval_s = 0.0

    def __init__(self, folder: Path) -> None:
        """Touch nothing yet."""
        self.folder = folder
        self.text = str(folder)
        self.address = str(folder.absolute())

    def lock(self, stack: ExitStack) -> None:
        """Keep all others out; see `RunPlace`."""
        stack.callback(RunLock(self.folder).release)

    def names(self) -> list[str]:
        """Return what stands there, sorted."""
        make_folder(self.folder)
        with storing(self.folder):
            return sorted(path.name for path in self.folder.iterdir())

    def make_appender(
        self, results: Journal, attempts: Journal, stack: ExitStack
    ) -> tuple[Appender, list[str]]:
        """Return what appends to the run's own files."""
        transcripts = TranscriptShards(self.folder / FOLDER)
        stack.callback(transcripts.close)
        torn = [f"{FOLDER}: a last line had not been written whole"] * bool(transcripts.repaired)
        return JournalAppender(results, attempts, transcripts), torn

    def close_shards(self) -> None:
        """Have all shards of the run take nothing more."""
        close_shards(self.folder)

    def pull(self) -> None:
        """The folder is the run."""

    def pull_state(self) -> None:
        """The folder is the run."""

    def push(self) -> None:
        """The folder is the run."""

    def publish(self, name: str) -> None:
        """The folder is the run."""

    def fetch(self, name: str) -> None:
        """The folder is the run."""

    def holder(self) -> Holder | None:
        """Return the process that works at the run now, None if none does."""
        return holder_of(self.folder)


class UrlPlace:
    """A URL; what is written there is objects, and the driver has a shard of its own."""

    def __init__(self, remote: Remote, folder: Path) -> None:
        """Ask nothing yet; `folder` is for the copy."""
        self.folder = folder
        self.text = self.address = remote.url
        self.interval_s = PART_SECONDS
        self._remote = remote
        self._mirror = Mirror(remote, folder)
        self._lock: RemoteLock | None = None

    def lock(self, stack: ExitStack) -> None:
        """Keep all others out, then copy the run anew; see `RunPlace`.

        Anew, because a copy may be half-written since a power cut, and what seems damaged in it
        would be moved away at the URL, too.
        """
        stack.callback(RunLock(self.folder).release)
        lock = RemoteLock(self._remote)
        stack.callback(lock.release)
        self._mirror.clear()
        self._mirror.pull()
        self._lock = lock

    def names(self) -> list[str]:
        """Return what stands there, sorted."""
        return self._remote.names()

    def make_appender(
        self, results: Journal, attempts: Journal, stack: ExitStack
    ) -> tuple[Appender, list[str]]:
        """Return what writes parts; an object cannot be appended to."""
        assert self._lock is not None
        name = f"driver-{secrets.token_hex(6)}"
        return PartAppender(self._remote, name, self._lock.check), []

    def close_shards(self) -> None:
        """Have all shards of the run take nothing more."""
        names = self._remote.sizes()
        for shard in sorted({shard_of(name) for name in names} - {""}):
            if (closed := f"{shard_path(shard)}/{CLOSED}") not in names:
                self._remote.put(closed, b"")

    def pull(self) -> None:
        """Copy what is new; the run's own files are the lock's holder's."""
        self._mirror.pull(own=self._lock is None)

    def pull_state(self) -> None:
        """Copy what tells how far the run is."""
        self._mirror.pull_state()

    def push(self) -> None:
        """Write what was changed in the copy."""
        self._mirror.push()

    def publish(self, name: str) -> None:
        """Write one file of the copy."""
        self._mirror.push_file(name)

    def fetch(self, name: str) -> None:
        """Copy a file with transcripts."""
        self._mirror.fetch(name)

    def holder(self) -> Holder | None:
        """Return the process that works at the run now, None if none does."""
        return remote_holder(self._remote)
