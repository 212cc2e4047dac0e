"""A batch whose workers store answers in shards of the run: the same run, told by its shards."""

from __future__ import annotations

import asyncio
import errno
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch import durable
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import (
    RunStart,
)
from chutes_opencode.batch.running.progress import Snapshot, sent_in_vain
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.running.status import read_status, write_status
from chutes_opencode.batch.running.stop import GO, StopSwitch
from chutes_opencode.batch.running.summary import BatchSummary, BrokenRunError
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.shard_files import CLOSED, shard_names
from chutes_opencode.errors import BillingError, ConfigurationError, InvalidRequestError
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import COST_USD, Actor, answer, failure
from tests.unit.batch.shard_room import Workers, ids, write_shard
from tests.unit.batch.store_room import names

Run = Callable[..., BatchSummary]


def items(count: int, **changed: str) -> list[dict[str, Any]]:
    return [{"id": str(n), "prompt": changed.get(f"item{n}", f"prompt {n}")} for n in range(count)]


def said(task: Task) -> QueryResult:
    return answer(task.item.prompt)


def failing(**errors: Any) -> Callable[[Task], QueryResult]:
    def act(task: Task) -> QueryResult:
        error = errors.get(f"item{task.item.id}")
        return said(task) if error is None else failure(error, paid=True)

    return act


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(out: Path) -> Run:
    def run(given: Any, executor: Any, **arguments: Any) -> BatchSummary:
        return run_batch(given, None, out, executor=executor, **arguments)

    return run


def counts(summary: BatchSummary) -> tuple[int, ...]:
    assert summary.total == summary.done + summary.failed + summary.skipped + summary.left
    return summary.done, summary.failed, summary.skipped, summary.left


def test_answers_stand_in_shards_and_failures_in_the_root(run: Run, out: Path) -> None:
    seen: list[Snapshot] = []
    workers = Workers(failing(item3=InvalidRequestError(raw_message="no")))

    summary = run(items(20), workers, on_progress=seen.append)

    assert counts(summary) == (19, 1, 0, 0)
    assert summary.cost_usd == pytest.approx(20 * COST_USD)
    assert summary.usage.num_requests == 20
    assert (summary.resent, summary.place) == (0, str(out))
    assert names(out / "results.jsonl") == ["3"]
    found = {record.id: record.result for record in RunFolder(out).records()}
    assert found == {str(n): "" if n == 3 else f"prompt {n}" for n in range(20)}
    assert len(shard_names(out)) == 2
    assert (seen[-1].workers, seen[-1].resent, seen[-1].done) == (2, 0, 19)
    assert not workers.closed, "it is the caller's to close"


def test_the_executor_is_told_of_the_run_before_its_first_task(run: Run, out: Path) -> None:
    workers = Workers()
    schema = {"type": "object"}

    run(
        items(3),
        workers,
        transcripts="failed",
        max_cost_usd=5.0,
        concurrency=7,
        output_schema=schema,
    )
    run(items(4), workers)

    first, second = workers.starts
    assert first == RunStart(
        place=str(out),
        run_id=RunFolder(out).manifest.run_id,
        transcripts="failed",
        max_cost_usd=5.0,
        spent_usd=0.0,
        defaults={"output_schema": schema},
        concurrency=7,
    )
    assert second.run_id == first.run_id
    assert second.spent_usd == pytest.approx(3 * COST_USD)
    assert (second.defaults, second.concurrency, second.max_cost_usd) == ({}, None, None)
    assert pickle.loads(pickle.dumps(first)) == first


def test_workers_are_told_a_place_that_holds_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workers = Workers()

    summary = run_batch(items(1), None, "out", executor=workers)

    assert [start.place for start in workers.starts] == [str(tmp_path / "out")]
    assert (summary.out_dir, summary.place) == (Path("out"), "out")


def test_a_resume_asks_nothing_that_stands_in_a_shard(run: Run, out: Path) -> None:
    run(items(5), Workers())
    workers = Workers()

    assert counts(run(items(7), workers)) == (2, 0, 5, 0)
    assert sorted(workers.ran) == ["5", "6"]
    assert len(ids(RunFolder(out).records())) == 7


def test_a_resume_on_one_machine_goes_on_with_shards_and_the_other_way_round(
    run: Run, out: Path
) -> None:
    run(items(3), Workers())
    assert counts(run(items(5), Actor(said))) == (2, 0, 3, 0)
    assert counts(run(items(7), Workers())) == (2, 0, 5, 0)

    assert sorted(ids(RunFolder(out).records())) == [str(n) for n in range(7)]


