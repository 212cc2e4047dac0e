"""What the scheduler asks of an executor that has workers of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator, background, load_settings
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import (
    Executor,
    ExecutorStats,
    RunExecutor,
    RunStart,
    WorkerView,
    stats_of,
)
from chutes_opencode.batch.running.intake import BatchOptions, look_up
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import Actor, answer, until
from tests.unit.batch.shard_room import Workers


def said(task: Task) -> QueryResult:
    return answer(task.item.prompt)


def test_which_executors_have_workers_of_their_own() -> None:
    workers: Executor = Workers()
    actor: Executor = Actor(said)

    assert isinstance(workers, RunExecutor)
    assert not isinstance(actor, RunExecutor)
    assert stats_of(actor) == ExecutorStats()
    views = tuple(WorkerView(state, "n", state=state) for state in ("ready", "lost", "draining"))
    assert ExecutorStats(views).working == 2


def test_the_workers_opencode_is_the_runs(tmp_path: Path) -> None:
    """None is looked for on the driver's machine."""
    with Simulator({"models": [{"id": "acme/free", "context_length": 1000}]}) as simulator:
        settings = load_settings(
            base_url=simulator.base_url,
            management_url=simulator.management_url,
            api_token=simulator.api_token,
            home=tmp_path / "home",
            opencode_bin=tmp_path / "none",
        )
        with ChutesOpenCodeLLM("acme/free", settings=settings, builtin_tools=False) as llm:
            terms = background.Job(look_up(llm, BatchOptions(), Workers())).result()
            with pytest.raises(ConfigurationError):
                background.Job(look_up(llm, BatchOptions())).result()

    assert terms.opencode_version == "1.2.3"


def test_a_worker_is_lost_while_nothing_waits(tmp_path: Path) -> None:
    """The stand-in of these tests loses a worker as a cluster does."""

    async def work() -> None:
        workers = Workers(workers=1)
        await workers.begin(RunStart(str(tmp_path / "run"), "run"))
        await workers.lose(0)
        await until(lambda: workers.stats().working == 1)
        assert [view.state for view in workers.stats().workers] == ["lost", "ready"]
        await workers.close()

    asyncio.run(work())
