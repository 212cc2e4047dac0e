"""A shard: what its writer was told to be durable is read; once fenced, it takes no more."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, Record
from chutes_opencode.batch.store.folder import RunFolder, open_folder
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.batch.store.shards import ShardWriter, fence_shard, read_shard, require_run
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.shard_room import bring, ids, write_shard
from tests.unit.batch.store_room import MANIFEST, answer, record

A, B, C = record("a"), record("b", at=2.0), record("c", at=3.0)


def test_what_was_appended_is_read_back(place: str) -> None:
    with ShardWriter.open(place, "w1") as writer:
        assert bring(writer, A, B) == [A, B]
        assert bring(writer, C) == [C]

        assert [*read_shard(place, "w1")] == [A, B, C]


def test_a_shard_that_is_not_there_has_nothing(place: str) -> None:
    assert [*read_shard(place, "w1")] == []


def test_transcripts_are_found_from_the_run(place: str) -> None:
    RunStore.open(place, manifest=MANIFEST).close()
    with ShardWriter.open(place, "w1") as writer:
        stored = bring(writer, A, B, result=answer("one")) + bring(writer, C, result=answer("two"))

    run = open_folder(place)

    assert [*run.records()] == stored
    found = [run.transcript(each) for each in run.records()]
    assert [each and each["id"] for each in found] == ["a", "b", "c"]
    assert found[2] is not None
    assert found[2]["messages"][0]["parts"][0]["text"] == "two"


def test_a_place_where_the_run_is_not_is_refused(place: str) -> None:
    with pytest.raises(ConfigurationError, match="has no run on this machine") as caught:
        require_run(place, MANIFEST.run_id)
    assert "share" in caught.value.hint
    assert [*read_shard(place, "w1")] == [], "nothing was made there"

    RunStore.open(place, manifest=MANIFEST).close()

    require_run(place, MANIFEST.run_id)
    with pytest.raises(ConfigurationError, match=f"has another run \\({MANIFEST.run_id}\\)"):
        require_run(place, "another")


@pytest.mark.parametrize("name", ["", "a/b", "..", "-a", "ä", "a b", "a.b"])
def test_a_name_has_letters_digits_and_dashes(place: str, name: str) -> None:
    for call in (ShardWriter.open, fence_shard, lambda *given: [*read_shard(*given)]):
        with pytest.raises(ValueError, match="no name of a shard"):
            call(place, name)


def test_a_name_is_taken_once(place: str) -> None:
    with (
        ShardWriter.open(place, "w1"),
        pytest.raises(StoreError, match="the run has a shard w1 already"),
    ):
        ShardWriter.open(place, "w1")
    with pytest.raises(StoreError, match="already"):
        ShardWriter.open(place, "w1")


def test_a_fenced_shard_takes_nothing_more(place: str) -> None:
    with ShardWriter.open(place, "w1") as writer:
        bring(writer, A)

        fence_shard(place, "w1")
        fence_shard(place, "w1")

        (error,) = bring(writer, B)
        assert isinstance(error, StoreError)
        assert "the shard w1 is closed" in error.raw_message
        assert isinstance(bring(writer, C)[0], StoreError)
    assert [*read_shard(place, "w1")] == [A]


def test_a_shard_that_was_fenced_before_it_began_never_does(place: str) -> None:
    fence_shard(place, "w1")

    with pytest.raises(StoreError, match="already"):
        ShardWriter.open(place, "w1")
    assert [*read_shard(place, "w1")] == []


def test_a_fence_that_comes_while_lines_are_written_is_told(place: str) -> None:
    """The line may be there, as one of a writer that was given up for lost; it is no promise."""
    with ShardWriter.open(place, "w1") as writer:
        write = writer._files.write

        def late(entries: object) -> object:
            fence_shard(place, "w1")
            return write(entries)  # type: ignore[arg-type]

        writer._files.write = late  # type: ignore[assignment,method-assign]

        (error,) = bring(writer, A)

        assert isinstance(error, StoreError)
    assert [*read_shard(place, "w1")] in ([], [A])


def test_a_cut_try_is_no_result(place: str) -> None:
    with ShardWriter.open(place, "w1") as writer:
        (error,) = bring(writer, record("a", CUT))
        assert isinstance(error, ValueError)


def test_a_closed_writer_takes_nothing(place: str) -> None:
    writer = ShardWriter.open(place, "w1")
    writer.close()

    assert isinstance(bring(writer, A)[0], StoreError)


def test_an_append_that_is_cancelled_is_stored_all_the_same(place: str) -> None:
    async def work(writer: ShardWriter) -> None:
        appending = asyncio.ensure_future(writer.append(A))
        await asyncio.sleep(0)
        appending.cancel()
        await asyncio.wait([appending])

    with ShardWriter.open(place, "w1") as writer:
        asyncio.run(work(writer))
    assert [*read_shard(place, "w1")] == [A]


def test_at_a_url_what_comes_together_is_one_object(memory_url: str) -> None:
    """The first commit is running: all that come meanwhile are in the next one."""
    with ShardWriter.open(memory_url, "w1") as writer:
        write, begun, go = writer._files.write, threading.Event(), threading.Event()

        def slow(entries: object) -> object:
            begun.set()
            go.wait()
            return write(entries)  # type: ignore[arg-type]

        writer._files.write = slow  # type: ignore[assignment,method-assign]

        async def work() -> None:
            first = asyncio.ensure_future(writer.append(A))
            await asyncio.to_thread(begun.wait)
            others = [asyncio.ensure_future(writer.append(record(str(n)))) for n in range(50)]
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(first, *others)

        asyncio.run(work())
    parts = [name for name in Remote(memory_url).sizes() if "results-" in name]
    assert parts == ["shards/w1/results-000001.jsonl", "shards/w1/results-000002.jsonl"]
    assert len([*read_shard(memory_url, "w1")]) == 51


@pytest.mark.parametrize("tail", [b'{"id":', b"\0" * 100, b"{"])
def test_a_torn_end_is_left_out(tmp_path: Path, tail: bytes) -> None:
    write_shard(tmp_path, "w1", A)
    file = tmp_path / "shards" / "w1" / "results-000001.jsonl"
    file.write_bytes(file.read_bytes() + tail)

    assert [*read_shard(str(tmp_path), "w1")] == [A]


def test_a_damaged_line_is_named(place: str, tmp_path: Path) -> None:
    write_shard(place, "w1", A)
    remote = Remote(place if "://" in place else f"file://{place}")
    remote.put("shards/w1/results-000002.jsonl", b"no json\n")

    with pytest.raises(StoreError, match=r"results-000002.jsonl: line 1 is damaged"):
        [*read_shard(place, "w1")]


def test_other_things_in_the_folder_are_no_shards(tmp_path: Path) -> None:
    RunStore.open(tmp_path, manifest=MANIFEST).close()
    write_shard(tmp_path, "w1", A)
    for name in (".hidden", "w1/notes.txt", "w1/.results-000009.jsonl.new", "a_b/results-000001"):
        path = tmp_path / "shards" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no result\n")

    assert ids(RunFolder(tmp_path).records()) == ["a"]


def test_many_files_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    write_shard(f"file://{tmp_path}", "w1")
    numbers = [2, 10, 999_999, 1_000_000]
    for number in reversed(numbers):
        path = tmp_path / "shards" / "w1" / f"results-{number:06}.jsonl"
        path.write_bytes(record_line(Record(str(number), "m")))

    assert ids(read_shard(str(tmp_path), "w1")) == [str(number) for number in numbers]
