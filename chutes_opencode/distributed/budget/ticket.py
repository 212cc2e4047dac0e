"""How a budget is started by a driver and opened by workers."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any

from chutes_opencode.distributed.budget.budget_actor import BudgetSpec, find_actor
from chutes_opencode.distributed.budget.cluster_budget import ClusterBudget
from chutes_opencode.distributed.budget.shares import BudgetView
from chutes_opencode.distributed.extra import ray
from chutes_opencode.limits import Budget

CALL_SECONDS = 120.0
# The actor may die right before a call; then it is found again, or made again.
_RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class BudgetTicket:
    """A cluster's budget, as it travels to workers: picklable, with no handle in it.

    The methods block for as long as a call to an actor takes; those with an `a` are for an event
    loop.

    Attributes:
        name: What a `LimitExceededError` calls it.
        spec: What its books are made from.
    """

    name: str
    spec: BudgetSpec

    def open(self, node: str) -> ClusterBudget:
        """Return a worker's budget: to be made on the worker, and closed there.

        Args:
            node: The worker's name; what `forget` is told.
        """
        return ClusterBudget(self.name, self.spec, node)

    def view(self) -> BudgetView:
        """Return what all workers together have spent, reserved and maybe spent, US dollars.

        What was spent before is counted; what a worker did in the last second may not be.
        """
        view: BudgetView = self._call("view")
        return view

    async def aview(self) -> BudgetView:
        """Do what `view` does."""
        return await asyncio.to_thread(self.view)

    def forget(self, node: str) -> None:
        """Take a worker for dead: what it held and did not tell to be spent is doubtful.

        Its silence would tell so after half a minute. Should it live, it is heard again.
        """
        if ray.is_initialized():  # else Ray would start a cluster of its own
            self._call("forget", node)

    async def aforget(self, node: str) -> None:
        """Do what `forget` does."""
        await asyncio.to_thread(self.forget, node)

    def end(self) -> None:
        """End the actor, when every worker's budget is closed; it is gone with its cluster."""
        if ray.is_initialized():  # else Ray would start a cluster of its own
            self._call("clear")
            ray.kill(find_actor(self.spec), no_restart=True)

    def _call(self, method: str, *arguments: Any) -> Any:
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                reference = getattr(find_actor(self.spec), method).remote(*arguments)
                return ray.get(reference, timeout=CALL_SECONDS)
            except ray.exceptions.RayActorError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)


def start_budget(name: str, max_cost_usd: float, spent_usd: float = 0.0) -> BudgetTicket:
    """Start a budget for the workers of the cluster that this process is connected to.

    Args:
        name: What a `LimitExceededError` calls it.
        max_cost_usd: The limit, US dollars.
        spent_usd: What of it was spent before; may be more than all.

    Raises:
        ConfigurationError: The limit is negative or no number.
    """
    Budget(name, max_cost_usd)
    spec = BudgetSpec(f"budget:{uuid.uuid4().hex}", max_cost_usd, spent_usd)
    ticket = BudgetTicket(name, spec)
    ticket.view()  # it is there
    return ticket
