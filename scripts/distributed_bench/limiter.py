"""How many permits a second one limiter actor hands out, in blocks, to some processes at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray

from chutes_opencode.distributed.limiter.limiter_actor import ActorDesk, limiter_actor
from chutes_opencode.distributed.limiter.protocol import (
    MAX_BLOCK,
    MAX_BLOCKS,
    Ended,
    HandOver,
    News,
    Report,
)
from chutes_opencode.relay.flow import Outcome, Pace

WANTED = MAX_BLOCK * MAX_BLOCKS
"""Requests that wait at a client whenever it calls."""
PACE = Pace(start=100_000, max_in_flight=100_000)
"""An account that allows whatever is asked."""


@dataclass(frozen=True)
class LimiterFigures:
    """What was measured.

    Attributes:
        clients: Processes that asked.
        permits: Permits that were given, used and released.
        calls: Calls of the actor.
        seconds: How long that took, from the first client's start to the last one's end.
    """

    clients: int
    permits: int
    calls: int
    seconds: float

    @property
    def permits_per_second(self) -> float:
        """Permits of all clients together, a second."""
        return self.permits / self.seconds


class _Client:
    """A process that uses permits up as fast as it gets them: each is taken and ends well."""

    async def use(self, account: str, seconds: float) -> tuple[int, int]:
        """Return how many permits were used, and in how many calls."""
        desk = ActorDesk(limiter_actor(account, PACE))
        name = uuid.uuid4().hex
        answer = await desk.hand_over(HandOver(name, name, ""))
        lines = [self._use(desk, f"{name}-{n}", answer.epoch, seconds) for n in range(2)]
        used = await asyncio.gather(*lines)
        return sum(permits for permits, _ in used), sum(calls for _, calls in used)

    async def _use(self, desk: ActorDesk, name: str, epoch: str, seconds: float) -> tuple[int, int]:
        news, held, permits, calls = News(), 0, 0, 0
        until = time.monotonic() + seconds
        while time.monotonic() < until or held:
            wanted = WANTED if time.monotonic() < until else 0
            answer = await desk.exchange(
                Report(name, name, epoch, news, 0, wanted, held, permits, 0)
            )
            calls += 1
            if not answer.known:
                raise RuntimeError("the limiter actor died under the measurement")
            held = sum(grant.count for grant in answer.grants)
            news = News(
                taken=tuple((grant.number, grant.count) for grant in answer.grants),
                ended=tuple(
                    Ended(grant.number, Outcome.OK, grant.count, taken=True)
                    for grant in answer.grants
                ),
            )
            permits += held
        return permits, calls


def measure_limiter(*, clients: int = 4, seconds: float = 5.0) -> LimiterFigures:
    """Measure; this process must be connected to a cluster.

    Args:
        clients: Processes that ask at once.
        seconds: For how long.
    """
    account = f"bench#{uuid.uuid4().hex[:8]}"
    actor = limiter_actor(account, PACE)
    kind: Any = ray.remote(_Client)
    workers = [kind.options(num_cpus=0).remote() for _ in range(clients)]
    ray.get([worker.use.remote(f"{account}-warm", 0.1) for worker in workers])
    began = time.monotonic()
    used = ray.get([worker.use.remote(account, seconds) for worker in workers])
    took = time.monotonic() - began
    for each in (actor, limiter_actor(f"{account}-warm", PACE), *workers):
        ray.kill(each)
    return LimiterFigures(
        clients, sum(permits for permits, _ in used), sum(calls for _, calls in used), took
    )


def main() -> None:
    """Measure on a node of its own and print the figures."""
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    for clients in (1, 2, 4):
        figures = measure_limiter(clients=clients)
        print(
            f"{figures.clients} clients: {figures.permits_per_second:,.0f} permits/s, "
            f"{figures.calls / figures.seconds:,.0f} calls/s"
        )


if __name__ == "__main__":
    main()
