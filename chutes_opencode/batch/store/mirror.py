"""A copy of a run at a URL in a folder of this machine; the URL has the truth.

Transcripts are not copied: the one that is wanted is fetched.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from chutes_opencode.batch.durable import FOLDER_MODE, make_folder, storing
from chutes_opencode.batch.store.lines import ATTEMPTS, RESULTS
from chutes_opencode.batch.store.manifest import NAME as MANIFEST
from chutes_opencode.batch.store.remote import LARGE, Remote
from chutes_opencode.batch.store.shard_files import SHARDS, shard_of
from chutes_opencode.batch.store.transcripts import FOLDER

STATUS, DAMAGED = "status.json", "damaged.jsonl"
# In the order in which they are pushed: a line that moves is never in neither of two files.
_OWN = (DAMAGED, ATTEMPTS, RESULTS, STATUS, MANIFEST)
_TRANSCRIPTS = re.compile(rf"({SHARDS}/[A-Za-z0-9-]+/)?{FOLDER}/\d{{4,}}\.jsonl")


class Mirror:
    """One folder that has what a run at a URL has.

    Attributes:
        folder: The folder.
    """

    def __init__(self, remote: Remote, folder: Path) -> None:
        """Copy nothing yet.

        Raises:
            StoreError: The folder cannot be made.
        """
        self.folder = folder
        self._remote = remote
        self._synced: dict[str, tuple[int, ...]] = {}  # files as they were when both were equal
        make_folder(folder)

    def clear(self) -> None:
        """Forget all that was copied; hidden files stay.

        Raises:
            StoreError: A file cannot be removed.
        """
        self._synced.clear()
        with storing(self.folder):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif not path.name.startswith("."):
                    path.unlink()

    def pull(self, *, own: bool = True) -> None:
        """Copy what is new at the URL, and remove what is gone there.

        A shard's file is only ever made shorter, so its size tells whether it is another.

        Args:
            own: Whether the run's own files are copied, too: not for their writer, who has them
                open.

        Raises:
            StoreError: The URL cannot be read, or the folder not written.
        """
        names = self._remote.sizes()
        there = {name: size for name, size in names.items() if shard_of(name)}
        here = {name: mark[0] for name, mark in self._marks().items() if shard_of(name)}
        wanted = {name: size for name, size in there.items() if here.get(name) != size}
        gone = here.keys() - there.keys()
        if own:
            wanted |= {name: names[name] for name in _OWN if name in names}
            gone |= {name for name in _OWN if name not in names}
        self._copy(wanted)
        with storing(self.folder):
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
        copied = wanted.keys() | there.keys()
        self._synced |= {name: mark for name, mark in self._marks().items() if name in copied}

    def pull_state(self) -> None:
        """Copy only what tells how far the run is.

        Raises:
            StoreError: The URL cannot be read, or the folder not written.
        """
        self._copy({MANIFEST: 0, STATUS: 0})

    def fetch(self, name: str) -> None:
        """Copy one file with transcripts, unless it is here.

        One that may still grow is no part: it is copied each time.

        Raises:
            StoreError: It cannot be read, or written.
        """
        whole = name.startswith(f"{SHARDS}/")
        if _TRANSCRIPTS.fullmatch(name) and not (whole and (self.folder / name).exists()):
            self._copy({name: 0})

    def push(self) -> None:
        """Write what was changed here to the URL: what lines moved to before where they stood.

        Raises:
            StoreError: The URL cannot be written.
        """
        marks = self._marks()
        changed = [
            name
            for name, mark in marks.items()
            if mark != self._synced.get(name) and (mark[0] or name in self._synced)
        ]
        own = [name for name in _OWN if name in changed]
        for name in (*own, *sorted(set(changed) - set(own))):
            self.push_file(name)

    def push_file(self, name: str) -> None:
        """Write one file to the URL.

        Raises:
            StoreError: It cannot be read, or the URL not written.
        """
        with storing(self.folder / name):
            mark = _mark(self.folder / name)
            data = (self.folder / name).read_bytes()
        self._remote.put(name, data)
        self._synced[name] = mark

    def _marks(self) -> dict[str, tuple[int, ...]]:
        """Return what tells whether a file was changed, for all that are copied."""
        with storing(self.folder):
            paths = (path for path in self.folder.rglob("*") if path.is_file())
            names = {path.relative_to(self.folder).as_posix(): path for path in paths}
            return {
                name: _mark(path) for name, path in names.items() if name in _OWN or shard_of(name)
            }

    def _copy(self, names: dict[str, int]) -> None:
        large = [name for name, size in names.items() if size > LARGE]
        for name in large:
            with _new(self.folder / name) as draft:
                self._remote.download(name, draft)
        rest = {name: size for name, size in names.items() if size <= LARGE}
        for name, data in self._remote.get_many(rest):
            with _new(self.folder / name) as draft:
                draft.write_bytes(data)


@contextmanager
def _new(path: Path) -> Iterator[Path]:
    """Have a file written under another name first: several may copy the same."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with storing(path):
        path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def mirror_folder(home: Path, url: str, role: str) -> Path:
    """Return where a run at a URL is copied to.

    Args:
        home: Root of what is kept on this machine.
        url: The run's.
        role: "work" for who writes to the run, "view" for readers.
    """
    digest = blake2b(url.rstrip("/").encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return home / "runs" / digest / role


def _mark(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
