"""Folders that agents write into, used again and again; each prompt finds an empty one.

opencode knows a folder by its path, and a path that it knows costs nothing. So a used folder is not
emptied in place: it is moved away and a new one is made under its name. Nothing stays in it then,
whatever the agent did to it (modes, links, its own deletion; a mount is out of scope), and what
still sits in the old one writes into nothing.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chutes_opencode.engines.off_loop import off_loop
from chutes_opencode.supervisor import remove_tree


@dataclass(frozen=True, slots=True)
class _Identity:
    """What tells a folder from another one at the same path."""

    device: int
    inode: int
    owner: int
    mode: int

    @classmethod
    def of(cls, path: Path) -> _Identity:
        seen = path.lstat()
        return cls(seen.st_dev, seen.st_ino, seen.st_uid, seen.st_mode)


class FolderPool:
    """The folders of one server; belongs to its event loop."""

    def __init__(self, root: Path) -> None:
        """Make folders below `root`, which is ours."""
        self._root = root
        self._base: tuple[Path, _Identity] | None = None
        self._made = 0
        self._spare: list[tuple[Path, _Identity]] = []

    def take(self) -> Path:
        """Return an empty folder that nobody else has, if possible one that was used before.

        Raises:
            OSError: None can be made.
        """
        while self._spare:
            folder, identity = self._spare.pop()  # the last one: it is in all caches
            if _is_untouched(folder, identity):
                return folder
        self._made += 1
        # A folder of its own around it: `rm -rf ../*` meets no neighbour.
        folder = self._home() / str(self._made) / "work"
        _make(folder)
        return folder

    async def give_back(self, folder: Path, *, again: bool = True) -> None:
        """Take a folder back and delete all that is in it.

        One that cannot be renewed is never given out again; it goes with the server's workspace.

        Args:
            folder: From `take`.
            again: Whether it may be used again.
        """
        ended = folder.parent.with_name(f"ended-{os.urandom(8).hex()}")
        with suppress(OSError):
            self._renew(folder, ended, again=again)
        with suppress(OSError):
            await off_loop(delete_path, ended)

    def _renew(self, folder: Path, ended: Path, *, again: bool) -> None:
        if folder.parent.parent != self._home():
            return  # an agent has moved the home of all folders away
        with suppress(FileNotFoundError):
            folder.parent.rename(ended)
        if again:
            _make(folder)
            self._spare.append((folder, _Identity.of(folder)))

    def _home(self) -> Path:
        """Return the folder of all folders; a new one if an agent has taken it away."""
        if self._base is not None:
            path, identity = self._base
            with suppress(OSError):
                if _Identity.of(path) == identity:
                    return path
        path = Path(tempfile.mkdtemp(prefix="folders-", dir=self._root))
        self._base = path, _Identity.of(path)
        return path


def _make(folder: Path) -> None:
    folder.parent.mkdir(0o700)
    folder.mkdir(0o700)


def _is_untouched(folder: Path, identity: _Identity) -> bool:
    try:
        return _Identity.of(folder) == identity and not any(folder.iterdir())
    except OSError:
        return False


def delete_path(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; a link, not what it points to.

    Raises:
        OSError: It is not there, or not all of it could be deleted.
    """
    if stat.S_ISDIR(path.lstat().st_mode):
        remove_tree(str(path))
    else:
        path.unlink()
