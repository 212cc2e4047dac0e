"""The one actor of a budget: its books, behind calls that any worker may make.

It is restarted wherever it or its node dies, and made again by whoever misses it. What it has
handed out is stored in the cluster's own key-value store (the GCS) before it is told, so that new
books take no claim for less than it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from chutes_opencode.distributed.budget.shares import (
    SILENCE_S,
    Answer,
    BudgetView,
    Report,
    Shares,
)
from chutes_opencode.distributed.extra import ray

NAMESPACE = "chutes-opencode"
# So many calls wait at once at most: each worker has one that waits for its bell.
_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """What the books are made from, by whoever makes them.

    Attributes:
        actor: Name of the actor; no other budget of the cluster has it.
        max_cost_usd: The limit, US dollars.
        spent_usd: What of it was spent before.
        idle_seconds: The actor of a run whose driver was killed ends itself when nobody has told
            it anything for so long.
    """

    actor: str
    max_cost_usd: float
    spent_usd: float = 0.0
    idle_seconds: float = 600.0


class BudgetActor:
    """The books of one budget."""

    def __init__(self, spec: BudgetSpec) -> None:
        """Open the books, with what earlier ones have stored.

        Args:
            spec: The budget.
        """
        now = time.monotonic()
        self._idle_seconds = spec.idle_seconds
        self._store = _Store(spec.actor)
        self._shares = Shares(spec.max_cost_usd, spec.spent_usd, kept=self._store.read(), now=now)
        self._stored: dict[str, float] = {}
        self._bells: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._heard = now
        self._watch = asyncio.get_running_loop().create_task(self._watch_silence())

    async def report(self, told: Report) -> Answer:
        """Take a holder's report; see `Shares.report`."""
        self._heard = time.monotonic()
        answer = self._shares.report(told, self._heard)
        self._bells[told.holder].clear()
        self._ring()
        if answer.handed != self._stored.get(told.holder, 0.0):
            self._store.write(self._shares.kept(told.holder))
            self._stored[told.holder] = answer.handed
        return answer

    async def listen(self, holder: str) -> None:
        """Return when the holder should report."""
        await self._bells[holder].wait()

    async def view(self) -> BudgetView:
        """Sum up."""
        self._heard = time.monotonic()
        return self._shares.view()

    async def free(self) -> float:
        """Tell what may still be handed out, US dollars."""
        return self._shares.free

    async def process(self) -> int:
        """Tell the id of the actor's process."""
        return os.getpid()

    async def forget(self, node: str) -> None:
        """Take a worker for dead."""
        self._shares.forget(node)
        self._ring()

    async def clear(self) -> None:
        """Remove what is stored: the budget is not used any more."""
        self._store.clear()

    def _ring(self) -> None:
        while self._shares.rung:
            self._bells[self._shares.rung.pop()].set()

    async def _watch_silence(self) -> None:
        """Notice workers that say nothing; a clock is the only thing that tells of them."""
        while time.monotonic() < self._heard + self._idle_seconds:
            await asyncio.sleep(min(SILENCE_S / 3, self._idle_seconds))
            self._shares.expire(time.monotonic())
            self._ring()
        self._store.clear()
        # It cannot `exit_actor` outside of a call; and an exit by itself would start it again.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class _Store:
    """Reports of holders in the cluster's key-value store; gone with the cluster."""

    def __init__(self, name: str) -> None:
        from ray.experimental import internal_kv

        self._kv = internal_kv
        self._prefix = f"{NAMESPACE}/{name}/"

    def read(self) -> Iterator[Report]:
        for key in self._kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
            data = self._kv._internal_kv_get(key, namespace=NAMESPACE)
            if data is not None:
                yield Report(**json.loads(data))

    def write(self, report: Report) -> None:
        key, value = self._prefix + report.holder, json.dumps(asdict(report))
        self._kv._internal_kv_put(key, value, namespace=NAMESPACE)

    def clear(self) -> None:
        self._kv._internal_kv_del(self._prefix, del_by_prefix=True, namespace=NAMESPACE)


def find_actor(spec: BudgetSpec) -> Any:
    """Return the handle of a budget's actor; it is made where there is none."""
    return (
        ray.remote(BudgetActor)
        .options(
            name=spec.actor,
            namespace=NAMESPACE,
            lifetime="detached",  # a driver's death must not take it from those who still settle
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_CALLS,
        )
        .remote(spec)
    )
