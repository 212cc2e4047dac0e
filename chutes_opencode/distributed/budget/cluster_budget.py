"""A worker's share, kept in step with the budget's actor by a job on the background loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import Any

from chutes_opencode import background
from chutes_opencode.distributed.budget.budget_actor import BudgetSpec, find_actor
from chutes_opencode.distributed.budget.share_budget import ShareBudget
from chutes_opencode.distributed.extra import ray

# What is spent is told, and what is not used is given back, after so long at most.
TELL_SECONDS = 1.0
# Who holds dollars is heard of at least so often; see `shares.SILENCE_S`.
HEARTBEAT_SECONDS = 5.0
# Who holds none, so often: the actor ends itself after `BudgetSpec.idle_seconds` without a word.
IDLE_SECONDS = 120.0
# Between tries to reach an actor that is gone or being started again.
RETRY_SECONDS = 0.2
CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class ClusterBudget(ShareBudget):
    """Dollars that the prompts of all workers share; made by `BudgetTicket.open`.

    While the actor cannot be reached, what fits into the worker's part goes on, all else waits.
    """

    def __init__(self, name: str, spec: BudgetSpec, node: str) -> None:
        """Hold nothing, and listen.

        Args:
            name: What a `LimitExceededError` calls it.
            spec: The budget.
            node: The worker's name.
        """
        super().__init__(name, spec.max_cost_usd, node)
        self._spec = spec
        self._loop = background.loop()
        self._nudged = asyncio.Event()
        self._closing = False
        self._ended = threading.Event()
        self._job = background.Job(self._keep_in_step())

    def close(self) -> None:
        """Give back what is not spent, and tell the last costs; waits 5 s at most.

        To be called when the prompts that use it have ended; a second time it does nothing. Not
        on the background loop, on which `on_event` observers are called.
        """
        self._closing = True
        self._nudge()
        if not self._ended.wait(CLOSE_SECONDS):
            self._job.cancel()

    async def aclose(self) -> None:
        """Do what `close` does without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _changed(self) -> None:
        self._nudge()

    def _nudge(self) -> None:
        if not self._nudged.is_set():
            with suppress(RuntimeError):  # the interpreter ends
                self._loop.call_soon_threadsafe(self._nudged.set)

    # --- on the background loop ------------------------------------------------------------------

    async def _keep_in_step(self) -> None:
        try:
            # Outside a cluster, Ray would start one of its own.
            while ray.is_initialized():
                try:
                    await self._talk(await asyncio.to_thread(find_actor, self._spec))
                    return
                except Exception as error:  # noqa: BLE001 - whatever Ray raises, it may come back
                    _log.warning("the budget's actor cannot be reached: %r", error)
                if self._closing:
                    return
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._ended.set()

    async def _talk(self, actor: Any) -> None:
        """Report whenever there is reason to, until it is closed."""
        bell: asyncio.Future[Any] | None = None
        told_at = -TELL_SECONDS
        try:
            while not self._closing:
                idle = time.monotonic() >= told_at + TELL_SECONDS
                told_at = time.monotonic() if idle else told_at
                self._nudged.clear()
                self.take(await actor.report.remote(self.report(idle=idle)))
                bell = bell or asyncio.ensure_future(_wait_for(actor.listen.remote(self.holder)))
                await self._until_due(bell)
                if bell.done():
                    bell.result()
                    bell = None
            await actor.report.remote(self.report(last=True))
        finally:
            if bell is not None:
                bell.cancel()

    async def _until_due(self, bell: asyncio.Future[Any]) -> None:
        """Wait until it should report: for the bell, a change that is urgent, or the time."""
        began = time.monotonic()
        while not (bell.done() or self._closing or self.is_urgent()):
            seconds = self._seconds_left(began)
            if seconds <= 0:
                return
            nudge: asyncio.Future[Any] = asyncio.ensure_future(self._nudged.wait())
            waited = (bell, nudge)
            await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            nudge.cancel()
            self._nudged.clear()

    def _seconds_left(self, began: float) -> float:
        """Tell how long nothing need be said."""
        if self.has_news():
            seconds = TELL_SECONDS
        else:
            seconds = IDLE_SECONDS if self.is_idle else HEARTBEAT_SECONDS
        return began + seconds - time.monotonic()


async def _wait_for(reference: Any) -> None:
    await reference
