"""The workers of a driver: one on every node that can hold one, and a lost one is replaced."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chutes_opencode.batch.running.executor import LOST, READY, STARTING
from chutes_opencode.distributed.dispatch.link import Link
from chutes_opencode.distributed.dispatch.placement import (
    NodeView,
    alive,
    missing,
    room,
    shortage,
    shortfall,
)
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.failures import one_line
from chutes_opencode.distributed.setup.parcel import Parcel
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
from chutes_opencode.distributed.work.orders import Load, Report
from chutes_opencode.distributed.worker import CONCURRENCY, MEMORY_BYTES, PromptWorker
from chutes_opencode.errors import (
    ConfigurationError,
    NoWorkerError,
    OpenCodeError,
    TransientError,
)

LOOK_SECONDS = 2.0
"""How often the cluster's nodes are looked at anew."""
PATIENCE_SECONDS = 120.0
"""How long a cluster is waited for that has no worker for us."""
# After a worker that could not start, or did not live, its node is left alone for so long.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How many workers there are to be, and what each takes.

    Attributes:
        workers: In all; None: one on every node that can hold one.
        concurrency: Prompts of each at once at most.
        num_cpus: Cores that Ray sets aside for each.
        memory: Bytes that it does.
        resources: Resources of the cluster's own that it does.
        patience_seconds: How long a cluster without any worker is waited for.
    """

    workers: int | None = None
    concurrency: int = CONCURRENCY
    num_cpus: float = 1
    memory: int = MEMORY_BYTES
    resources: Mapping[str, float] = field(default_factory=dict)
    patience_seconds: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        """Refuse what could only be waited for in vain.

        Raises:
            ConfigurationError: A number that cannot be.
        """
        least = {"workers": 1, "concurrency": 1, "num_cpus": 0, "memory": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigurationError(
                    raw_message=f"{name} must be at least {bound}, not {value!r}"
                )

    @property
    def needs(self) -> dict[str, float]:
        """What a worker needs, by Ray's names."""
        return {"CPU": self.num_cpus, "memory": self.memory, **self.resources}


class Crew(Protocol):
    """Who is told of workers."""

    def begin_arguments(self, name: str) -> tuple[Any, ...]:
        """Return what a new worker is begun with."""

    def joined(self, link: Link, load: Load) -> None:
        """Take note of a worker that is ready."""

    def reported(self, link: Link, report: Report) -> None:
        """Take what a worker tells."""

    async def left(self, link: Link, reason: str) -> None:
        """Take note of a worker that is gone, and see to what it had."""

    def hopeless(self, error: OpenCodeError) -> None:
        """Take note that there is no worker, and that none will come."""


@dataclass(slots=True)
class _Place:
    """What is known of a node on which workers failed.

    Attributes:
        until: It is left alone until then, on the monotonic clock.
        pause: How long the last pause was, seconds.
        reason: What became of the last one.
        refusal: Why none can work there; None: it was no error of ours.
    """

    until: float
    pause: float
    reason: str
    refusal: OpenCodeError | None = None


