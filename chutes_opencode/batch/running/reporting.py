"""Snapshots go to `status.json` and to the caller's `on_progress`, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.status import write_status

STATUS_S = 1.0

OnProgress = Callable[[Snapshot], object]


class Reporter:
    """Tells how far the batch is, one snapshot at a time; what fails here ends no batch."""

    def __init__(self, folder: Path, on_progress: OnProgress | None, log: Any) -> None:
        """Tell nothing yet.

        Args:
            folder: The run's.
            on_progress: The caller's; None: nobody listens.
            log: Gets the first failure of each kind.
        """
        self._folder = folder
        self._on_progress = on_progress
        self._log = log
        self._warned: set[str] = set()
        self._telling: asyncio.Future[None] | None = None
        self._written = 0.0

    def offer(self, snapshot: Snapshot) -> None:
        """Tell it, unless the last one is still being told."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.ensure_future(asyncio.to_thread(self._tell, snapshot))

    async def last(self, snapshot: Snapshot) -> None:
        """Tell the batch's end, and return when it was told."""
        if self._telling is not None:
            await self._telling
        self._written = 0.0
        await asyncio.to_thread(self._tell, snapshot)

    def _tell(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if not self._written or now - self._written >= STATUS_S:
            self._written = now
            try:
                write_status(self._folder, snapshot)
            except OSError as error:  # the store will meet it too, where it matters
                self._warn("status.json cannot be written", error)
        if self._on_progress is not None:
            try:
                self._on_progress(snapshot)
            except Exception as error:  # noqa: BLE001 - an observer must not cost a paid batch
                self._warn("on_progress failed", error)

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._log.warning(what, error=repr(error))
