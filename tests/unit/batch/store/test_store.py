"""A run's store: what was appended is there, once, whoever opens the folder next."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from chutes_opencode.batch import durable
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED, OK, Record
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.manifest import Manifest, read_manifest
from chutes_opencode.batch.store.run_lock import holder_of
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import register_secret
from chutes_opencode.results import Usage
from tests.unit.batch.store_room import MANIFEST, answer, append, names, open_run, record


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    kept = record("a", result="é", metadata={"row": 7})

    with open_run(tmp_path) as store:
        append(store, kept)

    with open_run(tmp_path) as store:
        assert list(store.records()) == [kept]
        assert store.mended == []


def test_append_returns_when_the_line_is_in_the_file(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"))

        assert names(tmp_path / "results.jsonl") == ["a"]


def test_the_transcript_of_a_result_is_found_by_its_place(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        first, second = (append(store, record(n), result=answer(n))[0] for n in ("a", "b"))

    run = RunFolder(tmp_path)
    assert [each.transcript for each in run.records()] == [first.transcript, second.transcript]
    transcript = run.transcript(second)
    assert transcript is not None
    assert transcript["messages"][0]["parts"] == [{"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("key", "content_hash", "standing", "changed"),
    [
        (("good", "m", 0), "ab" * 16, OK, False),
        (("bad", "m", 0), "ab" * 16, FAILED, False),
        (("good", "m", 0), "cd" * 16, "", True),
        (("good", "m", 1), "ab" * 16, "", False),
        (("good", "other", 0), "ab" * 16, "", False),
        (("new", "m", 0), "ab" * 16, "", False),
        (("half\ud800", "m", 0), "no hexadecimal", OK, False),
    ],
)
def test_a_task_is_known_by_key_and_content(
    tmp_path: Path, key: tuple[str, str, int], content_hash: str, standing: str, changed: bool
) -> None:
    half = record("half\ud800", content_hash="no hexadecimal")
    with open_run(tmp_path) as store:
        append(store, record("good"), record("bad", FAILED), half)
        in_session = (store.standing(key, content_hash), store.changed(key, content_hash))

    with open_run(tmp_path) as store:
        assert (store.standing(key, content_hash), store.changed(key, content_hash)) == in_session
        assert in_session == (standing, changed)
        assert store.done(key, content_hash) == bool(standing)


def test_a_second_result_of_a_task_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"))
        with pytest.raises(StoreError, match=r"'a' .*has a result"):
            append(store, record("a", at=2.0))
        append(store, record("b"))

    assert names(tmp_path / "results.jsonl") == ["a", "b"]


def test_many_that_come_together_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    with open_run(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", sync)

        append(store, *(record(str(number)) for number in range(500)))

    assert len(names(tmp_path / "results.jsonl")) == 500
    assert len(synced) < 50


def test_callers_of_many_event_loops_share_the_store(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:

        def bring(thread: int) -> None:
            append(store, *(record(f"{thread}-{number}") for number in range(50)))

        threads = [threading.Thread(target=bring, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert store.totals().ok == 200
    assert len(set(names(tmp_path / "results.jsonl"))) == 200


def test_the_result_of_a_cancelled_caller_is_stored(tmp_path: Path) -> None:
    async def bring(store: RunStore) -> None:
        task = asyncio.create_task(store.append(record("a")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with open_run(tmp_path) as store:
        asyncio.run(bring(store))

    assert names(tmp_path / "results.jsonl") == ["a"]


def test_close_stores_what_is_on_its_way(tmp_path: Path) -> None:
    async def bring() -> list[Record]:
        store = open_run(tmp_path)
        tasks = [asyncio.create_task(store.append(record(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        store.close()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(bring())) == len(names(tmp_path / "results.jsonl")) == 20


def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    store = open_run(tmp_path)
    store.close()
    store.close()

    with pytest.raises(RuntimeError, match="closed"):
        append(store, record("a"))


@pytest.mark.parametrize(
    ("call", "status"), [("append", CUT), ("cut", OK), ("cut", FAILED)], ids=str
)
def test_a_cut_try_is_no_result(tmp_path: Path, call: str, status: str) -> None:
    with open_run(tmp_path) as store, pytest.raises(ValueError, match="use "):
        asyncio.run(getattr(store, call)(record("a", status)))


def test_totals_are_of_results_and_tries(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(
            store,
            record("a", failed_usage=Usage(input=3)),
            record("b", FAILED, cost_usd=None),
            record("c", CUT),
        )
        in_session = store.totals()

    with open_run(tmp_path) as store:
        assert store.totals() == in_session == RunFolder(tmp_path).totals()
    assert (in_session.ok, in_session.failed, in_session.cut, in_session.results) == (1, 1, 1, 2)
    assert in_session.errors == {"ServerError": 1}
    assert (in_session.cost_usd, in_session.unpriced) == (0.5, 1)
    assert in_session.usage == Usage(input=30, num_requests=3)
    assert in_session.failed_usage == Usage(input=13, num_requests=1)


def test_secrets_are_masked_but_for_the_key(tmp_path: Path) -> None:
    register_secret("hunter2-hunter2")
    secret = "it is hunter2-hunter2"

    with open_run(tmp_path) as store:
        append(
            store,
            record("hunter2-hunter2", result=secret, diff=secret, metadata={"note": secret}),
            result=answer(secret),
        )
        assert store.standing(("hunter2-hunter2", "m", 0), "ab" * 16) == OK

    kept = next(RunFolder(tmp_path).records())
    assert (kept.id, kept.result, kept.diff) == ("hunter2-hunter2", *["it is [masked]"] * 2)
    assert kept.metadata == {"note": "it is [masked]"}
    transcript = (tmp_path / "transcripts" / "0001.jsonl").read_text()
    assert transcript.count("hunter2-hunter2") == 1  # its id
    assert "it is [masked]" in transcript


# --- the folder ----------------------------------------------------------------------------------


def test_the_folder_and_those_above_it_are_made(tmp_path: Path) -> None:
    open_run(tmp_path / "runs" / "today").close()

    assert read_manifest(tmp_path / "runs" / "today") == MANIFEST


def test_each_folder_that_is_made_is_made_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)

    for _ in range(2):
        durable.make_folder(tmp_path / "runs" / "today" / "first")

    assert synced == [tmp_path, tmp_path / "runs", tmp_path / "runs" / "today"]


def test_what_holds_prompts_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with open_run(folder) as store:
        append(store, record("a"), result=answer())

        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}

    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) == 8


@pytest.mark.parametrize("hidden", [(), (".gitkeep",), (".lock", ".holder", ".run.json.new")])
def test_an_empty_folder_is_taken(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    for name in hidden:
        (tmp_path / name).touch()

    open_run(tmp_path).close()

    assert read_manifest(tmp_path) == MANIFEST


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("mine")

    with pytest.raises(StoreError, match=r"holds other things \(results.jsonl\)") as caught:
        open_run(tmp_path)

    assert "new or empty folder" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(StoreError, match="a file stands where a folder should be"):
        open_run(tmp_path / "file" / below)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with open_run(tmp_path):
        with pytest.raises(ConfigurationError, match=f"in use: process {os.getpid()} "):
            open_run(tmp_path)
        holder = holder_of(tmp_path)

    assert holder is not None
    assert holder.pid == os.getpid()
    assert holder_of(tmp_path) is None
    open_run(tmp_path).close()


def test_the_lock_of_a_dead_process_keeps_nobody_out(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / ".holder").write_text('{"pid": 1, "host": "elsewhere"}')

    assert holder_of(tmp_path) is None
    open_run(tmp_path).close()


def test_a_folder_that_was_copied_while_in_use_can_be_opened(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as store:
        append(store, record("a"))
        shutil.copytree(tmp_path / "run", tmp_path / "copy")

        with open_run(tmp_path / "copy") as copy:
            append(copy, record("b"))

    assert names(tmp_path / "copy" / "results.jsonl") == ["a", "b"]
    assert names(tmp_path / "run" / "results.jsonl") == ["a"]


def test_a_run_that_is_refused_lets_others_in(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    other = replace(MANIFEST, settings={"params": {"seed": 1}})

    with pytest.raises(StoreError, match=r"other settings: params: null → \{\"seed\":1\}"):
        RunStore.open(tmp_path, manifest=other)

    assert holder_of(tmp_path) is None
    assert read_manifest(tmp_path) == MANIFEST


def test_a_run_that_is_resumed_keeps_its_name_and_says_so(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        store.finish(at=5.0)
        assert read_manifest(tmp_path) == replace(MANIFEST, finished_at=5.0)
    again = Manifest("other", 9.0, dataset={"items": 2})

    RunStore.open(tmp_path, manifest=again).close()

    assert read_manifest(tmp_path) == replace(MANIFEST, resumed_at=(9.0,), dataset={"items": 2})


def test_a_folder_can_be_taken_before_the_run_begins(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        assert store.manifest is None
        with pytest.raises(RuntimeError, match="not begun"):
            store.done(("a", "m", 0), "")
        (tmp_path / ".items.jsonl").write_text("spooled\n")

        store.begin(MANIFEST)
        append(store, record("a"))

    assert names(tmp_path / "results.jsonl") == ["a"]
