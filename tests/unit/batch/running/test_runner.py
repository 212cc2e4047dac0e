"""run_batch with its real store and dataset, and an executor that does as it is told."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch import durable
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.items.dataset import BadItemsError
from chutes_opencode.batch.running import runner as runner_module
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.runner import (
    BatchArguments,
    arun_batch,
    batch_options,
    run_batch,
)
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.batch.running.stop import StopSwitch
from chutes_opencode.batch.running.summary import BatchSummary, BrokenRunError
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    OpenCodeError,
    ServerError,
)
from chutes_opencode.results import QueryResult
from tests import patience
from tests.unit.batch.room import COST_USD, Actor, answer, failure

Run = Callable[..., BatchSummary]


def items(count: int, **changed: str) -> list[dict[str, Any]]:
    return [{"id": str(n), "prompt": changed.get(f"item{n}", f"prompt {n}")} for n in range(count)]


def said(task: Task) -> QueryResult:
    return answer(f"{task.model}{task.item.prompt}")


def failing(**errors: OpenCodeError) -> Callable[[Task], QueryResult]:
    def act(task: Task) -> QueryResult:
        error = errors.get(f"item{task.item.id}")
        return said(task) if error is None else failure(error, paid=True)

    return act


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a batch in the test's one folder."""

    def run(given: Any, act: Any = said, **arguments: Any) -> BatchSummary:
        executor = act if isinstance(act, Actor) else Actor(act)
        return run_batch(given, None, tmp_path / "run", executor=executor, **arguments)

    return run


def results(folder: Path) -> dict[str, str]:
    return {record.id: record.result for record in RunFolder(folder / "run").records()}


def counts(summary: BatchSummary) -> tuple[int, ...]:
    assert summary.total == summary.done + summary.failed + summary.skipped + summary.left
    return summary.done, summary.failed, summary.skipped, summary.left


