"""A prompt's task, on the worker that runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from chutes_opencode import background
from chutes_opencode.distributed.drain import DRAIN_SECONDS, Drain, on_sigterm, overtime
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup.parcel import Parcel, placed
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, enter
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.events import Event, PromptCancelled
from chutes_opencode.results import QueryResult

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM

NEVER = (1 << 31) - 1
"""After so many tasks Ray ends a worker, in good order; see `_TaskWorker.leave_after_this`."""


class _TaskWorker:
    """This process, as one that runs prompts, each as a task of its main thread."""

    def __init__(self) -> None:
        """Have SIGTERM drain it."""
        self.drain = Drain()
        self.drain_seconds = DRAIN_SECONDS
        self._task: str | None = None
        on_sigterm(self._is_at_ours, self._end)

    def take(self, drain_seconds: float) -> None:
        """Begin a task."""
        self.drain_seconds = drain_seconds
        self._task = ray.get_runtime_context().get_task_id()

    def leave_after_this(self) -> None:
        """Have Ray end this worker when it has delivered what this task comes to.

        To end it ourselves would lose either that or the next task, which is on its way already:
        Ray's own way to end a worker is to count its tasks.
        """
        manager: Any = ray._private.worker.global_worker.function_actor_manager
        manager.get_task_counter = lambda *_function: NEVER

    def _end(self) -> None:
        self.leave_after_this()
        self.drain.begin(self.drain_seconds)

    def _is_at_ours(self) -> bool:
        """Whether the task that runs is a prompt's: until Ray has its result, there is one."""
        return self._task is not None and self._task == ray.get_runtime_context().get_task_id()


_workers: dict[int, _TaskWorker] = {}


def carry_out(
    setup: WorkerSetup, parcel: Parcel, packed: bytes, drain_seconds: float
) -> QueryResult:
    """Run a prompt.

    Args:
        setup: What the driver says.
        parcel: The instance.
        packed: The prompt's arguments.
        drain_seconds: How long it may go on after a SIGTERM.

    Raises:
        OpenCodeError: As `ChutesOpenCodeLLM.prompt`.
        WorkerLostError: The worker was told to end, and the prompt was refused or ended.
    """
    pid = os.getpid()
    worker = _workers[pid] = _workers.get(pid) or _TaskWorker()
    worker.take(drain_seconds)
    try:
        enter(setup)
        llm = parcel.open(setup)
        return _prompt(llm, ray.cloudpickle.loads(packed), worker)
    except OpenCodeError as error:
        raise placed(error) from error.__cause__


def _prompt(
    llm: ChutesOpenCodeLLM, arguments: Mapping[str, Any], worker: _TaskWorker
) -> QueryResult:
    paid: list[QueryResult] = []
    jobs: list[background.Job[QueryResult]] = []

    def observe(event: Event) -> None:
        if isinstance(event, PromptCancelled):
            paid.append(event.result)

    def end() -> None:
        for job in jobs:
            job.cancel()

    with worker.drain.admit(end) as place:
        jobs.append(background.Job(llm._ask(arguments, observe)))
        try:
            return jobs[0].result()
        except CancelledError:
            if not place.ended:
                raise
            raise overtime(paid[-1] if paid else None, worker.drain_seconds) from None
