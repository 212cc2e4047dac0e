"""How long each phase of an attempt may last, and which one has lasted too long.

    start ── request ── tool ── request ── … ── finish

While a model request is under way the relay watches it (first byte, silent stream); what lies
between two of them, before the first and after the last is watched here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange

TOOL_FINISHES = ("tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each phase may last, in seconds; see `EngineSettings`."""

    start_seconds: float = 120.0
    tool_seconds: float = 600.0
    finish_seconds: float = 30.0


class Progress(Protocol):
    """What a booking tells of its requests."""

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""

    @property
    def quiet_since(self) -> float | None:
        """When the last one ended, on the clock of `time.monotonic`."""

    def exchanges(self) -> tuple[Exchange, ...]:
        """Return the requests so far."""


class Watchdog:
    """Watches one attempt."""

    def __init__(
        self,
        progress: Progress,
        patience: Patience,
        request: PromptRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin the first phase.

        Args:
            progress: Of the attempt's requests.
            patience: How long each phase may last.
            request: Its tool servers may take their own time to start.
            clock: That of `progress`.
        """
        self._progress = progress
        self._patience = patience
        self._clock = clock
        self._begun = clock()
        self._servers_s = max((server.timeout_seconds for server in request.tools), default=0.0)

    def overdue(self) -> str | None:
        """Name the phase that has lasted too long; None: none has."""
        progress = self._progress
        if progress.busy:
            return None
        since = progress.quiet_since
        phase, seconds = self._phase(None if since is None else progress.exchanges())
        return phase if self._clock() - (since or self._begun) > seconds else None

    def _phase(self, exchanges: tuple[Exchange, ...] | None) -> tuple[str, float]:
        patience = self._patience
        if not exchanges:
            return "start", patience.start_seconds + self._servers_s
        # A sub-agent's end is not the agent's: another tool of the same step may still run.
        own = [exchange for exchange in exchanges if exchange.parent_session_id is None]
        last = (own or exchanges)[-1]
        if last.finish_reason in TOOL_FINISHES:
            return "tool", patience.tool_seconds
        if last.whole or last.refused is not None:
            return "finish", patience.finish_seconds
        # opencode waits some seconds before it repeats a step whose stream broke.
        return "start", patience.start_seconds