class Fleet:
    """Keeps the workers of one driver alive. Used on one event loop."""

    def __init__(
        self,
        plan: WorkerPlan,
        parcel: Parcel,
        setup: WorkerSetup,
        crew: Crew,
        *,
        look: Callable[[], Any] = ray.nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            plan: How many workers there are to be.
            parcel: Their instance.
            setup: What they have to know.
            crew: Is told of them.
            look: Looks at the cluster's nodes; `ray.nodes`.
            clock: Monotonic seconds.
        """
        self._plan = plan
        self._nodes = look
        self._parcel = parcel
        self._setup = setup
        self._crew = crew
        self._clock = clock
        self._links: dict[Link, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places: dict[str, _Place] = {}
        self._without_since = clock()
        self._error: OpenCodeError | None = None
        self._ready = asyncio.Event()
        self._look = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False
        self._told_shortfall = ""
        self._unkept = False  # nobody looks after the workers any more

    @property
    def links(self) -> Mapping[Link, str]:
        """The workers that there are, each with its state."""
        return self._links

    async def start(self) -> None:
        """Start workers, and return when the first is ready.

        Raises:
            OpenCodeError: None can work.
        """
        self._without_since = self._clock()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        self._keeper.add_done_callback(self._look_after)
        await self._ready.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """End all workers."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
        ready = [link for link, state in self._links.items() if state == READY]
        await asyncio.gather(*(link.close() for link in ready), return_exceptions=True)
        for task in [*self._tasks]:
            task.cancel()
        keeper = [self._keeper] if self._keeper else []
        await asyncio.gather(*keeper, *self._tasks, return_exceptions=True)

    def _look_after(self, keeper: asyncio.Task[None]) -> None:
        """Tell that no worker will come any more where nobody looks after them."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._unkept = True
            self._error = NoWorkerError(raw_message=one_line(error))
            self._ready.set()
            self._crew.hopeless(self._error)

    # --- which there are -------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            nodes = await self._seen()
            self._tell_shortfall(nodes)
            for node_id in self._wanted(nodes):
                self._begin(node_id)
            self._error = self._verdict(nodes)
            if self._error is not None:
                self._ready.set()
                self._crew.hopeless(self._error)
            self._look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()

    async def _seen(self) -> tuple[NodeView, ...]:
        """Look at the nodes; a cluster that cannot be asked while workers work has its reasons."""
        try:
            return alive(await asyncio.to_thread(self._nodes))
        except Exception:
            if READY not in self._links.values():
                raise
            return ()

    def _tell_shortfall(self, nodes: tuple[NodeView, ...]) -> None:
        words = shortfall(nodes, self._plan.needs, self._plan.workers)
        if words and words != self._told_shortfall:
            _log.warning("%s", words)
            self._told_shortfall = words

    def _wanted(self, nodes: tuple[NodeView, ...]) -> list[str]:
        now = self._clock()
        usable = [n for n in nodes if n.id not in self._places or self._places[n.id].until <= now]
        held = Counter(link.node for link in self._links)
        return missing(usable, self._plan.needs, held, self._plan.workers)

    def _verdict(self, nodes: tuple[NodeView, ...]) -> OpenCodeError | None:
        """Return why no worker will come; None: there is one, or may be soon."""
        if READY in self._links.values():
            self._without_since = self._clock()
            return None
        usable = [node for node in nodes if room(node, self._plan.needs)]
        failed = [self._places[node.id] for node in usable if node.id in self._places]
        refusals = [place.refusal for place in failed if place.refusal is not None]
        final = [error for error in refusals if not isinstance(error, TransientError)]
        if final and len(final) == len(usable):
            return final[0]
        waited = self._clock() - self._without_since
        if waited < self._plan.patience_seconds:
            return None
        why = shortage(nodes, self._plan.needs) or (
            failed[-1].reason if failed else f"none comes up on {len(usable)} nodes: are they busy?"
        )
        return NoWorkerError(raw_message=f"no worker for {waited:.0f} s: {why}")

    # --- one worker ------------------------------------------------------------------------------

    def _begin(self, node_id: str) -> None:
        name = f"{node_id[:8]}-{uuid.uuid4().hex[:8]}"
        link = Link(name, node_id, self._start_actor(node_id))
        self._links[link] = STARTING
        task = asyncio.get_running_loop().create_task(self._see_to(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_actor(self, node_id: str) -> Any:
        placing = NodeAffinitySchedulingStrategy(node_id, soft=False)
        kind: Any = PromptWorker
        actor = kind.options(
            num_cpus=self._plan.num_cpus,
            memory=self._plan.memory,
            resources=dict(self._plan.resources) or None,
            max_restarts=0,  # a lost one is replaced here, under another name
            scheduling_strategy=placing,
        )
        return actor.remote(self._parcel, self._setup, self._plan.concurrency)

    async def _see_to(self, link: Link) -> None:
        """Carry a worker from its start to its end."""
        was_ready = False
        try:
            health = await link.begin(*self._crew.begin_arguments(link.name))
            was_ready = True
            self._links[link] = READY
            self._places.pop(link.node, None)
            self._crew.joined(link, health.load)
            self._ready.set()
            await link.run(lambda report: self._crew.reported(link, report))
        except Exception as error:  # noqa: BLE001 - whatever it was: what it had must go on elsewhere
            if isinstance(error, OpenCodeError) and not was_ready:
                self._pause(link.node, error.raw_message, error)
            elif not self._closing:
                await self._lose(link, one_line(error), was_ready)
        finally:
            link.kill()
            del self._links[link]
            self._look.set()
            if self._unkept and self._error is not None:  # nobody will replace it
                self._crew.hopeless(self._error)

    async def _lose(self, link: Link, reason: str, was_ready: bool) -> None:
        link.kill()  # it may still be at work, out of our sight
        self._pause(link.node, reason)
        if was_ready:
            self._links[link] = LOST
            await self._crew.left(link, reason)

    def _pause(self, node_id: str, reason: str, refusal: OpenCodeError | None = None) -> None:
        """Leave a node alone for a while; longer each time."""
        last = self._places.get(node_id)
        pause = min(2 * last.pause, _LONGEST_PAUSE_SECONDS) if last else _FIRST_PAUSE_SECONDS
        self._places[node_id] = _Place(self._clock() + pause, pause, reason, refusal)
