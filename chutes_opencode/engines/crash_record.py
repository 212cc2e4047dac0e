"""Servers that ended by themselves, and starts that failed: wait between them, and know a loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from chutes_opencode.errors import ConfigurationError, OpenCodeError

BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0
# A server that came up may have died of one of its prompts, or of somebody's kill: the next one is
# begun sooner, and it takes more of them to make a loop than starts that fail.
MAX_DEATH_BACKOFF_SECONDS = 2.0
DEATHS_FOR_A_START = 6
# After a crash loop one start is tried again, so that a long-lived process may recover.
LOOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Failures in a row: how many of each kind, when the last was, and what it said."""

    starts: int = 0
    deaths: int = 0
    at: float = 0.0
    words: str = ""

    @property
    def backoff_s(self) -> float:
        """Seconds to wait after the last one."""
        started = BACKOFF_SECONDS * 2 ** min(self.starts - 1, 10) if self.starts else 0.0
        died = BACKOFF_SECONDS * 2 ** min(self.deaths - 1, 10) if self.deaths else 0.0
        return max(min(MAX_BACKOFF_SECONDS, started), min(MAX_DEATH_BACKOFF_SECONDS, died))


class CrashRecord:
    """What has failed in a row, by the key of its plan. Loop-bound."""

    def __init__(self) -> None:
        """Begin without a failure."""
        self._troubles: dict[str, _Trouble] = {}

    def note(self, key: str, words: str, *, came_up: bool) -> None:
        """Count a failure.

        Args:
            key: Of the plan.
            words: What was said.
            came_up: Whether the server had been ready before it died.
        """
        before = self._troubles.get(key, _Trouble())
        self._troubles[key] = _Trouble(
            before.starts + (not came_up),
            before.deaths + came_up,
            asyncio.get_running_loop().time(),
            words or "it said nothing",
        )

    def forget(self, key: str) -> None:
        """Begin anew: something has worked."""
        self._troubles.pop(key, None)

    async def wait(self, key: str, limit: int) -> None:
        """Wait before a start, the longer the more have failed in a row.

        Args:
            key: Of the plan.
            limit: How many failed starts are a crash loop; of deaths it takes more.

        Raises:
            ConfigurationError: It is one.
        """
        trouble = self._troubles.get(key)
        if trouble is None:
            return
        since = asyncio.get_running_loop().time() - trouble.at
        loops = trouble.starts >= limit or trouble.deaths >= limit * DEATHS_FOR_A_START
        if loops and since < LOOP_SECONDS:
            times = trouble.starts + trouble.deaths
            raise ConfigurationError(
                raw_message=f"opencode serve ended {times} times in a row: {trouble.words}",
                hint=OpenCodeError.default_hint,
            )
        await asyncio.sleep(max(0.0, trouble.backoff_s - since))
