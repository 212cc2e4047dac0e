"""A cluster without Ray: budgets of workers, the books, and the messages between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.distributed.budget.share_budget import ShareBudget
from chutes_opencode.distributed.budget.shares import Report, Shares
from chutes_opencode.errors import LimitExceededError
from chutes_opencode.limits import Reservation

NAME = "max_cost_usd of the batch"


@dataclass(eq=False)
class Worker:
    """A worker, the requests that run in it and those that wait."""

    budget: ShareBudget
    node: str
    open: list[Reservation] = field(default_factory=list)
    waiting: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    refused: list[LimitExceededError] = field(default_factory=list)

    def ask(self, usd: float) -> None:
        """Begin a request, or have it wait; in the order of `limits.reserve`."""
        self.waiting.append((usd, self.budget.add_waiter(lambda: None, usd)))
        self.go_on()

    def go_on(self) -> None:
        """Let those that wait try again."""
        still = []
        for usd, remove in self.waiting:
            try:
                held = self.budget.try_reserve(usd)
            except LimitExceededError as error:
                self.refused.append(error)
                remove()
                continue
            if held is None:
                still.append((usd, remove))
            else:
                self.open.append(held)
                remove()
        self.waiting = still

    def settle(self, index: int, part: float, at_most: float = 0.0) -> None:
        """End a request that has cost a part of what it might have."""
        held = self.open.pop(index % len(self.open))
        self.budget.settle(held, held.usd * part, held.usd * at_most)

    @property
    def exposure(self) -> float:
        """Dollars that it has spent, or may yet spend or have spent on what it has sent."""
        return self.budget.spent + self.budget.doubtful + self.budget.reserved


class Cluster:
    """Workers and their books; messages go only when told to."""

    def __init__(self, max_cost_usd: float, spent_usd: float = 0.0, *, workers: int = 0) -> None:
        self.max_cost_usd = max_cost_usd
        self.spent_usd = spent_usd
        self.now = 0.0
        self.stored: dict[str, Report] = {}
        self.shares = Shares(max_cost_usd, spent_usd)
        self.living: list[Worker] = []
        self.dead: list[Worker] = []
        self.late: list[Report] = []
        for number in range(workers):
            self.join(f"w{number}")

    def join(self, node: str) -> Worker:
        worker = Worker(ShareBudget(NAME, self.max_cost_usd, node), node)
        self.living.append(worker)
        return worker

    def sync(self, worker: Worker, *, lost: str = "", **how: Any) -> None:
        """Send a report and bring the answer; `lost`: the "report" or the "answer" is."""
        report = worker.budget.report(**how)
        if lost == "report":
            self.late.append(report)
            return
        answer = self.shares.report(report, self.now)
        self.stored[report.holder] = self.shares.kept(report.holder)
        if lost != "answer":
            worker.budget.take(answer)
            worker.go_on()

    def kill(self, worker: Worker) -> None:
        self.living.remove(worker)
        self.dead.append(worker)

    def restart_books(self) -> None:
        kept = self.stored.values()
        self.shares = Shares(self.max_cost_usd, self.spent_usd, kept=kept, now=self.now)

    def settle_down(self) -> None:
        """Bring every message that is due, and no other, until nobody has anything to say.

        Each request that got its dollars ends right away, for half of them. Nothing is given back
        for being idle: who is short is to be helped at once.
        """
        for _ in range(200):
            if not self.deliver():
                return
            for worker in self.living:
                while worker.open:
                    worker.settle(0, 0.5)
                worker.go_on()
        raise AssertionError("they never cease to talk")

    def deliver(self) -> int:
        """Have everybody report once who is due; return how many did."""
        due = [worker for worker in self.living if self._is_due(worker)]
        for worker in due:
            self.sync(worker)
        return len(due)

    def _is_due(self, worker: Worker) -> bool:
        budget = worker.budget
        told = (budget._told.spent, budget._told.doubtful)
        spends = told != (budget.spent, budget.doubtful)
        return budget.holder in self.shares.rung or budget.is_urgent() or spends

    @property
    def exposure(self) -> float:
        return self.spent_usd + sum(each.exposure for each in (*self.living, *self.dead))
