"""What runs the tasks of a batch: each as one prompt of an instance."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from chutes_opencode import background
from chutes_opencode.arguments import PromptArguments
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batching import failed_result
from chutes_opencode.errors import ConfigurationError, OpenCodeError
from chutes_opencode.events import Done, Event, PromptCancelled, PromptFailed, RequestStarted
from chutes_opencode.limits import Budget
from chutes_opencode.relay.limiter import LimiterStats
from chutes_opencode.relay.resources import account_name
from chutes_opencode.request import Params
from chutes_opencode.results import QueryResult

if TYPE_CHECKING:
    from chutes_opencode.batch.repositories.worktrees import Worktrees
    from chutes_opencode.llm import ChutesOpenCodeLLM

# What a limiter starts from; none is there before the first request.
FIRST_LIMIT = 16
# For so long the account's name is not looked up again: the key may have to be read from a file.
ACCOUNT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What a task came to.

    Attributes:
        result: With the failure in `error`, if it failed.
        diff: What the agent changed in the item's repository; None: it has none.
        stored: Its record, if it is durable in a shard of the run already; only an answer may be.
            What it says in words may be left out: it is counted, and not written again.
    """

    result: QueryResult
    diff: str | None = None
    stored: Record | None = None


class CutError(Exception):
    """A task was cancelled, and has ended.

    Attributes:
        finished: What it had come to and cost by then; no success, and maybe no error.
    """

    def __init__(self, finished: Finished) -> None:
        """Hold what there is."""
        super().__init__("the task was cancelled")
        self.finished = finished


class Executor(Protocol):
    """Runs tasks, some at once."""

    async def run(self, task: Task) -> Finished:
        """Run one task to its end.

        Cancelled once, it ends the prompt and raises `CutError` with what was paid for by then
        (a second time while it does so: CancelledError at once). Where the task had ended well
        just before, it returns as if nothing had been.

        Returns:
            What it came to; a typed failure is in `result.error`, never raised.

        Raises:
            CutError: It was cancelled.
            Exception: A fault of ours.
        """

    def places(self) -> int:
        """Tell how many tasks at once are sensible now; at least 1."""

    def waiting(self) -> str:
        """Tell people what the running tasks wait for; "": nothing but answers."""

    async def close(self) -> None:
        """End what still runs."""


STARTING, READY, DRAINING, LOST = "starting", "ready", "draining", "lost"


@dataclass(frozen=True, slots=True)
class RunStart:
    """The run that an executor with workers of its own is to work for. Picklable, no secret in it.

    Attributes:
        place: The run's folder or URL, for `ShardWriter.open`.
        run_id: Names the run among others.
        transcripts: Of which tasks a transcript is kept: "all", "failed" or "none".
        max_cost_usd: US dollars for the whole run; None: no limit.
        spent_usd: What earlier sessions of the run have cost.
        defaults: Arguments of every prompt; an item's own go over them.
        concurrency: Prompts at once at most, as the caller gave it; None: as is usual.
    """

    place: str
    run_id: str
    transcripts: str = "all"
    max_cost_usd: float | None = None
    spent_usd: float = 0.0
    defaults: PromptArguments = field(default_factory=PromptArguments)
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker of an executor, as it is seen.

    Attributes:
        name: Tells it from the others.
        node: The machine that it works on.
        in_flight: Tasks that it runs now.
        done: Tasks that it has finished for this run.
        state: "starting", "ready", "draining" (it takes no task any more) or "lost".
    """

    name: str
    node: str
    in_flight: int = 0
    done: int = 0
    state: str = READY


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """How an executor's workers do.

    Attributes:
        workers: All that there are, and those that were lost if it still knows them.
        resent: Tasks of this run that were sent to another worker, because theirs was lost.
    """

    workers: tuple[WorkerView, ...] = ()
    resent: int = 0

    @property
    def working(self) -> int:
        """How many workers there are, the lost ones left out."""
        return sum(worker.state != LOST for worker in self.workers)


@runtime_checkable
class RunExecutor(Executor, Protocol):
    """An executor whose workers write answers into shards of the run themselves.

    It writes into shards of fresh names only: those of earlier sessions are closed when a run is
    opened, and those of this one when it ends.
    """

    async def begin(self, start: RunStart) -> None:
        """Get ready for a run; called once for each, before its first task, if there is one.

        Raises:
            OpenCodeError: It cannot work for this run; nothing was spent.
        """

    def stats(self) -> ExecutorStats:
        """Tell how the workers do; quick, asked twice a second."""
        ...

    def opencode_version(self) -> str:
        """Return the version of opencode that the workers use; "": none, or not known yet.

        Asked before `begin`.
        """
        ...


def stats_of(executor: Executor) -> ExecutorStats:
    """Return how an executor's workers do; nothing, if it has none of its own."""
    return executor.stats() if isinstance(executor, RunExecutor) else ExecutorStats()


@dataclass(slots=True, eq=False)
class _Running:
    """A task under way.

    Attributes:
        asked: Whether the model was asked yet.
        result: What the prompt has come to; None: it has not ended.
        ended: Whether it has ended by itself.
    """

    asked: bool = False
    result: QueryResult | None = None
    ended: bool = False

    def observe(self, event: Event) -> None:
        """Take an event of the prompt."""
        if isinstance(event, RequestStarted):
            self.asked = True
        elif isinstance(event, Done):
            self.result, self.ended = event.result, True
        elif isinstance(event, PromptCancelled):
            self.result = event.result
        elif isinstance(event, PromptFailed):
            self.result, self.ended = event.error.result or failed_result(event.error), True


