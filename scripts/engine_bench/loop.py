"""Clients that ask one prompt after the other, in a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from chutes_opencode import Catalog
from scripts.engine_bench.figures import Round
from scripts.engine_bench.upstream import FAST
from scripts.engine_bench.ways import WAYS, Ask, Place, Question, settings_of
from scripts.engine_bench.worker import receive

PROMPT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts to send.

    Attributes:
        prompts: How many.
        concurrency: How many at once.
        model: FAST or SLOW.
        tools: Whether the agent has opencode's own tools.
        first: Number of the first one.
        refreshes: How often the list of models is fetched anew meanwhile, by our engines.
    """

    prompts: int
    concurrency: int = 1
    model: str = FAST
    tools: bool = False
    first: int = 0
    refreshes: int = 0

    def questions(self) -> Iterator[Question]:
        """Yield them all."""
        for number in range(self.first, self.first + self.prompts):
            yield Question(number, self.model, self.tools)


def run_way(connection: Connection, name: str, place: Place) -> None:
    """Be the worker of a way."""
    asyncio.run(_serve(connection, name, place))


async def _serve(connection: Connection, name: str, place: Place) -> None:
    async with WAYS[name](place) as ask:
        connection.send(name)
        while (task := await asyncio.to_thread(receive, connection)) is not None:
            connection.send(await carry_out(ask, task, lambda: _refresh(place)))


async def _refresh(place: Place) -> None:
    """Fetch the list of models, which our engines of this process share."""
    await asyncio.to_thread(Catalog(settings=settings_of(place)).refresh)


async def carry_out(ask: Ask, task: Task, refresh: Callable[[], Awaitable[None]]) -> Round:
    """Send a task's prompts and return what was seen, in the order in which they began."""
    due = {task.prompts * (n + 1) // (task.refreshes + 1) for n in range(task.refreshes)}
    latencies = [0.0] * task.prompts
    errors: list[str] = []
    questions = enumerate(task.questions())

    async def client() -> None:
        for position, question in questions:
            if position in due:
                await refresh()
            began = time.perf_counter()
            if error := await _flaw(ask, question):
                errors.append(error)
            latencies[position] = time.perf_counter() - began

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(task.concurrency)))
    seconds = time.perf_counter() - began
    return Round(task.concurrency, seconds, tuple(latencies), errors=tuple(errors))


async def _flaw(ask: Ask, question: Question) -> str | None:
    """Ask once; return what is wrong with the answer."""
    try:
        async with asyncio.timeout(PROMPT_SECONDS):
            answer = await ask(question)
    except Exception as error:  # noqa: BLE001 - whatever it is, this prompt has no answer
        return f"{question.number}: {type(error).__name__}: {error}"
    if answer.strip() != question.answer:
        return f"{question.number}: wrong answer {answer[:200]!r}"
    return None
