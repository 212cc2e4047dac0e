"""Whatever call a process dies at, and whatever the disk refuses: no result is lost or doubled."""

from __future__ import annotations

import asyncio
import errno
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED, OK, Record
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.batch.store.run_lock import holder_of
from chutes_opencode.batch.store.run_store import RunStore
from tests.unit.batch.store_room import (
    MANIFEST,
    DiesInItsMidst,
    FullDisk,
    Killed,
    acting,
    answer,
    append,
    die,
    fail,
    names,
    open_run,
    record,
    write_lines,
)

# More than any of these scenarios has.
STEPS = 60
FAILED_ONES = ["b", "d"]
Death = Callable[[], Callable[[str, tuple[Any, ...]], None]]
deaths = pytest.mark.parametrize("death", [lambda: die, DiesInItsMidst], ids=["before", "midst"])


def four_results(folder: Path) -> None:
    with open_run(folder) as store:
        append(store, record("a"), record("b", FAILED), record("c"), record("d", FAILED))
        append(store, record("a", CUT, at=0.5))


def is_failed(each: Record) -> bool:
    return each.status == FAILED


def kill_at_each_step(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    death: Death,
    prepare: Callable[[Path], None],
    work: Callable[[Path], None],
) -> Iterator[Path]:
    """Yield a folder for each system call that `work` has died at; at least one."""
    for at in range(STEPS):
        run = folder / str(at)
        prepare(run)
        with acting(monkeypatch, death(), at) as steps:
            try:
                work(run)
            except Killed:
                pass
            else:
                assert not steps.reached
                assert at > 3
                return
        yield run
    pytest.fail("the work has more steps than were tried")


@deaths
def test_a_kill_while_results_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    def take_back(run: Path) -> None:
        stores[run].take_back(is_failed)

    stores: dict[Path, RunStore] = {}

    def prepare(run: Path) -> None:
        four_results(run)
        stores[run] = open_run(run)

    killed = 0
    for run in kill_at_each_step(tmp_path, monkeypatch, death, prepare, take_back):
        found = names(run / "results.jsonl")
        assert found in (["a", "b", "c", "d"], ["a", "c"])
        assert {*found, *names(run / "attempts.jsonl")} == {"a", "b", "c", "d"}

        stores[run].close()
        with open_run(run) as store:
            found = names(run / "results.jsonl")
            tries = [each.id for each in RunFolder(run).attempts() if each.status != CUT]
            assert sorted(found + tries) == ["a", "b", "c", "d"]
            assert (store.totals().cost_usd, store.totals().cut) == (1.25, 1)

            store.take_back(is_failed)
            append(store, record("b", at=2.0), record("d", at=2.0))
        assert names(run / "results.jsonl") == ["a", "c", "b", "d"]
        killed += 1
    assert killed >= 7
    stores.popitem()[1].close()


@deaths
def test_a_kill_while_results_are_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    stores: dict[Path, RunStore] = {}
    acknowledged: list[str] = []

    def prepare(run: Path) -> None:
        acknowledged.clear()
        stores[run] = open_run(run)

    def work(run: Path) -> None:
        async def bring(name: str) -> None:
            status = CUT if name == "c" else OK
            call = stores[run].cut if status == CUT else stores[run].append
            await call(record(name, status, at=float(ord(name))), answer(name))
            acknowledged.append(name)

        for name in "abcd":
            asyncio.run(bring(name))

    for run in kill_at_each_step(tmp_path, monkeypatch, death, prepare, work):
        stores[run].close()
        with open_run(run) as store:
            found = names(run / "results.jsonl") + names(run / "attempts.jsonl")
            assert len(found) == len(set(found))
            assert set(acknowledged) <= set(found)
            assert len(found) <= len(acknowledged) + 1

            append(store, *(record(name) for name in "abd" if name not in found))
            assert sorted(names(run / "results.jsonl")) == ["a", "b", "d"]
        folder = RunFolder(run)
        for each in folder.records():
            transcript = folder.transcript(each)
            assert transcript is None or transcript["id"] == each.id
    stores.popitem()[1].close()


@deaths
def test_a_kill_while_a_run_is_opened_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    a, b, c = record("a"), record("b", FAILED), record("c", at=3.0)
    new = tmp_path / "new"
    open_run(new).close()

    def prepare(run: Path) -> None:
        shutil.copytree(new, run)
        write_lines(run / "results.jsonl", [a, b"no json\n", b, record("a", at=2.0), c, b'{"id":'])
        write_lines(run / "attempts.jsonl", [record("x", CUT), b, b"\0\0\0"])
        (run / "transcripts").mkdir()
        (run / "transcripts" / "0001.jsonl").write_bytes(b'{"id":"a"}\n{"id')

    for run in kill_at_each_step(
        tmp_path, monkeypatch, death, prepare, lambda run: open_and_close(run)
    ):
        assert set(names_of_whole_lines(run / "results.jsonl")) >= {"a", "b", "c"}

        with open_run(run) as store:
            assert store.totals().cost_usd == 1.25
        assert names(run / "results.jsonl") == ["a", "b", "c"]
        assert sorted(names(run / "attempts.jsonl")) == ["a", "x"]
        assert b"no json\n" in (run / "damaged.jsonl").read_bytes()
        assert not list(run.glob(".*.jsonl.new"))


