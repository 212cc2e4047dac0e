"""Tasks that are cut without anybody's asking, because their machine had to end: they run again."""

from __future__ import annotations

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import CutError, Finished
from chutes_opencode.batch.running.progress import FINISHED, STOPPED
from chutes_opencode.batch.running.scheduler import CUTS
from tests.unit.batch.room import COST_USD, Build, answer, run, tasks


def test_a_task_that_was_cut_runs_again_and_what_it_had_cost_is_booked(build: Build) -> None:
    async def work() -> None:
        tried: set[str] = set()

        def act(task: Task) -> object:
            if task.item.id == "1" and task.item.id not in tried:
                tried.add(task.item.id)
                return CutError(Finished(answer("half")))
            return answer()

        room = build(act, tasks(3))
        shown = await room.run()

        assert sorted(room.shelf.ids) == ["0", "1", "2"]
        assert [(cut.id, cut.status) for cut in room.shelf.cuts] == [("1", "cut")]
        assert (shown.done, shown.left, shown.state) == (3, 0, FINISHED)
        assert shown.spent_usd == 4 * COST_USD

    run(work)


def test_a_task_that_is_cut_without_end_is_left_for_the_next_resume(build: Build) -> None:
    async def work() -> None:
        room = build(lambda _task: CutError(Finished(answer("half"))), tasks(1))
        shown = await room.run()

        assert len(room.actor.ran) == CUTS + 1
        assert room.shelf.ids == []
        assert (shown.left, shown.state) == (1, STOPPED)

    run(work)
