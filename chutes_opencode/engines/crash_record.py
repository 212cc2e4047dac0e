"""Servers that ended by themselves, and starts that failed: wait between them, and know a loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from chutes_opencode.errors import ConfigurationError, OpenCodeError

BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0
# After a crash loop one start is tried again, so that a long-lived process may recover.
LOOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Failures in a row: how many, when the last was, and what it said."""

    count: int
    at: float
    words: str


class CrashRecord:
    """What has failed in a row, by the key of its plan. Loop-bound."""

    def __init__(self) -> None:
        """Begin without a failure."""
        self._troubles: dict[str, _Trouble] = {}

    def note(self, key: str, words: str) -> None:
        """Count a failure.

        Args:
            key: Of the plan.
            words: What was said.
        """
        before = self._troubles.get(key)
        count = 1 if before is None else before.count + 1
        now = asyncio.get_running_loop().time()
        self._troubles[key] = _Trouble(count, now, words or "it said nothing")

    def forget(self, key: str) -> None:
        """Begin anew: something has worked."""
        self._troubles.pop(key, None)

    async def wait(self, key: str, limit: int) -> None:
        """Wait before a start, the longer the more have failed in a row.

        Args:
            key: Of the plan.
            limit: How many are a crash loop.

        Raises:
            ConfigurationError: It is one.
        """
        trouble = self._troubles.get(key)
        if trouble is None:
            return
        since = asyncio.get_running_loop().time() - trouble.at
        if trouble.count >= limit and since < LOOP_SECONDS:
            raise ConfigurationError(
                raw_message=f"opencode serve ended {trouble.count} times in a row: {trouble.words}",
                hint=OpenCodeError.default_hint,
            )
        seconds = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (trouble.count - 1))
        await asyncio.sleep(max(0.0, seconds - since))
