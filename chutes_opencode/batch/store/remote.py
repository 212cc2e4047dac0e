"""A run at an fsspec URL (s3://, gs://, memory://, file://, …): objects, written whole or not.

All calls wait for the network; none is made on an event loop.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from chutes_opencode.batch.durable import StoreError, make_folder, write_whole
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import mask

HINT = "pip install 'chutes-opencode[ray]'"
# A put that fails is tried again after so many seconds each.
WAITS_S = (0.5, 2.0)
# So many objects are asked for at once, and no more bytes; a larger one alone.
AT_ONCE = 64
LARGE = 16 * 1024 * 1024

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_LOCAL = ("file", "local")

Value = TypeVar("Value")


def is_url(place: Path | str) -> bool:
    """Tell whether a place is a URL; else it is a folder."""
    return isinstance(place, str) and _URL.match(place) is not None


class Remote:
    """The objects below a URL; their names are relative to it.

    Attributes:
        url: The URL, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        """Find what speaks with that storage; nothing is asked of it yet.

        Raises:
            ConfigurationError: fsspec, or what it needs for such a URL, is not installed.
        """
        self.url = url.rstrip("/")
        self._fs, self._root = _file_system(self.url)
        self._local = any(each in _LOCAL for each in _protocols(self._fs))

    def put(self, name: str, data: bytes) -> None:
        """Write an object whole; durable on return.

        Raises:
            StoreError: It cannot be written.
        """
        path = self._path(name)
        if self._local:  # fsspec would write it bit by bit, in sight of all
            make_folder(Path(path).parent)
            write_whole(Path(path), data)
            return
        with self._storing(name):
            for wait in WAITS_S:
                with suppress(Exception):
                    self._fs.pipe_file(path, data)
                    return
                time.sleep(wait)
            self._fs.pipe_file(path, data)

    def get(self, name: str) -> bytes | None:
        """Return an object, None if there is none.

        Raises:
            StoreError: It cannot be read.
        """
        with self._storing(name):
            return self._or_none(lambda: bytes(self._fs.cat_file(self._path(name))))

    def get_many(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield objects, many asked for at once; those that are gone are left out.

        Args:
            names: Their names and sizes.

        Raises:
            StoreError: One cannot be read.
        """
        for some in _portions(names):
            with self._storing(some[0]):
                # Not `cat`: that one takes brackets in a name for a pattern.
                found = self._fs.cat_ranges([self._path(name) for name in some], None, None)
            for name, data in zip(some, found, strict=True):
                if isinstance(data, FileNotFoundError):
                    continue
                with self._storing(name):
                    if isinstance(data, Exception):
                        raise data
                yield name, bytes(data)

    def download(self, name: str, path: Path) -> None:
        """Write an object into a file, however large it is.

        Raises:
            StoreError: It cannot be read, or written.
        """
        with self._storing(name):
            self._fs.get_file(self._path(name), str(path))

    def exists(self, name: str) -> bool:
        """Tell whether there is an object, as of now.

        Raises:
            StoreError: That cannot be found out.
        """
        with self._storing(name):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(name)))

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return the names of all objects below the URL, or a part of it, and their bytes.

        Raises:
            StoreError: They cannot be listed.
        """
        with self._storing(below):
            self._fs.invalidate_cache()
            top = self._path(below) if below else self._root
            found = self._fs.find(top, detail=True)
        skipped = len(self._root) + 1
        return {path[skipped:]: int(info["size"] or 0) for path, info in sorted(found.items())}

    def names(self) -> list[str]:
        """Return what stands directly below the URL, sorted.

        Raises:
            StoreError: It cannot be listed.
        """
        with self._storing(""):
            self._fs.invalidate_cache()
            found = self._or_none(lambda: self._fs.ls(self._root, detail=False)) or []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def delete(self, name: str) -> None:
        """Remove an object, if there is one.

        Raises:
            StoreError: It cannot be removed.
        """
        with self._storing(name):
            self._or_none(lambda: self._fs.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @staticmethod
    def _or_none(call: Callable[[], Value]) -> Value | None:
        try:
            return call()
        except FileNotFoundError:
            return None

    @contextmanager
    def _storing(self, name: str) -> Iterator[None]:
        """Raise a `StoreError` that names the object instead of whatever the storage raises."""
        try:
            yield
        except Exception as error:
            told = mask(f"{self.url}/{name}: {str(error) or repr(error)}")
            raise StoreError(raw_message=told) from error


def _portions(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names that are asked for at once."""
    some: list[str] = []
    total = 0
    for name, size in sizes.items():
        if some and (len(some) == AT_ONCE or total + size > LARGE):
            yield some
            some, total = [], 0
        some.append(name)
        total += size
    if some:
        yield some


def _protocols(file_system: Any) -> tuple[str, ...]:
    protocol = file_system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigurationError(
            raw_message="a run at a URL needs fsspec, which is not installed", hint=HINT
        ) from error
    try:
        file_system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:  # what it needs for that storage; no such storage
        raise ConfigurationError(
            raw_message=mask(f"{url}: {error}"),
            hint="Install what fsspec needs for such a URL, or use another one.",
        ) from error
    return file_system, path.rstrip("/")
