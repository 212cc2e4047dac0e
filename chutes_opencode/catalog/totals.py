"""How well the cache serves: counts of this process, and of all that share a cache folder."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

# A record of fixed width is overwritten in place by one write: there is no moment without one.
_WIDTH = 128
SAVE_SECONDS = 10.0
"""How often a busy process saves."""
LOCKED_SECONDS = 1.0
"""How long a save that may wait tries again; who holds the lock holds it for microseconds."""
_STEP_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class LookupStats:
    """What became of look-ups.

    Attributes:
        lookups: How many there were.
        hits: Those answered from the cache, without waiting for the provider.
        syncs: Lists that were fetched, unchanged ones included.
        failed_syncs: Fetches that brought no list, repetitions included.
    """

    lookups: int = 0
    hits: int = 0
    syncs: int = 0
    failed_syncs: int = 0

    def __add__(self, other: LookupStats) -> LookupStats:
        """Return the sums."""
        return LookupStats(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: LookupStats) -> LookupStats:
        """Return what came since `other`."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return LookupStats(*(mine - theirs for mine, theirs in pairs))

    @property
    def hit_rate(self) -> float | None:
        """The share of look-ups that were hits; None before the first."""
        return self.hits / self.lookups if self.lookups else None

    @property
    def sync_rate(self) -> float | None:
        """The share of fetches that brought a list; None before the first."""
        tried = self.syncs + self.failed_syncs
        return self.syncs / tried if tried else None


class Counter:
    """Counts of this process, added to those of all processes from time to time."""

    def __init__(self, path: Path) -> None:
        """Begin at zero.

        Args:
            path: The file of all processes' counts.
        """
        self._path = path
        self._saved = LookupStats()
        self._save_at = 0.0
        self.stats = LookupStats()

    @property
    def totals(self) -> LookupStats:
        """The counts of all processes, those of this one included."""
        return self._stored() + (self.stats - self._saved)

    def add(self, stats: LookupStats, *, save: bool = False) -> None:
        """Count.

        Args:
            stats: What came.
            save: Write at once; otherwise a busy process does so every `SAVE_SECONDS`. Where that
                fails, the next count tries again.
        """
        self.stats += stats
        if save or time.monotonic() >= self._save_at:
            # Counting must never hold up a look-up: who finds the file locked adds later.
            self._save(patience=0.0)

    def save(self) -> None:
        """Add what is not there yet to the file, if need be after waiting `LOCKED_SECONDS`."""
        self._save(patience=LOCKED_SECONDS)

    def _save(self, patience: float) -> None:
        unsaved = self.stats - self._saved
        if unsaved != LookupStats():
            if not self._store(unsaved, time.monotonic() + patience):
                self._save_at = 0.0
                return
            self._saved = self.stats
        self._save_at = time.monotonic() + SAVE_SECONDS

    def reset(self) -> None:
        """Begin at zero again; the file is not touched."""
        self.stats = self._saved = LookupStats()

    def _stored(self) -> LookupStats:
        try:
            return _decoded(self._path.read_bytes()[:_WIDTH])
        except OSError:
            return LookupStats()

    def _store(self, stats: LookupStats, until: float) -> bool:
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(descriptor, until):
                    return False
                sums = _decoded(os.pread(descriptor, _WIDTH, 0)) + stats
                os.pwrite(descriptor, json.dumps(astuple(sums)).ljust(_WIDTH).encode(), 0)
                return True
            finally:
                os.close(descriptor)
        return False


def _lock(descriptor: int, until: float) -> bool:
    """Try at least once, until a monotonic time; return whether the lock is ours."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_STEP_SECONDS)
        else:
            return True


def _decoded(text: bytes) -> LookupStats:
    try:
        counts = json.loads(text)
        if len(counts) == 4 and all(type(n) is int and n >= 0 for n in counts):
            return LookupStats(*counts)
    except (ValueError, TypeError, RecursionError):
        pass
    return LookupStats()
