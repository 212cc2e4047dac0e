"""The one actor of a provider account on a cluster: a desk that Ray keeps alive.

It is named after the account, survives the driver that made it, is restarted wherever there is
room when it dies, and ends itself when nobody has needed it for ten minutes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.limiter.desk import Desk
from chutes_opencode.distributed.limiter.protocol import (
    Answer,
    DeskLostError,
    HandOver,
    Report,
)
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.relay.flow import Pace
from chutes_opencode.relay.limiter import LimiterStats

NAMESPACE = "chutes-opencode"
IDLE_SECONDS = 600.0
MAX_CALLS = 10_000
"""Calls that may wait at once; each process of the cluster has two at most."""


class LimiterActor:
    """Serves the members of a cluster for one account."""

    def __init__(self, pace: Pace | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        """Start with nothing learnt; the members tell what another one had learnt.

        Args:
            pace: What to start from; None: the defaults.
            idle_seconds: After so long without a member it ends itself.
        """
        context = ray.get_runtime_context()
        self._handle = context.current_actor
        self._desk = Desk(pace, is_successor=context.was_current_actor_reconstructed)
        self._idle_seconds = idle_seconds
        self._ending: asyncio.Task[None] | None = None

    async def exchange(self, report: Report) -> Answer:
        """See `Desk.exchange`."""
        self._watch()
        return await self._desk.exchange(report)

    @ray.method(max_task_retries=-1)  # done twice, it is the same
    async def hand_over(self, told: HandOver) -> Answer:
        """See `Desk.hand_over`."""
        self._watch()
        return await self._desk.hand_over(told)

    async def forget(self, node: str) -> None:
        """See `Desk.forget`."""
        self._desk.forget(node)

    async def stats(self) -> LimiterStats:
        """See `Desk.stats`."""
        return self._desk.stats()

    async def held(self) -> dict[str, int]:
        """See `Desk.held`."""
        return self._desk.held()

    def _watch(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_when_idle())

    async def _end_when_idle(self) -> None:
        while (idle := self._desk.idle_seconds()) < self._idle_seconds:
            await asyncio.sleep(self._idle_seconds - idle)
        ray.kill(self._handle, no_restart=True)


class ActorDesk:
    """The desk of an account as its members see it: calls go to the actor."""

    def __init__(self, actor: Any) -> None:
        """Take the actor's handle."""
        self._actor = actor

    async def exchange(self, report: Report) -> Answer:
        """See `DeskClient.exchange`."""
        return await self._answer(self._actor.exchange, report)

    async def hand_over(self, told: HandOver) -> Answer:
        """See `DeskClient.hand_over`."""
        return await self._answer(self._actor.hand_over, told)

    async def _answer(self, method: Any, told: Report | HandOver) -> Answer:
        try:
            answer: Answer = await method.remote(told)
        except ray.exceptions.RayError as error:
            raise DeskLostError(str(error)) from error
        return answer


def actor_name(account: str) -> str:
    """Return the name of an account's actor."""
    return f"limiter:{account}"


def limiter_actor(
    account: str, pace: Pace | None = None, *, idle_seconds: float = IDLE_SECONDS
) -> Any:
    """Return the handle of an account's actor; it is made if there is none.

    Args:
        account: Its name, without a key.
        pace: What to start from, if it is made; None: the defaults.
        idle_seconds: After so long without a member it ends itself.

    Raises:
        ConfigurationError: This process is not connected to a cluster.
        DeskLostError: Ray could not make it.
    """
    if not ray.is_initialized():
        raise ConfigurationError(
            raw_message="this process is not connected to a Ray cluster (any more), "
            "and its requests are limited by an actor there",
            hint="Keep Ray connected while prompts run, or call use_limiters(None) before them.",
        )
    kind = ray.remote(LimiterActor).options(
        name=actor_name(account),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=MAX_CALLS,
    )
    try:
        return kind.remote(pace, idle_seconds)
    except (ray.exceptions.RayError, ValueError) as error:  # ValueError: died in between
        raise DeskLostError(str(error)) from error
