"""Servers without a process, for tests of the pool, which run in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from chutes_opencode.engines.pool import ServerPool
from chutes_opencode.engines.pool_limits import PoolLimits
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import ServerPlan
from chutes_opencode.errors import UnknownOpenCodeError
from tests.unit.relay.virtual_time import clock, run

START_SECONDS = 2.0

Story = Callable[["Fleet"], Awaitable[Any]]


@dataclass(eq=False)
class FakeServer:
    """What the pool knows of a server."""

    plan: ServerPlan
    prompts: int = 0
    served: int = 0
    draining: bool = False
    mib: float | None = 700.0
    disk_mib: float = 10.0
    stop_seconds: float = 0.1
    stopped: bool = False
    purged: int = 0
    died: asyncio.Event = field(default_factory=asyncio.Event)
    api: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(gone=False))
    folders: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(count=1))

    @property
    def alive(self) -> bool:
        return not (self.died.is_set() or self.api.gone)

    def rss_mib(self) -> float | None:
        return self.mib

    def data_mib(self) -> float:
        return self.disk_mib

    def purge_outputs(self) -> None:
        self.purged += 1

    def stderr_tail(self) -> str:
        return "its last words"

    async def stop(self) -> None:
        await asyncio.sleep(self.stop_seconds)
        self.stopped = True


class Fleet:
    """A pool, the servers that it has started, and how its starts go.

    Attributes:
        servers: Those that came up, in their order.
        starts: When each start began, in seconds.
        broken: How many of the next starts fail.
    """

    def __init__(self, **limits: Any) -> None:
        self.servers: list[FakeServer] = []
        self.starts: list[float] = []
        self.broken = 0
        self.pool = ServerPool(PoolLimits(**limits), self._start)

    async def _start(self, plan: ServerPlan) -> Server:
        self.starts.append(clock())
        await asyncio.sleep(START_SECONDS)
        if self.broken > 0:
            self.broken -= 1
            raise UnknownOpenCodeError(raw_message="opencode serve ended before it was ready: no")
        self.servers.append(FakeServer(plan))
        return cast(Server, self.servers[-1])

    @property
    def running(self) -> list[FakeServer]:
        return [server for server in self.servers if not server.stopped]

    @asynccontextmanager
    async def server(
        self, key: str = "a", user: object = "user", *, exclusive: bool = False
    ) -> AsyncIterator[FakeServer]:
        async with self.pool.server(plan(key, exclusive=exclusive), user) as server:
            yield cast(FakeServer, server)

    async def prompt(self, key: str = "a", seconds: float = 1.0, **how: Any) -> FakeServer:
        """Run a prompt that takes some seconds; return its server."""
        async with self.server(key, **how) as server:
            await asyncio.sleep(seconds)
            return server

    async def hold(self, stack: AsyncExitStack, key: str = "a", **how: Any) -> FakeServer:
        """Begin a prompt that ends when the stack is closed."""
        return await stack.enter_async_context(self.server(key, **how))


def plan(key: str, *, exclusive: bool = False) -> ServerPlan:
    """Return a plan; keys like `a.1` and `a.2` are of one family."""
    family = key.rpartition(".")[0]
    made = SimpleNamespace(key=key, exclusive=exclusive, family=family, relay=None)
    made.follows = lambda other: ServerPlan.follows(cast(ServerPlan, made), other)
    return cast(ServerPlan, made)


def play(story: Story, **limits: Any) -> Fleet:
    """Let a story happen in virtual time; whatever it does, the pool can be closed after it."""

    async def main() -> Fleet:
        fleet = Fleet(**limits)
        await story(fleet)
        await fleet.pool.close()
        assert fleet.running == []
        assert fleet.pool.stats().servers == 0
        assert fleet.pool.stats().prompts == 0
        return fleet

    return run(main())