def test_a_batch_from_beginning_to_end(run: Run, tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    error = InvalidRequestError(raw_message="no")

    summary = run(items(20), failing(item3=error), on_progress=seen.append)

    assert counts(summary) == (19, 1, 0, 0)
    assert not summary.ok
    assert summary.errors == {"InvalidRequestError": 1}
    assert summary.cost_usd == pytest.approx(20 * COST_USD)
    assert summary.usage.num_requests == 20
    assert (summary.stopped_by, summary.stop_error) == ("", None)
    assert results(tmp_path) == {str(n): "" if n == 3 else f"prompt {n}" for n in range(20)}
    status = read_status(tmp_path / "run")
    assert status is not None
    assert status.snapshot == seen[-1]
    assert (seen[-1].done, seen[-1].state) == (19, "finished")
    manifest = RunFolder(tmp_path / "run").manifest
    assert manifest.finished_at is not None
    assert manifest.dataset["items"] == 20


def test_each_item_is_asked_of_each_model_as_often_as_asked_for(run: Run, tmp_path: Path) -> None:
    summary = run(items(3), models=["a", "b", "a"], samples_per_item=2)

    assert counts(summary) == (12, 0, 0, 0)
    records = RunFolder(tmp_path / "run").records()
    assert {record.key: record.result for record in records} == {
        (str(n), model, sample): f"{model}prompt {n}"
        for n in range(3)
        for model in "ab"
        for sample in range(2)
    }


def test_the_same_call_again_asks_nothing(run: Run) -> None:
    run(items(5))
    actor = Actor(said)

    assert counts(run(items(5), actor)) == (0, 0, 5, 0)
    assert actor.ran == []


def test_more_items_and_changed_ones_are_asked_the_others_are_not(run: Run, tmp_path: Path) -> None:
    run(items(5))
    actor = Actor(said)

    summary = run(items(7, item2="another prompt"), actor)

    assert counts(summary) == (3, 0, 4, 0)
    assert sorted(actor.ran) == ["2", "5", "6"]
    assert results(tmp_path)["2"] == "another prompt"
    assert len(results(tmp_path)) == 7
    assert [record.id for record in RunFolder(tmp_path / "run").attempts()] == ["2"]
    assert summary.cost_usd == pytest.approx(8 * COST_USD), "what was void was paid for, too"


@pytest.mark.parametrize(
    ("retry_failed", "again"),
    [(False, []), (True, ["1", "3"]), (["ServerError"], ["3"]), (["TimeoutError"], [])],
)
def test_failures_are_tried_again_as_asked(
    run: Run, tmp_path: Path, retry_failed: bool | list[str], again: list[str]
) -> None:
    bad = failing(item1=InvalidRequestError(raw_message="no"), item3=ServerError(raw_message="no"))
    run(items(5), bad)
    actor = Actor(said)

    summary = run(items(5), actor, retry_failed=retry_failed)

    assert sorted(actor.ran) == again
    assert counts(summary) == (len(again), 2 - len(again), 3, 0)
    assert sum(summary.errors.values()) == 2 - len(again)
    assert len(results(tmp_path)) == 5
    assert summary.cost_usd == pytest.approx((5 + len(again)) * COST_USD)


def test_what_stops_a_batch_is_told_and_the_next_call_goes_on(run: Run) -> None:
    error = AuthenticationError(raw_message="the key is gone")

    first = run(items(50), failing(item5=error))

    assert first.stopped_by == "authentication"
    assert first.stop_error is error
    assert first.failed == 0
    assert first.left > 0
    second = run(items(50))
    assert counts(second) == (first.left, 0, first.done, 0)
    assert second.cost_usd == pytest.approx(51 * COST_USD), "the try that was cut was paid for"


@pytest.mark.parametrize("shuffle", [None, 7])
def test_a_limit_counts_items_and_can_be_lifted(run: Run, shuffle: int | None) -> None:
    assert counts(run(items(9), limit=4, shuffle=shuffle)) == (4, 0, 0, 0)
    assert counts(run(items(9), shuffle=shuffle)) == (5, 0, 4, 0)


def test_items_that_come_once_are_kept_and_another_call_may_bring_them_again(
    run: Run, tmp_path: Path
) -> None:
    def once() -> Iterator[dict[str, Any]]:
        yield from items(5)

    assert counts(run(once())) == (5, 0, 0, 0)
    assert counts(run(once())) == (0, 0, 5, 0)
    assert len(results(tmp_path)) == 5


def test_bad_items_are_told_of_before_anything_runs(run: Run, tmp_path: Path) -> None:
    actor = Actor(said)
    with pytest.raises(BadItemsError, match="1 of 3"):
        run([*items(2), {"id": "x"}], actor)
    assert actor.ran == []
    summary = run([*items(2), {"id": "x"}], actor, skip_bad=True)
    assert (counts(summary), summary.bad) == ((2, 0, 0, 0), 1)
    assert len(results(tmp_path)) == 2


def test_a_folder_that_is_worked_at_is_refused(run: Run, tmp_path: Path) -> None:
    with (
        RunStore.open(tmp_path / "run"),
        pytest.raises(StoreError, match=str(os.getpid())),
    ):
        run(items(2))


def test_a_disk_that_is_full_ends_the_batch_and_the_next_call_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all, path = durable.write_all, tmp_path / "run" / "results.jsonl"

    def full(descriptor: int, data: bytes) -> None:
        state = os.fstat(descriptor)
        if state.st_size and state.st_ino == path.stat().st_ino:  # the second write
            write_all(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("chutes_opencode.batch.store.journal.write_all", full)
        with pytest.raises(BrokenRunError, match="the disk is full") as raised:
            run(items(2000))

    summary = raised.value.summary
    assert summary is not None
    assert summary.stopped_by == "store"
    assert 0 < summary.done < 2000
    assert summary.left == 2000 - summary.done
    there = len(results(tmp_path))
    assert there >= summary.done, "lines that came through whole are kept, but did not count"
    assert counts(run(items(2000))) == (2000 - there, 0, there, 0)
    assert len(results(tmp_path)) == 2000


def test_a_switch_that_is_used_while_items_are_read_stops_before_anything_runs(
    run: Run, tmp_path: Path
) -> None:
    stop, actor = StopSwitch(), Actor(said)

    def endless() -> Iterator[dict[str, Any]]:
        for number in range(10**9):
            if number == 5000:
                stop.finish()
            yield {"prompt": f"prompt {number}"}

    summary = run(endless(), actor, stop=stop)

    assert (summary.stopped_by, summary.total, actor.ran) == ("interrupt", 0, [])
    assert counts(run(items(3))) == (3, 0, 0, 0)


def test_an_interrupted_batch_keeps_what_it_paid_for(run: Run, tmp_path: Path) -> None:
    stop = StopSwitch()

    async def never(task: Task) -> QueryResult:
        if task.item.id == "3":
            stop.now()
        await asyncio.Event().wait()
        return answer()

    summary = run(items(9), never, stop=stop)

    assert counts(summary) == (0, 0, 0, 9)
    assert summary.stopped_by == "interrupt"
    assert sorted(record.id for record in RunFolder(tmp_path / "run").attempts()) == list("0123")
    assert summary.cost_usd == pytest.approx(4 * COST_USD)


@pytest.mark.parametrize("begun", [True, False], ids=["running", "reading"])
def test_a_cancelled_caller_leaves_a_run_that_goes_on(
    run: Run, tmp_path: Path, begun: bool
) -> None:
    reached = threading.Event()

    async def never(_task: Task) -> QueryResult:
        reached.set()
        await asyncio.Event().wait()
        return answer()

    def slow() -> Iterator[dict[str, Any]]:
        for number in range(10**9):
            if number == 2000:
                reached.set()
            yield {"prompt": f"prompt {number}"}

    async def main() -> None:
        given = items(9) if begun else slow()
        call = arun_batch(given, None, tmp_path / "run", executor=Actor(never))
        task = asyncio.create_task(call)
        await asyncio.to_thread(reached.wait, patience.WAIT_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert counts(run(items(9))) == (9, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_cost": 5}, "a batch has no argument 'max_cost'"),
        ({"on_budget": "never"}, "on_budget 'never' is none of finish, cut"),
        ({"transcripts": "some"}, "transcripts 'some' is none of"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"models": "one"}, "models is a list"),
        ({"retry_failed": "ServerError"}, "retry_failed is a list"),
        ({"template": "no column"}, "the template names no column"),
        ({"samples_per_item": 0}, "samples must be at least 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    run: Run, arguments: dict[str, Any], words: str
) -> None:
    actor = Actor(said)
    with pytest.raises(ConfigurationError, match=words):
        run(items(2), actor, **arguments)
    assert actor.ran == []


def test_a_batch_needs_something_that_answers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="an instance, or an executor"):
        run_batch(items(1), None, tmp_path / "run")


def test_models_are_asked_once_each_whatever_the_arguments_say() -> None:
    arguments: BatchArguments = {"models": ["a", "b", "a"], "retry_failed": ["X"]}
    options = batch_options(arguments)
    assert (options.models, options.retry_failed) == (("a", "b"), ("X",))
    assert batch_options({"models": None, "retry_failed": None}) == batch_options({})


def test_a_price_of_nothing_is_known_though_what_was_void_had_none(run: Run) -> None:
    unpriced = run(items(1), lambda _: replace(answer(), cost_usd=None))
    free = run(items(1, item0="another prompt"), lambda _: replace(answer(), cost_usd=0.0))
    assert (unpriced.cost_usd, free.cost_usd) == (None, 0.0)


def test_a_torn_line_of_a_killed_process_is_told_of(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []

    class Log:
        def warning(self, _text: str, **fields: Any) -> None:
            warned.append(fields["what"])

    monkeypatch.setattr(runner_module, "make_logger", lambda *_: Log())
    run(items(3))
    path = tmp_path / "run" / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1] + lines[2][:40])

    summary = run(items(3))

    assert counts(summary) == (1, 0, 2, 0)
    assert len(warned) == 1
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == list("012")
