"""The simulator and a worker for each way, each in a process of its own, all running at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from scripts.engine_bench.figures import Key, Round
from scripts.engine_bench.loop import PROMPT_SECONDS, Task, run_way
from scripts.engine_bench.trees import measured, own_cpu_seconds
from scripts.engine_bench.upstream import FAST, run_simulator
from scripts.engine_bench.ways import Place
from scripts.engine_bench.worker import Worker


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured in each round.

    Attributes:
        way: A name of `ways.WAYS`.
        concurrency: Prompts at once.
        prompts: How many in a round.
        tools: Whether the agent has opencode's own tools.
    """

    way: str
    concurrency: int
    prompts: int
    tools: bool = False

    @property
    def key(self) -> Key:
        """Its place in the report; run and the seed's way always have tools."""
        named = self.tools and self.way in ("raw", "serve")
        return (f"{self.way} tools" if named else self.way), self.concurrency

    def task(self, first: int) -> Task:
        """Return its prompts, numbered from `first` on."""
        return Task(self.prompts, self.concurrency, tools=self.tools, first=first)


class Stage:
    """Starts what is asked for, when it is first asked for; ends it all at the end."""

    def __init__(self, binary: Path, folder: Path) -> None:
        """Start the simulator; ways get folders below `folder`."""
        self._binary, self._folder = binary, folder
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}
        self._numbers = itertools.count()
        self.simulator = self._stack.enter_context(Worker(run_simulator))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """End every process."""
        self._stack.close()

    def worker(self, way: str) -> Worker:
        """Return a way's worker."""
        if way not in self._workers:
            folder = self._folder / way
            folder.mkdir()
            place = Place(self.simulator.greeting, self._binary, folder)
            self._workers[way] = self._stack.enter_context(Worker(run_way, way, place))
        return self._workers[way]

    def measure(self, cell: Cell, model: str = FAST) -> Round:
        """Carry a cell's prompts out; with what the processes used meanwhile."""
        worker = self.worker(cell.way)
        simulator_before = own_cpu_seconds(self.simulator.pid)
        with measured(worker.pid) as use:
            seen = self.send(cell, model)
        return replace(
            seen,
            cpu_seconds=use.cpu_seconds,
            client_cpu_seconds=use.root_cpu_seconds,
            simulator_cpu_seconds=own_cpu_seconds(self.simulator.pid) - simulator_before,
            peak_mib=use.peak_mib,
        )

    def send(self, cell: Cell, model: str = FAST, refreshes: int = 0) -> Round:
        """Carry a cell's prompts out without watching the processes.

        Args:
            cell: What to send.
            model: Whom to ask.
            refreshes: How often the list of models is fetched anew meanwhile.
        """
        first = next(self._numbers) * 1000
        task = replace(cell.task(first), model=model, refreshes=refreshes)
        waves = -(-cell.prompts // cell.concurrency)
        seen: Round = self.worker(cell.way).ask(task, (waves + 1) * PROMPT_SECONDS)
        return seen

    def in_turns(self, ways: Sequence[str], prompts: int) -> dict[str, Round]:
        """Send single prompts, one to each way and again; return a round of them for each way."""
        taken: dict[str, list[Round]] = {way: [] for way in ways}
        for number in range(prompts):
            for way in ways if number % 2 else reversed(ways):
                taken[way].append(self.send(Cell(way, 1, 1)))
        return {way: joined(rounds) for way, rounds in taken.items()}


def joined(rounds: Sequence[Round]) -> Round:
    """Return rounds that followed each other as one."""
    return Round(
        rounds[0].concurrency,
        sum(each.seconds for each in rounds),
        tuple(seconds for each in rounds for seconds in each.latencies),
        errors=tuple(error for each in rounds for error in each.errors),
    )
