"""A gate before every answer: shut, it keeps them back until it is opened."""

from __future__ import annotations

import asyncio
import threading


class Gate:
    """Open at first. Shut and opened from any thread, waited for on any event loop."""

    def __init__(self) -> None:
        """Start open, with nobody waiting."""
        self._lock = threading.Lock()
        self._shut = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def shut(self) -> None:
        """Keep back whoever comes from now on."""
        with self._lock:
            self._shut = True

    def open(self) -> None:
        """Let everybody through."""
        with self._lock:
            self._shut = False
            for opened, loop in self._waiting.items():
                loop.call_soon_threadsafe(opened.set)
            self._waiting.clear()

    async def passed(self) -> None:
        """Wait while it is shut."""
        opened = asyncio.Event()
        with self._lock:
            if not self._shut:
                return
            self._waiting[opened] = asyncio.get_running_loop()
        try:
            await opened.wait()
        finally:
            with self._lock:
                self._waiting.pop(opened, None)
