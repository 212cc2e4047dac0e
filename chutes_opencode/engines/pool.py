"""The warm servers of a process: prompts whose plans have the same key share one.

Loop-bound, like the servers. Every server has a keeper, a task that ends it once it has died, has
drained or the process exits; all else only marks a server as draining.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from chutes_opencode.engines.crash_record import CrashRecord
from chutes_opencode.engines.held_server import Demand, HeldServer, who_leaves
from chutes_opencode.engines.pool_limits import EngineStats, PoolLimits
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import ServerPlan
from chutes_opencode.errors import OpenCodeError, UnknownOpenCodeError

# The supervisor reports a death when the whole tree is gone; a broken connection tells of it first.
DEATH_SECONDS = 5.0
DETACH_SECONDS = 10.0
REPLACE_SECONDS = 60.0  # after a replacement that did not come up

Start = Callable[[ServerPlan], Awaitable[Server]]

_COUNTED = (
    *("started", "failed_starts", "crashed", "recycled", "superseded", "evicted", "expired"),
    "interrupted",
)


@dataclass(frozen=True, eq=False, slots=True)
class _Starting:
    """A server that is being started, and who waits for it."""

    task: asyncio.Task[HeldServer]
    demand: Demand


class ServerPool:
    """The servers of one process; `shared_pool` returns it.

    Attributes:
        limits: How many there may be, and how long one lives; may be set at any time.
    """

    def __init__(self, limits: PoolLimits | None = None, start: Start | None = None) -> None:
        """Begin without a server.

        Args:
            limits: How many there may be, and how long one lives.
            start: Starts a server; None: `Server.start`.
        """
        self.limits = limits or PoolLimits()
        self._start = start or self._start_server
        self._held: list[HeldServer] = []
        self._current: dict[str, HeldServer] = {}
        self._starting: dict[str, _Starting] = {}
        self._crashes = CrashRecord()
        self._opening = 0
        self._places = 0
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()
        self._done = dict.fromkeys(_COUNTED, 0)

    @asynccontextmanager
    async def server(self, plan: ServerPlan, user: object) -> AsyncIterator[Server]:
        """Lend a server to a prompt; it is counted as long as the prompt has it.

        Args:
            plan: What the prompt needs; an exclusive one gets a server of its own, which is gone at
                the end.
            user: Who asks, for `detach`.

        Raises:
            ConfigurationError: opencode cannot be run, refuses its config, or dies again and again.
            UnknownOpenCodeError: A server did not come up.
        """
        held = await (self._take_own(plan, user) if plan.exclusive else self._take(plan, user))
        try:
            yield held.server
        finally:
            self._give_back(held)
            if plan.exclusive and held.keeper is not None:
                await asyncio.wait([held.keeper])

    async def detach(self, user: object) -> None:
        """Stop the servers that nobody else has used; what is in flight there may end first.

        Bounded: after a while it is ended.
        """
        await self._end(id(user))

    async def close(self) -> None:
        """Stop all servers; what is in flight may end first, within bounds."""
        await self._end(None)

    def stats(self) -> EngineStats:
        """Tell what the pool does and has done; from any thread."""
        servers = [held.server for held in tuple(self._held)]
        return EngineStats(
            servers=len(servers),
            draining=sum(server.draining for server in servers),
            starting=self._opening,
            prompts=sum(server.prompts for server in servers),
            **self._done,
        )

    # --- taking and giving back: nothing is awaited between a look and its consequence -----------

    async def _take(self, plan: ServerPlan, user: object) -> HeldServer:
        while True:
            held = self._current.get(plan.key)
            if held is not None and held.open:
                return self._enter(held, user)
            if held is not None:
                self._retire(held)
            await self._wait_for_start(plan, user)

    async def _take_own(self, plan: ServerPlan, user: object) -> HeldServer:
        return self._enter(await self._open(plan, Demand()), user)

    def _enter(self, held: HeldServer, user: object) -> HeldServer:
        held.demand.users.add(id(user))
        held.server.prompts += 1
        held.used_at = _now()
        if held.idle is not None:
            held.idle.cancel()
        self._supersede(held, user)
        return held

    def _supersede(self, held: HeldServer, user: object) -> None:
        """Let a server go whose users have all come to one with a newer list of models."""
        for other in tuple(self._current.values()):
            if other is not held and held.plan.follows(other.plan):
                other.demand.users.discard(id(user))
                if not other.demand.users:
                    self._done["superseded"] += 1
                    self._retire(other)

    def _give_back(self, held: HeldServer) -> None:
        server = held.server
        server.prompts -= 1
        server.served += 1
        if held.empty:
            server.purge_outputs()
        held.used_at = _now()
        if server.alive:
            self._crashes.forget(held.plan.key)
        else:
            self._done["interrupted"] += 1
        if held.plan.exclusive or not held.open:
            self._retire(held)
        else:
            self._replace_if_old(held)
            self._expire_later(held)
        self._tell_change()

    def _retire(self, held: HeldServer) -> None:
        """Give it no more prompts; its keeper stops it when the last one has left."""
        held.server.draining = True
        if self._current.get(held.plan.key) is held:
            del self._current[held.plan.key]
        if held.empty:
            held.over.set()

    # --- starting --------------------------------------------------------------------------------

    async def _wait_for_start(self, plan: ServerPlan, user: object) -> None:
        """Wait for the one start that all wait for; it goes on if a waiter leaves."""
        starting = self._starting.get(plan.key) or self._begin(plan, set(), spare=False)
        starting.demand.users.add(id(user))
        starting.demand.waiting += 1
        try:
            await asyncio.wait([starting.task])
        finally:
            starting.demand.waiting -= 1
            self._tell_change()
        if starting.task.cancelled():
            raise UnknownOpenCodeError(raw_message="opencode serve was ended while it started")
        error = starting.task.exception()
        if isinstance(error, OpenCodeError):
            raise copy.copy(error) from error  # each waiter adds to its own
        if error is not None:
            raise error

    def _begin(self, plan: ServerPlan, users: set[int], *, spare: bool) -> _Starting:
        demand = Demand(users)
        task = asyncio.create_task(self._open(plan, demand, spare=spare))
        starting = self._starting[plan.key] = _Starting(task, demand)

        def done(task: asyncio.Task[HeldServer]) -> None:
            del self._starting[plan.key]
            if not task.cancelled():
                task.exception()  # seen, even if nobody waits for it any more

        task.add_done_callback(done)
        return starting

    async def _open(self, plan: ServerPlan, demand: Demand, *, spare: bool = False) -> HeldServer:
        """Start a server where there is room.

        Args:
            plan: What it is for.
            demand: Who asks for it.
            spare: Whether it is to replace one, whose room it gets.
        """
        await self._crashes.wait(plan.key, self.limits.crash_limit)
        for held in tuple(self._current.values()):
            if held.cut_off:  # nobody asks for it any more
                self._retire(held)
        async with self._place(spare=spare):
            try:
                server = await self._start(plan)
            except Exception as error:
                self._done["failed_starts"] += 1
                words = str(getattr(error, "raw_message", error))
                self._crashes.note(plan.key, words, came_up=False)
                raise
            return self._keep(server, demand)

    async def _start_server(self, plan: ServerPlan) -> Server:
        return await Server.start(plan, seconds=self.limits.start_seconds)

    def _keep(self, server: Server, demand: Demand) -> HeldServer:
        held = HeldServer(server, demand, used_at=_now())
        held.keeper = asyncio.create_task(self._end_in_time(held))
        self._held.append(held)
        self._done["started"] += 1
        if not held.plan.exclusive:
            replaced = self._current.get(held.plan.key)
            self._current[held.plan.key] = held
            self._expire_later(held)
            if replaced is not None:
                self._done["recycled"] += 1
                replaced.in_room = False
                self._retire(replaced)
        return held

    # --- room ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _place(self, *, spare: bool) -> AsyncIterator[None]:
        """Wait for room, first come, first served, and hold it; a spare one needs none."""
        if not spare:
            async with self._line:
                while self._taken() >= max(1, self.limits.max_servers):
                    leaver = who_leaves(self._held)
                    if leaver is not None:
                        self._done["evicted"] += 1
                        self._retire(leaver)
                    await self._changed.wait()
                self._places += 1
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1
            self._places -= not spare
            self._tell_change()

    def _taken(self) -> int:
        return self._places + sum(held.in_room for held in self._held)

    def _tell_change(self) -> None:
        """Wake who waits for room."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- ending ----------------------------------------------------------------------------------

    def _replace_if_old(self, held: HeldServer) -> None:
        """Begin to start a server in the place of one that has grown old; it serves on till then.

        Not twice, and after a start that failed not at once again.
        """
        key, now = held.plan.key, _now()
        first = self._current.get(key) is held and key not in self._starting
        if first and now >= held.replace_at and held.is_old(self.limits, now):
            held.replace_at = now + REPLACE_SECONDS
            self._begin(held.plan, set(held.demand.users), spare=True)

    def _expire_later(self, held: HeldServer) -> None:
        if held.empty:
            loop = asyncio.get_running_loop()
            held.idle = loop.call_later(self.limits.idle_seconds, self._expire, held)

    def _expire(self, held: HeldServer) -> None:
        if held.untouched:
            self._expire_later(held)
        elif held.open and held.empty:
            self._done["expired"] += 1
            self._retire(held)

    async def _end_in_time(self, held: HeldServer) -> None:
        """Keep a server until it is over or dead, then let go of it; also when cancelled."""
        server = held.server
        try:
            await _first(server.died.wait(), held.over.wait())
            if server.api.gone and not server.died.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(server.died.wait(), DEATH_SECONDS)
        finally:
            if server.died.is_set():
                self._done["crashed"] += 1
                self._crashes.note(held.plan.key, server.stderr_tail(), came_up=True)
            self._retire(held)
            if held.idle is not None:
                held.idle.cancel()
            try:
                await server.stop()
            finally:
                self._held.remove(held)
                self._tell_change()

    async def _end(self, user: int | None) -> None:
        """End what only this user uses; None: everything."""
        starting = [entry for entry in self._starting.values() if _left(entry.demand.users, user)]
        held = [entry for entry in self._held if _left(entry.demand.users, user)]
        for entry in starting:
            entry.task.cancel()
        for server in held:
            self._retire(server)
        ending = [*(e.task for e in starting), *(h.keeper for h in held if h.keeper is not None)]
        if ending:
            await asyncio.wait(ending, timeout=DETACH_SECONDS)
            for server in held:
                server.over.set()
            await asyncio.wait(ending)


def _left(users: set[int], user: int | None) -> bool:
    """Take a user away, or all of them; tell whether nobody is left."""
    if user is None:
        users.clear()
    else:
        users.discard(user)
    return not users


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of several."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


_pools: dict[int, ServerPool] = {}
_foreign: list[dict[int, ServerPool]] = []
_lock = threading.Lock()


def shared_pool(limits: PoolLimits | None = None) -> ServerPool:
    """Return this process's pool, for use on the background loop.

    Args:
        limits: Its limits from now on; None: as they are.
    """
    with _lock:
        pool = _pools.setdefault(os.getpid(), ServerPool())
        pool.limits = limits or pool.limits
        return pool


def _after_fork() -> None:
    """Leave the parent's servers alone: not even thrown away, which would remove their folders."""
    global _lock
    _lock = threading.Lock()
    _foreign.append(dict(_pools))
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