def open_and_close(run: Path) -> None:
    open_run(run).close()


def names_of_whole_lines(path: Path) -> list[str]:
    lines = path.read_bytes().split(b"\n")
    return [line.split(b'"')[3].decode() for line in lines if line.endswith(b"}")]


# --- a disk that refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words", "hint"),
    [
        (errno.ENOSPC, "the disk is full: .*results.jsonl", "Free space"),
        (errno.EDQUOT, "the disk quota is used up", "Free space"),
        (errno.EIO, "the disk does not work", "run the same command again"),
        (errno.EROFS, "the file system is read-only", "Use a folder that can be written"),
        (errno.EACCES, "permission denied", "Use a folder that you may write to"),
        (errno.EHOSTDOWN, "(?i)host is down", "run the same command again"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_refuses_stops_the_run_with_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    words: str,
    hint: str,
) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"))
        with (
            acting(monkeypatch, fail(number), calls=[call]),
            pytest.raises(StoreError, match=words) as caught,
        ):
            append(store, record("b"))
        with pytest.raises(StoreError, match=words):
            append(store, record("c"))
        with pytest.raises(StoreError, match=words):
            store.take_back(lambda _: True)

    assert hint in caught.value.hint
    with open_run(tmp_path) as store:
        append(store, *(record(name) for name in "bc" if name not in names(results(tmp_path))))
    assert sorted(names(results(tmp_path))) == ["a", "b", "c"]


def test_all_who_wait_get_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bring(store: RunStore) -> list[Record | BaseException]:
        calls = (store.append(record(str(number))) for number in range(50))
        return await asyncio.gather(*calls, return_exceptions=True)

    with open_run(tmp_path) as store, acting(monkeypatch, fail(errno.ENOSPC), calls=["write"]):
        errors = asyncio.run(bring(store))

    assert {type(error) for error in errors} == {StoreError}
    assert len({id(error) for error in errors}) == 50


def test_a_line_that_the_disk_took_half_of_is_cut_off_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"))
        before = results(tmp_path).read_bytes()
        with (
            acting(monkeypatch, FullDisk(), calls=["write"]),
            pytest.raises(StoreError, match="the disk is full"),
        ):
            append(store, record("b"))

        assert results(tmp_path).read_bytes() == before


def test_a_file_that_may_not_grow_keeps_what_it_has(tmp_path: Path) -> None:
    """Not a stand-in: the system itself takes a part of the lines, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = [record(str(number), result="x" * 1000) for number in range(200)]
    with open_run(tmp_path) as store:
        append(store, record("first"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StoreError, match="may not grow any further") as caught:
                append(store, *many)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = names(results(tmp_path))
        assert results(tmp_path).read_bytes().endswith(b"}\n")

    assert "ulimit" in caught.value.hint
    with open_run(tmp_path) as store:
        assert store.mended == []
        append(store, *(each for each in many if each.id not in left))
    assert sorted(names(results(tmp_path))) == sorted(["first", *(each.id for each in many)])


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
@pytest.mark.parametrize("at", range(3))
def test_a_disk_that_refuses_while_results_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    four_results(tmp_path)
    with open_run(tmp_path) as store:
        with acting(monkeypatch, fail(errno.ENOSPC), at, calls=[call]) as steps:
            error = refused(store)
        if error is not None:
            assert "the disk is full" in error.raw_message
            with pytest.raises(StoreError, match="the disk is full"):
                append(store, record("e"))
        assert steps.reached or at

    with open_run(tmp_path) as store:
        assert store.totals().cost_usd == 1.25
        assert store.totals().results + store.totals().taken_back == 4


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("call", ["mkdir", "open", "write", "fsync", "replace"])
def test_a_folder_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    run = tmp_path / "run"

    with (
        acting(monkeypatch, fail(number), calls=[call]),
        pytest.raises(StoreError, match=r"read-only|permission denied|the disk is full"),
    ):
        open_run(run)

    assert holder_of(run) is None
    RunStore.open(run, manifest=MANIFEST).close()


def refused(store: RunStore) -> StoreError | None:
    try:
        store.take_back(is_failed)
    except StoreError as error:
        return error
    return None


def results(folder: Path) -> Path:
    return folder / "results.jsonl"
