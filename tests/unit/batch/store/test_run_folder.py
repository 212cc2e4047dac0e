"""A run is read without a lock, while it is written too."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.record_json import record_line
from tests.unit.batch.store_room import MANIFEST, append, open_run, record, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a result, a failure and a try."""
    with open_run(tmp_path) as store:
        append(store, record("a"), record("b", FAILED), record("c", CUT))
    return tmp_path


def test_a_run_is_read_while_it_is_written(run: Path) -> None:
    with open_run(run) as store:
        folder = RunFolder(run)
        append(store, record("d"))

        assert folder.manifest.run_id == MANIFEST.run_id
        assert [each.id for each in folder.records()] == ["a", "b", "d"]
        assert [each.id for each in folder.attempts()] == ["c"]
        assert folder.totals() == store.totals()
        assert folder.holder() is not None


def test_who_reads_goes_on_with_the_file_that_it_began_with(run: Path) -> None:
    with open_run(run) as store:
        reading = RunFolder(run).records()
        first = next(reading)

        store.take_back(lambda each: each.status == FAILED)

        assert [first.id, *(each.id for each in reading)] == ["a", "b"]
        assert [each.id for each in RunFolder(run).records()] == ["a"]


def test_a_line_that_is_being_written_is_left_out(run: Path) -> None:
    path = run / "results.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + record_line(record("d"))[:-30])

    assert [each.id for each in RunFolder(run).records()] == ["a", "b"]
    assert RunFolder(run).totals().results == 2
    assert path.read_bytes().startswith(before)


def test_a_damaged_line_is_named(run: Path) -> None:
    write_lines(run / "results.jsonl", [record("a"), b"no json\n", record("b")])

    with pytest.raises(StoreError, match=r"results\.jsonl: line 2 is damaged") as caught:
        list(RunFolder(run).records())
    with pytest.raises(StoreError, match=r"results\.jsonl: line 2 is damaged"):
        RunFolder(run).totals()

    assert "Resume the run" in caught.value.hint


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_a_run_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        RunFolder(tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_not_written_yet_is_empty(run: Path) -> None:
    for name in ("results.jsonl", "attempts.jsonl"):
        (run / name).unlink()

    folder = RunFolder(run)

    assert [*folder.records(), *folder.attempts()] == []
    assert folder.totals().results == 0
    assert folder.holder() is None


def test_a_result_without_a_transcript_has_none(run: Path) -> None:
    folder = RunFolder(run)

    assert [folder.transcript(each) for each in folder.records()] == [None, None]