@dataclass(slots=True, eq=False)
class LlmExecutor:
    """Runs tasks with a `ChutesOpenCodeLLM`, which stays its owner's to close.

    Attributes:
        llm: The instance.
        concurrency: Never more tasks at once.
        budget: Dollars that all its prompts share; None: no limit.
        defaults: Arguments of every prompt; an item's own go over them.
        worktrees: Makes the folders of items with a repository; None: there are none.
    """

    llm: ChutesOpenCodeLLM
    concurrency: int
    budget: Budget | None = None
    defaults: PromptArguments = field(default_factory=PromptArguments)
    worktrees: Worktrees | None = None
    _running: dict[asyncio.Task[Finished], _Running] = field(default_factory=dict)
    _limit: int = FIRST_LIMIT  # the account's, when it was last looked at
    _account: str = ""
    _looked_at: float = -math.inf

    async def run(self, task: Task) -> Finished:
        """Run one task to its end; see `Executor.run`."""
        state = _Running()
        work = asyncio.create_task(self._work(task, state))
        self._running[work] = state
        work.add_done_callback(self._running.pop)  # not sooner: `close` waits for its end
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Ended by `close`, or told to end now.
            _end(work)
            await asyncio.wait([work])
            if not work.cancelled():
                return work.result()
            result = state.result or _nothing()
            if state.ended and task.item.repo is None:
                return Finished(result)
            raise CutError(Finished(replace(result, success=False))) from None

    def places(self) -> int:
        """Tell how many tasks at once are sensible now.

        As many as the account lets through, and a quarter more, so that its limiter always has
        something to learn from; and as many more as there are permits that agents leave unused
        while their tools run.
        """
        if not self.llm.options.relay:
            return self.concurrency
        stats = self._limiter()
        limit = self._limit
        places = limit + math.ceil(limit / 4)
        if stats is not None and stats.paused_until is None:
            unasked = sum(not state.asked for state in self._states())
            unused = limit - stats.in_flight - stats.waiting - unasked
            places = max(places, len(self._running) + unused)
        return max(1, min(places, self.concurrency))

    def waiting(self) -> str:
        """Tell people what the running tasks wait for; "": nothing but answers."""
        stats, texts = self._limiter(), []
        if stats is not None and stats.paused_until is not None:
            left = stats.paused_until - time.monotonic()
            until = datetime.fromtimestamp(time.time() + max(left, 0.0))
            texts.append(f"rate limit until {until:%H:%M:%S}" if left > 0 else "rate limit")
        if self.budget is not None and self.budget.waiting:
            texts.append("the budget: until requests under way have told their cost")
        return ", ".join(texts)

    async def close(self) -> None:
        """End what still runs."""
        running = tuple(self._running)
        for work in running:
            _end(work)
        if running:
            await asyncio.wait(running)

    async def _work(self, task: Task, state: _Running) -> Finished:
        try:
            async with AsyncExitStack() as stack:
                arguments = self.arguments(task)
                if task.item.repo is None:
                    return Finished(await self._ask(arguments, state))
                if self.worktrees is None:
                    raise ConfigurationError(raw_message="this batch has no place for repositories")
                place = self.worktrees.checkout(task.item.repo, task.item.commit)
                tree = await stack.enter_async_context(place)
                result = await self._ask(arguments | {"work_dir": tree.path}, state)
                try:
                    return Finished(result, await tree.diff())
                except OpenCodeError as error:  # what was paid for is not lost with its diff
                    return Finished(replace(result, success=False, error=error))
        except OpenCodeError as error:
            return Finished(failed_result(error))

    async def _ask(self, arguments: Mapping[str, Any], state: _Running) -> QueryResult:
        # On the loop of all instances, whichever loop the batch runs on.
        try:
            return await background.Job(
                self.llm._ask(arguments, state.observe, single=False)
            ).join()
        except OpenCodeError as error:
            return error.result or failed_result(error)

    def arguments(self, task: Task) -> dict[str, Any]:
        """Return the arguments of a task's prompt: the item's over the batch's."""
        item = task.item
        own = {
            "model": task.model or item.model,
            "messages": item.messages,
            "files": item.files or None,
            "work_dir": item.work_dir,
            "output_schema": item.output_schema,
            "params": self._params(item),
            "budget": self.budget,
        }
        given = {name: value for name, value in own.items() if value is not None}
        if item.system is not None:
            given["system_message"] = item.system
        return {
            **self.defaults,
            **given,
            "prompt": item.prompt,
            "sample_index": task.sample,
        }

    def _params(self, item: BatchItem) -> Params | None:
        if not item.params:
            return None
        base = self.defaults.get("params") or self.llm.options.params
        return base.updated(item.params)

    def _limiter(self) -> LimiterStats | None:
        """Return what is known of the account; None: nothing is asked of it now.

        To look starts a relay where there is none; where something was asked, there is one.
        """
        if not self.llm.options.relay or not any(each.asked for each in self._states()):
            return None
        limiters, now = self.llm.relay_stats().limiters, time.monotonic()
        if self._account not in limiters or now >= self._looked_at + ACCOUNT_SECONDS:
            self._looked_at = now
            name = self._account_name()
            # A key that was just changed is not known there yet: the last one's limit holds on.
            self._account = name if name in limiters else self._account
        stats = limiters.get(self._account)
        self._limit = self._limit if stats is None else stats.limit
        return stats

    def _account_name(self) -> str:
        settings = self.llm.settings
        try:
            return account_name(settings.base_url, settings.with_fresh_token().key_or_none())
        except OpenCodeError:
            return self._account

    def _states(self) -> tuple[_Running, ...]:
        return tuple(self._running.values())


def _end(work: asyncio.Task[Finished]) -> None:
    """Cancel a task, once: told again, it would not wait for what it is ending."""
    if not work.cancelling():
        work.cancel()


def _nothing() -> QueryResult:
    return QueryResult(result="", returncode=-1, stderr="", stream_result="")
