"""A server as the pool holds it: who uses it, whether it has grown old, and which one leaves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from chutes_opencode.engines.pool_limits import PoolLimits
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import ServerPlan

LOOK_SECONDS = 2.0  # between two looks; elsewhere than on Linux one costs a process
# What opencode needs by itself (0.4 to 0.8 GiB) says nothing of its age: a limit below that would
# replace every server at once.
SETTLED_PROMPTS = 10
GROWTH = 1.25


@dataclass(eq=False, slots=True)
class Demand:
    """Who has asked for a server, and how many of them still wait for its start."""

    users: set[int] = field(default_factory=set)
    waiting: int = 0


@dataclass(eq=False, slots=True)
class HeldServer:
    """A server of the pool.

    Attributes:
        server: It.
        demand: Who has asked for it.
        used_at: When it was last taken or given back, in the loop's seconds.
        over: Set when it is to be stopped.
        in_room: Whether it counts against `max_servers`; not once another has taken its place.
        idle: The timer that stops it.
        look_at: When its memory and its disk are looked at next.
        least_mib: The least memory that it was seen to hold.
        replace_at: When it may be replaced, after that has failed.
        keeper: The task that ends it.
    """

    server: Server
    demand: Demand
    used_at: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    in_room: bool = True
    idle: asyncio.TimerHandle | None = None
    look_at: float = 0.0
    least_mib: float = math.inf
    replace_at: float = 0.0
    keeper: asyncio.Task[None] | None = None

    @property
    def plan(self) -> ServerPlan:
        """What it was started for."""
        return self.server.plan

    @property
    def open(self) -> bool:
        """Whether it takes new prompts."""
        return self.server.alive and not self.server.draining

    @property
    def cut_off(self) -> bool:
        """Whether its relay has stopped: it reaches no provider any more."""
        relay = self.plan.relay
        return relay is not None and not relay.alive

    @property
    def empty(self) -> bool:
        """Whether no prompt is in flight on it."""
        return self.server.prompts == 0

    @property
    def untouched(self) -> bool:
        """Whether those for whom it was started are just about to take it."""
        return self.empty and self.demand.waiting > 0

    def is_old(self, limits: PoolLimits, now: float) -> bool:
        """Tell whether it should be replaced.

        Args:
            limits: What it may reach.
            now: The loop's seconds.
        """
        server = self.server
        if server.served >= limits.max_prompts or server.folders.count >= limits.max_folders:
            return True
        if now < self.look_at:
            return False
        self.look_at = now + LOOK_SECONDS
        return self._has_grown(limits.max_mib) or server.data_mib() >= limits.max_disk_mib

    def _has_grown(self, max_mib: float) -> bool:
        """Tell whether it holds too much memory, and more than it began with."""
        mib = self.server.rss_mib()
        if mib is None:
            return False
        self.least_mib = min(self.least_mib, mib)
        settled = self.server.served >= SETTLED_PROMPTS
        return settled and mib >= max(max_mib, GROWTH * self.least_mib)


def who_leaves(held: Sequence[HeldServer]) -> HeldServer | None:
    """Choose the server that makes room for another one.

    Returns:
        The least recently used one, rather one that serves nobody; None: wait, since one leaves
        already, or none may: a server serves at least those for whom it was started.
    """
    leaving = [each for each in held if each.in_room and not each.open]
    staying = [each for each in held if each.open and not each.plan.exclusive]
    usual = [each for each in staying if not each.untouched]
    empty = [each for each in usual if each.empty]
    if any(each.empty for each in leaving):
        return None
    candidates = empty or ([] if leaving else usual)
    return min(candidates, key=lambda each: each.used_at, default=None)
