"""Snapshots go to `status.json` and to the caller's `on_progress`, off the event loop.

What is under way goes to `.in_flight` at once: it is there for a process that is killed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chutes_opencode.batch.running.in_flight import NAME as IN_FLIGHT
from chutes_opencode.batch.running.in_flight import InFlightFile
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.status import NAME, write_status

STATUS_S = 1.0
PUBLISH_S = 5.0
# How long the end of a batch waits for a caller whose `on_progress` does not return.
LAST_S = 10.0

OnProgress = Callable[[Snapshot], object]


class Reporter:
    """Tells how far the batch is, one snapshot at a time; what fails here ends no batch."""

    def __init__(
        self,
        folder: Path,
        on_progress: OnProgress | None,
        log: Any,
        publish: Callable[[str], object] = lambda _name: None,
        *,
        resent: int = 0,
    ) -> None:
        """Tell nothing yet.

        Args:
            folder: The run's.
            on_progress: The caller's; None: nobody listens.
            log: Gets the first failure of each kind.
            publish: Is given the name of the file when it was written, now and then: it brings it
                to the run's URL.
            resent: Prompts that earlier sessions sent in vain.
        """
        self._folder = folder
        self._on_progress = on_progress
        self._log = log
        self._warned: set[str] = set()
        self._telling: asyncio.Future[None] | None = None
        self._written = 0.0
        self._publish = publish
        self._published = 0.0
        self._resent = resent
        self._in_flight: InFlightFile | None = None

    def under_way(self, count: int) -> None:
        """Tell how many prompts are under way: whatever is killed now, they were sent in vain."""
        try:
            if self._in_flight is None:
                self._in_flight = InFlightFile(self._folder)
            self._in_flight.tell(self._resent + count)
        except OSError as error:
            self._warn(f"{IN_FLIGHT} cannot be written", error)

    def offer(self, snapshot: Snapshot) -> None:
        """Tell it, unless the last one is still being told."""
        self._resent = snapshot.resent
        if self._telling is None or self._telling.done():
            self._telling = asyncio.ensure_future(asyncio.to_thread(self._tell, snapshot))

    async def last(self, snapshot: Snapshot) -> None:
        """Tell the batch's end; return when it was told, or `on_progress` takes too long."""
        if await self._told():
            self._written = self._published = 0.0
            self.offer(snapshot)
            await self._told()
        else:  # at least whoever looks at the file is told
            self._published = 0.0
            await asyncio.to_thread(self._write, snapshot)
        if self._in_flight is not None:  # after status.json, which tells all from now on
            self._in_flight.remove()
            self._in_flight = None

    async def _told(self) -> bool:
        """Wait until the last one is told, but not for ever; return whether it is."""
        if self._telling is None:
            return True
        done, _ = await asyncio.wait([self._telling], timeout=LAST_S)
        if not done:
            self._warn("on_progress does not return", TimeoutError(f"waited for {LAST_S:g} s"))
        return bool(done)

    def _tell(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if not self._written or now - self._written >= STATUS_S:
            self._written = now
            self._write(snapshot)
        if self._on_progress is not None:
            try:
                self._on_progress(snapshot)
            except Exception as error:  # noqa: BLE001 - an observer must not cost a paid batch
                self._warn("on_progress failed", error)

    def _write(self, snapshot: Snapshot) -> None:
        try:
            write_status(self._folder, snapshot)
            now = time.monotonic()
            if not self._published or now - self._published >= PUBLISH_S:
                self._published = now
                self._publish(NAME)
        except Exception as error:  # noqa: BLE001 - the store meets it too, where it matters
            self._warn("status.json cannot be written", error)

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._log.warning(what, error=repr(error))
