"""Root and shards of a run are read as one, each task's result once; second ones are mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED, Record
from chutes_opencode.batch.store.folder import RunFolder, open_folder
from chutes_opencode.batch.store.lines import run_tries
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.batch.store.shards import ShardWriter, read_shard
from tests.unit.batch.shard_room import bring, ids, write_shard
from tests.unit.batch.store_room import MANIFEST, append, names, open_run, record, write_lines

A, B, C = record("a"), record("b", FAILED), record("c", at=3.0)
B_AGAIN, C_AGAIN = record("b", at=2.0), record("c", at=4.0)


def opened(place: str) -> RunStore:
    return RunStore.open(place, manifest=MANIFEST)


def costs(run: RunFolder) -> float:
    return sum(each.cost_usd or 0.0 for each in [*run.records(), *run.attempts()])


def test_root_and_shards_are_one(place: str) -> None:
    with opened(place) as store:
        append(store, A)
        write_shard(place, "w2", C)
        write_shard(place, "w1", record("d"))
        assert store.note(C)
        assert store.note(record("d"))
        assert (store.totals().ok, store.totals().cost_usd) == (3, 0.75)

    run = open_folder(place)

    assert sorted(ids(run.records())) == ["a", "c", "d"]
    assert run.totals() == store_totals(place)


def store_totals(place: str) -> object:
    with opened(place) as store:
        assert store.mended == []
        assert sorted(ids(store.records())) == ["a", "c", "d"]
        for name in "acd":
            assert store.done((name, "m", 0), "ab" * 16)
        return store.totals()


def test_a_local_run_has_no_shards(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(store, A, B)

    assert not (tmp_path / "shards").exists()


def test_the_first_result_of_a_task_counts_the_others_are_tries(tmp_path: Path) -> None:
    """The root's is before the shards', and those go by their names."""
    open_run(tmp_path).close()
    write_lines(tmp_path / "results.jsonl", [A, B])
    write_shard(tmp_path, "w2", C_AGAIN)
    write_shard(tmp_path, "w1", B_AGAIN, C)

    run = RunFolder(tmp_path)

    assert [*run.records()] == [A, B, C]
    assert [*run.attempts()] == [B_AGAIN, C_AGAIN]
    totals = run.totals()
    assert (totals.ok, totals.failed, totals.taken_back) == (2, 1, 2)
    assert totals.cost_usd == 1.25


def test_a_note_of_a_second_result_adds_its_cost_alone(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        assert store.note(C)
        assert store.standing(C.key, C.content_hash) == "ok"
        assert not store.note(C_AGAIN)

        totals = store.totals()
        assert (totals.ok, totals.taken_back, totals.cost_usd) == (1, 1, 0.5)
        with pytest.raises(StoreError, match="has a result"):
            append(store, C_AGAIN)


def test_second_results_are_moved_away_when_the_run_is_opened(place: str) -> None:
    with opened(place) as store:
        append(store, B)
        write_shard(place, "w1", B_AGAIN, C)
        write_shard(place, "w2", C_AGAIN, record("d"))

    with opened(place) as store:
        assert len(store.mended) == 2
        assert all("1 second results of a task moved away" in each for each in store.mended)
        assert store.totals().cost_usd == 1.25
    run = open_folder(place)
    assert sorted(ids(run.records())) == ["b", "c", "d"]
    assert sorted(ids(run.attempts())) == ["b", "c"]
    assert [*read_shard(place, "w1"), *read_shard(place, "w2")] == [C, record("d")]
    with opened(place) as store:
        assert store.mended == []
        assert store.totals() == run.totals()


def test_shards_are_closed_when_the_run_is_opened(place: str) -> None:
    opened(place).close()
    with ShardWriter.open(place, "w1") as late:
        bring(late, A)

        with opened(place):
            (error,) = bring(late, C)

            assert isinstance(error, StoreError)
            assert "closed" in error.raw_message


def test_a_line_of_a_late_writer_is_no_harm(tmp_path: Path) -> None:
    """A writer that was given up for lost, and the one that took over, both had the answer."""
    with open_run(tmp_path) as store:
        write_shard(tmp_path, "w1", A)
        write_shard(tmp_path, "w2", C)
        store.note(A)
        store.note(C)
        late = tmp_path / "shards" / "w1" / "results-000001.jsonl"
        late.write_bytes(late.read_bytes() + record_line(C_AGAIN))

        assert ids(RunFolder(tmp_path).records()) == ["a", "c"]
        mended = store.close_shards()

        assert mended == ["shards/w2/results-000001.jsonl: 1 second results of a task moved away"]
        assert store.totals().cost_usd == 0.75
    assert ids(RunFolder(tmp_path).records()) == ["a", "c"]
    assert names(tmp_path / "attempts.jsonl") == ["c"]


def test_a_writer_whose_file_was_mended_under_its_hands_is_told(tmp_path: Path) -> None:
    """It had looked at the fence just before; what it writes goes nowhere, and it hears of it."""
    open_run(tmp_path).close()
    with ShardWriter.open(str(tmp_path), "w2") as late:
        bring(late, A, C)
        write_shard(tmp_path, "w1", C_AGAIN)
        write = late._files.write

        def after_mending(entries: object) -> object:
            with open_run(tmp_path) as store:
                assert len(store.mended) == 1
            return write(entries)  # type: ignore[arg-type]

        late._files.write = after_mending  # type: ignore[assignment,method-assign]
        (error,) = bring(late, record("d"))

    assert isinstance(error, StoreError)
    assert ids(RunFolder(tmp_path).records()) == ["c", "a"]
    with open_run(tmp_path) as store:
        assert store.mended == []
        assert store.totals().cost_usd == 0.75


@pytest.mark.parametrize("in_shard", [False, True])
def test_what_was_being_moved_when_its_process_died_is_one_result(
    tmp_path: Path, in_shard: bool
) -> None:
    open_run(tmp_path).close()
    write_lines(tmp_path / "attempts.jsonl", [C_AGAIN, record("x", CUT)])
    write_lines(tmp_path / "results.jsonl", [] if in_shard else [C_AGAIN])
    write_shard(tmp_path, "w1", *([C_AGAIN] if in_shard else [A]))

    with open_run(tmp_path) as store:
        assert store.mended == ["attempts.jsonl: 1 results had not been taken back"]
        assert store.totals().cost_usd == 0.25 * (2 if in_shard else 3)


def test_a_damaged_line_of_a_shard_is_moved_away_and_its_item_runs_again(place: str) -> None:
    opened(place).close()
    write_shard(place, "w1", A)
    name = "shards/w1/results-000009.jsonl"
    remote = Remote(place if "://" in place else f"file://{place}")
    remote.put(name, b"no json\n" + record_line(record("x", CUT)) + record_line(C))
    with pytest.raises(StoreError, match=r"results-000009.jsonl: line 1 is damaged"):
        open_folder(place).totals()

    with opened(place) as store:
        assert store.mended == [f"{name}: 2 damaged lines moved to damaged.jsonl"]
        assert store.done(C.key, C.content_hash)

    assert remote.get("damaged.jsonl") == b"no json\n" + record_line(record("x", CUT))
    assert ids(open_folder(place).records()) == ["a", "c"]


@pytest.mark.parametrize("tail", [record_line(C)[:-20], b"{", b"\0" * 5000])
def test_the_torn_end_of_a_shard_is_left_out_and_harms_nothing(tmp_path: Path, tail: bytes) -> None:
    open_run(tmp_path).close()
    write_shard(tmp_path, "w1", A, B)
    torn = tmp_path / "shards" / "w1" / "results-000001.jsonl"
    torn.write_bytes(torn.read_bytes() + tail)

    with open_run(tmp_path) as store:
        assert store.mended == []
        assert not store.done(C.key, C.content_hash)
        assert store.take_back(lambda each: each.status == FAILED) == 1

    assert [*RunFolder(tmp_path).records()] == [A]
    assert names(tmp_path / "attempts.jsonl") == ["b"]


def test_results_in_shards_are_taken_back(place: str) -> None:
    with opened(place) as store:
        append(store, record("e", FAILED))
    write_shard(place, "w1", A, B)
    write_shard(place, "w2", C)

    with opened(place) as store:
        assert store.take_back(lambda each: each.id in "abe") == 3
        assert [store.done((name, "m", 0), "ab" * 16) for name in "abce"] == [
            False,
            False,
            True,
            False,
        ]
        write_shard(place, "w3", record("a", at=9.0))
        assert store.note(record("a", at=9.0))

    run = open_folder(place)
    assert sorted(ids(run.records())) == ["a", "c"]
    assert sorted(ids(run.attempts())) == ["a", "b", "e"]
    assert costs(run) == 1.25


def test_a_shard_that_is_written_to_is_not_touched_when_results_are_taken_back(place: str) -> None:
    write_later = record("d")
    opened(place).close()
    write_shard(place, "w1", A)
    with opened(place) as store, ShardWriter.open(place, "w2") as writer:
        bring(writer, C)
        store.note(C)

        assert store.take_back(lambda _: True) == 1
        bring(writer, write_later)
        assert store.note(write_later)
        assert store.totals().ok == 2

    run = open_folder(place)
    assert ids(run.records()) == ["c", "d"]
    assert ids(run.attempts()) == ["a"]


def test_a_double_in_a_shard_that_is_written_to_counts_as_a_try_until_it_is_closed(
    tmp_path: Path,
) -> None:
    with open_run(tmp_path) as store, ShardWriter.open(str(tmp_path), "w1") as writer:
        append(store, A)
        bring(writer, record("a", at=2.0), C)
        append(store, B)

        assert store.take_back(lambda each: each.id == "b") == 1
        totals = store.totals()
        assert (totals.ok, totals.taken_back, totals.cost_usd) == (2, 2, 1.0)
        assert names(tmp_path / "attempts.jsonl") == ["b"]

        store.close_shards()
        assert names(tmp_path / "attempts.jsonl") == ["b", "a"]
        assert store.totals() == totals


def test_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    write_shard(tmp_path, "w1", A)
    draft = tmp_path / "shards" / "w1" / ".results-000001.jsonl.new"
    draft.write_text("half")

    open_run(tmp_path).close()

    assert not draft.exists()


def test_tries_stand_in_shards_of_a_driver_at_a_url(memory_url: str) -> None:
    with opened(memory_url) as store:
        append(store, A, record("x", CUT))
        path = store.path

    assert names(path / "attempts.jsonl") == []
    run = open_folder(memory_url)
    assert ids(run_tries(run.path)) == ["x"]
    assert run.totals().cut == 1
    with opened(memory_url) as store:
        assert (store.totals().cut, store.totals().ok) == (1, 1)


def test_transcripts_of_no_shard_are_a_clear_error(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    write_lines(tmp_path / "results.jsonl", [Record("a", "m", transcript="../x/0001.jsonl:0")])
    run = RunFolder(tmp_path)

    with pytest.raises(StoreError):
        run.transcript(next(run.records()))