def test_changed_items_are_asked_again_while_workers_write(run: Run, out: Path) -> None:
    run(items(5), Workers())
    workers = Workers()

    summary = run(items(7, item2="another prompt", item4="new"), workers)

    assert counts(summary) == (4, 0, 3, 0)
    assert sorted(workers.ran) == ["2", "4", "5", "6"]
    found = {record.id: record.result for record in RunFolder(out).records()}
    assert found == {str(n): f"prompt {n}" for n in range(7)} | {"2": "another prompt", "4": "new"}
    assert sorted(ids(RunFolder(out).attempts())) == ["2", "4"]
    assert summary.cost_usd == pytest.approx(9 * COST_USD)


def test_failures_are_tried_again(run: Run, out: Path) -> None:
    run(items(3), Workers(failing(item1=InvalidRequestError(raw_message="no"))))
    workers = Workers()

    assert counts(run(items(3), workers, retry_failed=True)) == (1, 0, 2, 0)
    assert workers.ran == ["1"]
    assert sorted(ids(RunFolder(out).records())) == ["0", "1", "2"]


def test_a_lost_workers_prompts_run_elsewhere_and_are_counted(run: Run, out: Path) -> None:
    asked: list[str] = []

    async def act(task: Task) -> QueryResult:
        asked.append(task.item.id)
        if task.item.id == "5" and asked.count("5") == 1:
            await workers.lose(0)
        return said(task)

    workers = Workers(act, workers=1)

    summary = run(items(12), workers)

    assert counts(summary) == (12, 0, 0, 0)
    assert summary.resent == workers.resent >= 1
    assert sorted(ids(RunFolder(out).records()), key=int) == [str(n) for n in range(12)]
    status = read_status(out)
    assert status is not None
    assert (status.snapshot.resent, status.snapshot.workers) == (summary.resent, 1)


def test_second_results_are_moved_away_when_the_run_ends(run: Run, out: Path) -> None:
    async def act(task: Task) -> QueryResult:
        if task.item.id == "3":  # a writer that was given up for lost had the first answer, too
            first = replace(next(RunFolder(out).records()), started_at=9.0)
            await asyncio.to_thread(write_shard, out, "late", first)
        return said(task)

    summary = run(items(6), Workers(act, workers=1, places=1))

    assert counts(summary) == (6, 0, 0, 0)
    found = ids(RunFolder(out).attempts())
    assert len(found) == 1
    assert summary.cost_usd == pytest.approx(7 * COST_USD)
    assert sum(len(names(path)) for path in out.glob("shards/*/*.jsonl")) == 6
    assert all((out / "shards" / name / CLOSED).exists() for name in shard_names(out))


def test_a_second_result_that_is_told_costs_and_counts_no_task(run: Run, out: Path) -> None:
    def act(task: Task) -> QueryResult:
        return said(task)

    class Twice(Workers):
        async def run(self, task: Task) -> Any:
            finished = await super().run(task)
            if task.item.id == "1":
                self.first = finished
            return self.first if task.item.id == "2" else finished

    workers = Twice(act, workers=1, places=1)

    summary = run(items(4), workers)

    assert counts(summary) == (3, 0, 0, 1)
    assert summary.cost_usd == pytest.approx(4 * COST_USD), "what is on the disk counts"


def test_an_interrupt_finishes_what_runs(run: Run, out: Path) -> None:
    stop = StopSwitch()

    def act(task: Task) -> QueryResult:
        if stop.level == GO:
            stop.press()
        return said(task)

    summary = run(items(50), Workers(act), stop=stop)

    assert summary.stopped_by == "interrupt"
    assert summary.done == len(ids(RunFolder(out).records())) == 50 - summary.left
    assert all((out / "shards" / name / CLOSED).exists() for name in shard_names(out))


def test_an_account_error_stops_it(run: Run) -> None:
    summary = run(items(50), Workers(failing(item0=BillingError(raw_message="no money"))))

    assert summary.stopped_by == "billing"
    assert summary.left


def test_an_executor_that_cannot_begin_ends_the_batch(run: Run, out: Path) -> None:
    class NoNodes(Workers):
        async def begin(self, start: RunStart) -> None:
            raise ConfigurationError(raw_message="the cluster has no nodes")

    with pytest.raises(ConfigurationError, match="no nodes"):
        run(items(3), NoNodes())

    status = read_status(out)
    assert status is not None
    assert (status.snapshot.state, status.snapshot.left) == ("stopped", 3)
    assert counts(run(items(3), Workers())) == (3, 0, 0, 0)


