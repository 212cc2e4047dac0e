"""Who works at a run at a URL: an object with a heartbeat.

It keeps a second driver out as well as object storage can: two that begin in the same moment, or
whose clocks are a minute apart, may both get in.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import orjson

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.run_lock import Holder

NAME = ".lock.json"
BEAT_S = 10.0
# A driver that has not been heard of for so long is gone.
STALE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Beat:
    """What stands in the object."""

    pid: int
    host: str
    token: str
    at: float

    @property
    def alive(self) -> bool:
        """Whether its writer may be at work still."""
        if self.host == platform.node() and not _runs(self.pid):
            return False
        return time.time() - self.at < STALE_S


class RemoteLock:
    """The right to write to a run at a URL."""

    def __init__(self, remote: Remote) -> None:
        """Take it, and go on telling that it is held.

        Raises:
            StoreError: Another process has it, or the storage cannot be read or written.
        """
        self._remote = remote
        self._token = secrets.token_hex(8)
        self._lost = False
        self._released = threading.Event()
        found = _read(remote)
        if found is not None and found.alive:
            raise StoreError(
                raw_message=f"{remote.url} is in use: {_holder(found)} runs a batch there",
                hint=f"Wait for its end, stop it (after {STALE_S:g} s of silence it counts as "
                "gone), or name another place.",
            )
        self._beat()
        self._look()
        self.check()
        self._thread = threading.Thread(
            target=self._go_on, name="chutes-opencode-run-lock", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise if somebody else has taken it.

        Raises:
            StoreError: Somebody has.
        """
        if self._lost:
            raise StoreError(
                raw_message=f"{self._remote.url} was taken over by another process",
                hint="Look at what that one does; run the same command again when it has ended.",
            )

    def release(self) -> None:
        """Let others write."""
        self._released.set()
        self._thread.join()
        if not self._lost:
            with suppress(StoreError):  # it is stale soon
                self._remote.delete(NAME)

    def _go_on(self) -> None:
        while not self._lost and not self._released.wait(BEAT_S):
            with suppress(StoreError):  # a storage that does not answer now may do so the next time
                self._look()
                if not self._lost:
                    self._beat()

    def _look(self) -> None:
        """See whether it is still ours; one that is gone is not somebody else's."""
        found = _read(self._remote)
        self._lost = found is not None and found.token != self._token

    def _beat(self) -> None:
        beat = _Beat(os.getpid(), platform.node(), self._token, time.time())
        self._remote.put(NAME, orjson.dumps(asdict(beat)))


def remote_holder(remote: Remote) -> Holder | None:
    """Return who works at a run at a URL; None: nobody does.

    Raises:
        StoreError: The storage cannot be read.
    """
    found = _read(remote)
    return _holder(found) if found is not None and found.alive else None


def _holder(beat: _Beat) -> Holder:
    return Holder(beat.pid, beat.host)


def _read(remote: Remote) -> _Beat | None:
    """Read the object; None: there is none, or none that can be read."""
    data = remote.get(NAME)
    if data is None:
        return None
    try:
        values = orjson.loads(data)
        return _Beat(
            int(values["pid"]), str(values["host"]), str(values["token"]), float(values["at"])
        )
    except (ValueError, TypeError, KeyError):
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is not ours to ask
        return True
    return True
