"""A dataset is read a second time, and little of it is in memory."""

from __future__ import annotations

import stat
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.items.lines import Layout
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.items.desk import Desk, ids, numbered

BYTES_PER_ITEM = 24


# --- what cannot be read twice --------------------------------------------------------------------


def rows_once() -> Iterator[Any]:
    yield from ("a", 5, {"prompt": "b", "metadata": {"n": 1}}, "a")


@pytest.mark.parametrize("shuffle", [None, 5])
def test_a_generators_rows_are_kept_with_their_numbers(desk: Desk, shuffle: int | None) -> None:
    dataset = desk.check(rows_once(), skip_bad=True, shuffle=shuffle)

    items = sorted((item.line, item.prompt, item.metadata) for item in dataset.items())
    assert items == [(1, "a", {}), (3, "b", {"n": 1})]
    assert list(dataset.items()) == list(dataset.items())
    assert desk.spool.read_text().splitlines()[1] == ""
    assert stat.S_IMODE(desk.spool.stat().st_mode) == 0o600


def test_kept_rows_are_a_dataset_with_the_same_hash(desk: Desk) -> None:
    first = desk.check(iter([{"text": "a"}, {"text": "b"}]), Layout(template="Do {text}"))

    again = desk.check(desk.spool, Layout(template="Do {text}"))

    assert again.hash == first.hash
    assert list(again.items()) == list(first.items())


def test_bad_rows_leave_nothing_behind(desk: Desk) -> None:
    desk.bad(rows_once())

    assert list(desk.folder.iterdir()) == []


def test_an_error_of_the_generator_is_its_own_and_leaves_nothing_behind(desk: Desk) -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("mine")

    with pytest.raises(OSError, match="mine") as caught:
        desk.check(broken())

    assert not isinstance(caught.value, StoreError)
    assert list(desk.folder.iterdir()) == []


def test_rows_that_cannot_be_kept_are_an_error_that_says_so(desk: Desk) -> None:
    desk.spool = desk.folder / "missing" / "items.jsonl"

    with pytest.raises(StoreError, match=r"items\.jsonl"):
        desk.check(iter(["a"]))


def test_a_value_that_cannot_be_kept_is_a_bad_row(desk: Desk) -> None:
    error = desk.bad(iter([{"id": 2**70, "prompt": "a"}, "b"]))

    assert [row.line for row in error.bad] == [1]


# --- the second reading ---------------------------------------------------------------------------


def test_rows_that_come_later_are_no_part_of_it(desk: Desk) -> None:
    path = desk.file(*numbered(2))
    dataset = desk.check(path)
    with path.open("a") as file:
        file.write('{"id": "late", "prompt": "p"}\n')

    assert ids(dataset) == ["0", "1"]


@pytest.mark.parametrize("content", ["", '{"id": 0, "prompt": "p0"}\n', '{"id": 0}\n{"id": 1}\n'])
@pytest.mark.parametrize("shuffle", [None, 1])
def test_a_source_that_has_changed_is_told(desk: Desk, content: str, shuffle: int | None) -> None:
    path = desk.file(*numbered(2))
    dataset = desk.check(path, shuffle=shuffle)
    path.write_text(content)

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        ids(dataset)


def test_a_file_that_goes_away_is_left_to_its_prompt(desk: Desk) -> None:
    note = desk.folder / "note.txt"
    note.write_text("one")
    dataset = desk.check([{"prompt": "p", "files": str(note)}])
    note.unlink()

    assert next(dataset.items()).files == (str(note),)


# --- the hash -------------------------------------------------------------------------------------


def test_the_hash_is_of_ids_and_contents(desk: Desk) -> None:
    base = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"}]
    same = [{"prompt": "x", "id": "a", "metadata": {"l": 1}}, {"id": "b", "prompt": "y"}]
    others = [base[::-1], base[:1], [{"id": "c", "prompt": "x"}, base[1]]]

    hashed = [desk.check(rows).hash for rows in (base, same, *others)]

    assert hashed[0] == hashed[1]
    assert len(set(hashed)) == 4
    assert desk.check(desk.file(*base), shuffle=3, models=["m"], samples=2).hash == hashed[0]


# --- progress and memory --------------------------------------------------------------------------


def test_progress_is_told_now_and_then(desk: Desk) -> None:
    seen: list[int] = []

    desk.check((str(number) for number in range(2500)), on_progress=seen.append)

    assert seen == [1000, 2000, 2500]


def peak_of(desk: Desk, rows: int, shuffle: int | None) -> int:
    """Bytes that the check of a streamed source takes at most, and all that it leaves."""
    tracemalloc.start()
    try:
        source = ({"id": number, "prompt": "p"} for number in range(rows))
        dataset = desk.check(source, shuffle=shuffle)
        next(dataset.tasks())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shuffle", [None, 1])
def test_an_item_takes_at_most_24_bytes_of_memory(desk: Desk, shuffle: int | None) -> None:
    few, many = 2_000, 20_000
    peak_of(desk, 100, shuffle)  # what is loaded and cached once

    grown = peak_of(desk, many, shuffle) - peak_of(desk, few, shuffle)

    assert grown <= BYTES_PER_ITEM * (many - few)


def test_reading_the_tasks_takes_no_memory_for_each(desk: Desk) -> None:
    dataset = desk.check(numbered(5_000), shuffle=1)
    tasks = dataset.tasks()
    next(tasks)
    tracemalloc.start()
    try:
        assert sum(1 for _ in tasks) == 4_999
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 500_000
