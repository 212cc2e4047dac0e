"""The reader passes over what has a result, and reads no further than it is asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running import reading
from chutes_opencode.batch.running.reading import TaskReader

TASKS = [Task(BatchItem(str(number))) for number in range(10)]


class Source:
    """Tasks that note how far they were read; even ones are done, 3 and 9 have failed."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def tasks(self) -> Iterator[Task]:
        for task in TASKS:
            self.read.append(task.item.id)
            yield task

    def standing(self, task: Task) -> str:
        number = int(task.item.id)
        return "ok" if number % 2 == 0 else "failed" if number % 3 == 0 else ""


async def drained(reader: TaskReader, count: int) -> list[list[str]]:
    found = []
    while not reader.ended:
        found.append([task.item.id for task in await reader.read(count)])
    return found


def test_it_passes_over_what_has_a_result_and_counts_it() -> None:
    source = Source()
    reader = TaskReader(source.tasks, source.standing)

    assert asyncio.run(drained(reader, 2)) == [["1", "5"], ["7"]]

    assert (reader.skipped, reader.failed) == (5, 2)
    reader.close()


def test_it_reads_no_further_than_asked() -> None:
    source = Source()
    reader = TaskReader(source.tasks, lambda _task: "")

    assert [task.item.id for task in asyncio.run(reader.read(3))] == ["0", "1", "2"]

    assert source.read == ["0", "1", "2"]
    reader.close()


def test_a_second_pass_counts_nothing_again() -> None:
    source = Source()
    reader = TaskReader(source.tasks, source.standing)
    asyncio.run(drained(reader, 9))

    reader.again()

    assert asyncio.run(drained(reader, 9)) == [["1", "5", "7"]]
    assert (reader.skipped, reader.failed) == (5, 2)
    reader.close()


def test_a_long_resume_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SCANNED", 4)
    source = Source()
    reader = TaskReader(source.tasks, lambda _task: "ok")

    assert asyncio.run(drained(reader, 100)) == [[], [], []]

    assert reader.skipped == 10
    reader.close()


def test_what_the_source_raises_is_raised() -> None:
    def broken() -> Iterator[Task]:
        yield TASKS[0]
        raise OSError("the disk is gone")

    reader = TaskReader(broken, lambda _task: "")
    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(reader.read(5))
    reader.close()


def test_a_look_ahead_takes_nothing_away_and_reads_no_further_than_it_must() -> None:
    source = Source()
    reader = TaskReader(source.tasks, source.standing)

    async def look_and_read() -> list[list[str]]:
        assert await reader.look_ahead()
        assert (source.read, reader.ended) == (["0", "1"], False)
        return await drained(reader, 2)

    assert asyncio.run(look_and_read()) == [["1", "5"], ["7"]]
    assert (reader.skipped, reader.failed) == (5, 2)
    reader.close()


@pytest.mark.parametrize("changed", [False, True])
def test_a_look_ahead_finds_nothing_where_all_is_done(
    monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(reading, "SCANNED", 3)
    one = TASKS[4]
    reader = TaskReader(
        lambda: iter(TASKS),
        lambda task: "" if changed and task is one else "ok",
        lambda task: changed and task is one,
    )

    async def look_and_read() -> list[list[str]]:
        assert await reader.look_ahead() is changed
        assert not reader.ended, "that is told by a read"
        return await drained(reader, 2)

    assert asyncio.run(look_and_read()) == [[]]
    assert (reader.skipped, reader.changed) == (10 - changed, int(changed))
    reader.close()
