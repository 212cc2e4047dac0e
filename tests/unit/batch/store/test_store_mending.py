"""What a killed writer, a power cut or a hand has left in a run's files is mended, and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.batch.record import CUT, FAILED, Record
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.run_store import RunStore
from tests.unit.batch.store_room import (
    MANIFEST,
    answer,
    append,
    names,
    open_run,
    record,
    write_lines,
)

A, B = record("a"), record("b", FAILED)
B_AGAIN = record("b", at=2.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without results."""
    open_run(tmp_path).close()
    return tmp_path


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(record_line(B)[:-20], id="half a line"),
        pytest.param(b"{", id="its first byte"),
        pytest.param(b"\0" * 5000, id="zeros of a power cut"),
        pytest.param(b"42", id="a whole number"),
        pytest.param(b'"text}', id="no object"),
        pytest.param(b'{"id":"' + b"x" * 300_000, id="much of a long line"),
    ],
)
@pytest.mark.parametrize("before", [[], [A]], ids=["first line", "second line"])
def test_a_last_line_that_is_not_whole_is_cut_off(
    run: Path, tail: bytes, before: list[Record]
) -> None:
    write_lines(run / "results.jsonl", [*before, tail])

    with open_run(run) as store:
        assert store.mended == [
            f"results.jsonl: the last line had not been written whole ({len(tail)} bytes cut off)"
        ]
        append(store, B)

    assert list(RunFolder(run).records()) == [*before, B]


def test_a_last_line_that_lacks_only_its_end_is_kept(run: Path) -> None:
    write_lines(run / "results.jsonl", [A, record_line(B)[:-1]])

    with open_run(run) as store:
        assert store.mended == []
        assert store.done(B.key, B.content_hash)
        append(store, record("c"))

    assert names(run / "results.jsonl") == ["a", "b", "c"]


def test_the_torn_end_of_the_last_transcripts_is_cut_off(run: Path) -> None:
    with open_run(run) as store:
        append(store, A, result=answer("first"))
    shard = run / "transcripts" / "0001.jsonl"
    shard.write_bytes(shard.read_bytes() + b'{"id":"b","mess')

    with open_run(run) as store:
        assert len(store.mended) == 1
        assert "transcripts" in store.mended[0]
        append(store, B, result=answer("second"))

    folder = RunFolder(run)
    transcripts = [folder.transcript(each) for each in folder.records()]
    assert [each and each["id"] for each in transcripts] == ["a", "b"]


def changed(text: str, to: str) -> bytes:
    line = record_line(B).replace(text.encode(), to.encode())
    assert line != record_line(B)
    return line


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"no json\n", id="no JSON"),
        pytest.param(b"\n", id="empty"),
        pytest.param(b"\0\0\0\0\n", id="zeros"),
        pytest.param(b"\xff\xfe\n", id="no UTF-8"),
        pytest.param(b"[1, 2]\n", id="no object"),
        pytest.param(b'{"id": "b"}\n', id="fields are missing"),
        pytest.param(record_line(B)[:-1] + record_line(A), id="two in one line"),
        pytest.param(changed('"id":"b"', '"id":7'), id="its id is a number"),
        pytest.param(changed('"sample":0', '"sample":true'), id="its sample is no number"),
        pytest.param(changed('"status":"failed"', '"status":"maybe"'), id="an unknown status"),
        pytest.param(changed('"status":"failed"', '"status":"cut"'), id="a cut try"),
        pytest.param(changed('"cost_usd":0.25', '"cost_usd":"much"'), id="its cost is a text"),
        pytest.param(changed('"input":10', '"input":"ten"'), id="its tokens are a text"),
        pytest.param(changed('"input":10,', ""), id="tokens are missing"),
        pytest.param(changed('"error":{', '"error":[{'), id="a broken error"),
        pytest.param(changed('"message":"broke",', ""), id="an error without a message"),
        pytest.param(changed('"message":"broke"', '"message":7'), id="its message is a number"),
    ],
)
def test_a_damaged_line_in_the_midst_is_moved_away_and_its_item_runs_again(
    run: Path, line: bytes
) -> None:
    write_lines(run / "results.jsonl", [A, line, record("c")])

    with open_run(run) as store:
        assert store.mended == ["results.jsonl: 1 damaged lines moved to damaged.jsonl"]
        assert not store.done(B.key, B.content_hash)
        append(store, B)

    assert names(run / "results.jsonl") == ["a", "c", "b"]
    assert (run / "damaged.jsonl").read_bytes() == line


def test_damaged_tries_are_moved_away_too(run: Path) -> None:
    write_lines(run / "attempts.jsonl", [record("x", CUT), b"??\n", b"!!\n", record("y", CUT)])

    with open_run(run) as store:
        assert store.mended == ["attempts.jsonl: 2 damaged lines moved to damaged.jsonl"]
        assert store.totals().cut == 2

    assert (run / "damaged.jsonl").read_bytes() == b"??\n!!\n"


@pytest.mark.parametrize(
    ("results", "attempts", "kept", "tries"),
    [
        pytest.param([A, B], [B], ["a", "b"], [], id="killed while it was taken back"),
        pytest.param([A, B_AGAIN], [B], ["a", "b"], ["b"], id="asked anew since"),
        pytest.param([A, B], [record("b", CUT), B], ["a", "b"], ["b"], id="a cut try is no double"),
        pytest.param([A, B, B_AGAIN], [], ["a", "b"], ["b"], id="a second result of a task"),
        pytest.param([A, B, B], [], ["a", "b"], [], id="the same line twice"),
        pytest.param([A, B, B_AGAIN], [B_AGAIN], ["a", "b"], ["b"], id="killed while moved away"),
    ],
)
def test_every_key_stands_once(
    run: Path, results: list[Record], attempts: list[Record], kept: list[str], tries: list[str]
) -> None:
    write_lines(run / "results.jsonl", results)
    write_lines(run / "attempts.jsonl", attempts)

    with open_run(run) as store:
        assert store.totals().cost_usd == 0.25 * (len(kept) + len(tries))

    assert names(run / "results.jsonl") == kept
    assert names(run / "attempts.jsonl") == tries
    with open_run(run) as store:
        assert store.mended == []


def test_drafts_of_a_killed_process_are_removed(run: Path) -> None:
    (run / ".results.jsonl.new").write_text("half")
    (run / ".run.json.new").write_text("half")

    RunStore.open(run, manifest=MANIFEST).close()

    assert [path.name for path in run.glob(".*.new")] == []
