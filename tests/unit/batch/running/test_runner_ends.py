"""What a batch was given and has begun is closed, however it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.running import runner as runner_module
from chutes_opencode.batch.running.intake import BatchOptions, Terms, open_run, run_settings
from chutes_opencode.batch.running.reporting import Reporter
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.limits import Budget
from tests import patience
from tests.unit.batch.room import COST_USD, Actor, well

ITEMS = [{"id": str(number), "prompt": "Hi."} for number in range(3)]

MakeLlm = Callable[..., ChutesOpenCodeLLM]


class OwnExecutor(Actor):
    """In the place of the batch's own executor; asks nothing of the instance."""

    made: list[OwnExecutor]

    def __init__(self, _llm: object, _limit: int, *, budget: Budget | None, **_others: Any) -> None:
        super().__init__(well)
        self.budget = budget
        self.closed = False
        self.made.append(self)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[OwnExecutor]:
    """Have batches make executors that answer by themselves; return those that were made."""
    executors: list[OwnExecutor] = []

    async def look_up(_llm: object, options: BatchOptions, _executor: object) -> Terms:
        return Terms(settings=run_settings(options))

    monkeypatch.setattr(runner_module, "look_up", look_up)
    monkeypatch.setattr(OwnExecutor, "made", executors, raising=False)
    monkeypatch.setattr(runner_module, "LlmExecutor", OwnExecutor)
    return executors


def test_the_budget_of_a_resume_has_spent_what_was_spent_before(
    made: list[OwnExecutor], make_llm: MakeLlm, tmp_path: Path
) -> None:
    for _ in range(2):
        run_batch(ITEMS, make_llm(), tmp_path / "run", max_cost_usd=0.5)

    budgets = [each.budget for each in made if each.budget is not None]
    assert [budget.spent for budget in budgets] == [0, len(ITEMS) * COST_USD]


def test_its_executor_is_closed_though_the_end_cannot_be_told(
    made: list[OwnExecutor], make_llm: MakeLlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("told nobody")

    monkeypatch.setattr(Reporter, "last", fail)

    with pytest.raises(RuntimeError, match="told nobody"):
        run_batch(ITEMS, make_llm(), tmp_path / "run")

    assert [each.closed for each in made] == [True]


def test_a_run_is_closed_though_its_opening_was_cancelled_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    opened: list[RunStore] = []

    def slow(*arguments: Any) -> Any:
        reached.set()
        assert go_on.wait(patience.WAIT_SECONDS)
        source, folder, options, terms, _check = arguments
        run = open_run(source, folder, options, terms, lambda _rows: None)
        opened.append(run.store)
        return run

    def is_free() -> bool:
        if not opened:
            return False
        try:
            RunStore.open(tmp_path / "run").close()
        except StoreError:
            return False
        return True

    async def main() -> None:
        batch = runner_module._run(ITEMS, None, tmp_path / "run", {"executor": Actor(well)})
        task = asyncio.create_task(batch)
        await asyncio.to_thread(reached.wait, patience.WAIT_SECONDS)
        task.cancel()
        await asyncio.sleep(0)  # now it waits for the thread
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(patience.wait_until, is_free)

    monkeypatch.setattr(runner_module, "open_run", slow)
    asyncio.run(main())
