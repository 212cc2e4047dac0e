"""`.in_flight`: what was under way when a process was killed, known to the prompt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.in_flight import NAME, InFlightFile, read_in_flight
from chutes_opencode.batch.running.progress import Snapshot, sent_in_vain
from chutes_opencode.batch.running.reporting import Reporter
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.running.status import write_status
from chutes_opencode.results import QueryResult
from tests.unit.batch.room import Actor, Log, answer


def test_the_last_number_is_what_is_read(tmp_path: Path) -> None:
    file = InFlightFile(tmp_path)

    read = []
    for count in (1, 123_456_789_012, 2):
        file.tell(count)
        read.append(read_in_flight(tmp_path))

    assert read == [1, 123_456_789_012, 2]


def test_what_a_killed_process_left_stands_until_something_is_told(tmp_path: Path) -> None:
    InFlightFile(tmp_path).tell(7)

    InFlightFile(tmp_path)

    assert read_in_flight(tmp_path) == 7


def test_an_end_in_good_order_leaves_no_file(tmp_path: Path) -> None:
    file = InFlightFile(tmp_path)
    file.tell(1)

    file.remove()

    assert read_in_flight(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "x", "1 2"])
def test_what_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)

    assert read_in_flight(tmp_path) is None


@pytest.mark.parametrize(
    ("last", "left", "count"),
    [
        (None, 4, 4),
        (Snapshot(state="running", in_flight=2, resent=1), 9, 9),
        (Snapshot(state="stopping", in_flight=2, resent=1), 0, 0),
        (Snapshot(state="running", in_flight=2, resent=1), None, 3),
        (Snapshot(state="finished", resent=1), 9, 1),
        (Snapshot(state="stopped", resent=1), 9, 1),
    ],
)
def test_it_tells_more_truly_than_a_status_that_is_a_second_old_but_not_of_later_sessions(
    last: Snapshot | None, left: int | None, count: int
) -> None:
    assert sent_in_vain(last, left) == count


def test_a_reporter_adds_what_was_sent_in_vain_before(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, None, Log(), resent=3)

    reporter.under_way(4)

    assert read_in_flight(tmp_path) == 7


def test_a_folder_that_refuses_it_is_warned_of_once(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    log = Log()
    reporter = Reporter(tmp_path, None, log)

    reporter.under_way(1)
    reporter.under_way(2)

    assert log.warnings == [".in_flight cannot be written"]


def test_a_batch_tells_what_is_under_way_at_any_moment_and_in_the_end_nothing(
    tmp_path: Path,
) -> None:
    out, seen = tmp_path / "run", list[int | None]()

    async def look(_task: Task) -> QueryResult:
        await asyncio.sleep(0)  # until all places are taken
        seen.append(read_in_flight(out))
        return answer()

    summary = run_batch(
        [{"id": str(n), "prompt": "?"} for n in range(3)], None, out, executor=Actor(look, 3)
    )

    assert (summary.done, summary.resent) == (3, 0)
    assert seen == [3, 3, 3]
    assert read_in_flight(out) is None


def test_a_resume_counts_what_the_file_of_the_killed_session_tells(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rows = [{"id": str(n), "prompt": "?"} for n in range(2)]
    run_batch(rows[:1], None, out, executor=Actor(lambda _task: answer()))
    write_status(out, Snapshot(total=9, state="running", in_flight=1))
    InFlightFile(out).tell(5)

    first = run_batch(rows, None, out, executor=Actor(lambda _task: answer()))
    second = run_batch(rows, None, out, executor=Actor(lambda _task: answer()))

    assert (first.resent, second.resent) == (5, 5)