def test_a_disk_that_fails_when_shards_are_closed_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(task: Task) -> QueryResult:
        if task.item.id == "2":
            monkeypatch.setattr(durable, "adopt_draft", refuse)
        return said(task)

    def refuse(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(BrokenRunError, match="the disk is full") as caught:
        run(items(3), Workers(act))

    assert caught.value.summary is not None
    assert counts(caught.value.summary) == (3, 0, 0, 0)


def test_a_task_that_is_cut_is_booked(run: Run, out: Path) -> None:
    stop = StopSwitch()

    async def act(task: Task) -> QueryResult:
        stop.press()
        stop.press()
        await asyncio.Event().wait()
        raise AssertionError

    summary = run(items(2), Workers(act), stop=stop)

    assert counts(summary) == (0, 0, 0, 2)
    assert summary.cost_usd == pytest.approx(len(ids(RunFolder(out).attempts())) * COST_USD)


# --- at a URL ------------------------------------------------------------------------------------


def test_a_run_at_a_url_is_a_run(memory_url: str) -> None:
    def run(count: int, executor: Any, **changed: str) -> BatchSummary:
        return run_batch(items(count, **changed), None, memory_url, executor=executor)

    first = run(5, Workers(failing(item3=InvalidRequestError(raw_message="no"))))
    assert (counts(first), first.place) == ((4, 1, 0, 0), memory_url)
    second = run(7, Workers(), item1="another")
    assert counts(second) == (3, 1, 3, 0)
    third = run_batch(items(8), None, memory_url, executor=Actor(said), retry_failed=True)
    assert counts(third) == (3, 0, 5, 0)

    folder = RunFolder.at(memory_url)
    assert {record.id: record.result for record in folder.records()} == {
        str(n): f"prompt {n}" for n in range(8)
    }
    assert sorted(ids(folder.attempts())) == ["1", "1", "3"]
    assert third.cost_usd == pytest.approx(11 * COST_USD) == folder.totals().cost_usd
    assert folder.manifest.finished_at is not None
    status = read_status(folder.path)
    assert status is not None
    assert status.snapshot.state == "finished"
    assert RunFolder(third.out_dir).manifest == folder.manifest, "the driver's copy is whole"


def test_a_batch_at_a_url_that_is_interrupted_while_items_are_checked(memory_url: str) -> None:
    stop = StopSwitch()
    stop.press()

    summary = run_batch(
        items(3), None, memory_url, executor=Workers(), stop=stop, prompt_column="prompt"
    )

    assert (summary.stopped_by, summary.place) == ("interrupt", memory_url)


# --- what was sent again -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "count"),
    [
        (None, 0),
        (Snapshot(state="running", in_flight=5, resent=2), 7),
        (Snapshot(state="stopping", in_flight=1), 1),
        (Snapshot(state="stopped", in_flight=0, resent=3), 3),
        (Snapshot(state="finished", resent=4), 4),
    ],
)
def test_what_ran_when_a_session_was_broken_off_is_sent_again(
    last: Snapshot | None, count: int
) -> None:
    assert sent_in_vain(last) == count


def test_a_resume_counts_what_the_killed_session_had_in_flight(run: Run, out: Path) -> None:
    run(items(2), Workers())
    write_status(out, Snapshot(total=9, state="running", in_flight=5, resent=2))
    seen: list[Snapshot] = []

    summary = run(items(3), Workers(), on_progress=seen.append)

    assert summary.resent == seen[-1].resent == 7
    assert run(items(3), Workers()).resent == 7


def test_a_batch_that_is_stopped_while_its_workers_start_waits_for_none(run: Run) -> None:
    class Starting(Workers):
        async def begin(self, start: RunStart) -> None:
            switch.press()
            await asyncio.Event().wait()

    switch = StopSwitch()
    summary = run(items(3), Starting(), stop=switch)

    assert counts(summary) == (0, 0, 0, 3)
    assert summary.stopped_by == "interrupt"


def test_a_resume_with_nothing_left_starts_no_worker(run: Run) -> None:
    run(items(3), Workers())
    workers = Workers()

    summary = run(items(3), workers)

    assert counts(summary) == (0, 0, 3, 0)
    assert workers.starts == []


def test_a_changed_item_is_something_to_do(run: Run) -> None:
    run(items(3), Workers())
    workers = Workers()

    summary = run(items(3, item1="another"), workers)

    assert (counts(summary), len(workers.starts)) == ((1, 0, 2, 0), 1)
