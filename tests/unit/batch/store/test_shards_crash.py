"""Whatever call the writer of a shard, or who mends it, dies at: no result is lost or doubled."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED
from chutes_opencode.batch.store import remote
from chutes_opencode.batch.store.folder import RunFolder, open_folder
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.batch.store.shards import ShardWriter, read_shard
from tests.unit.batch.shard_room import bring, ids, write_shard
from tests.unit.batch.store_room import (
    MANIFEST,
    DiesInItsMidst,
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

Death = Callable[[], Callable[[str, tuple[Any, ...]], None]]
Work = Callable[[Path], None]

STEPS = 300
deaths = pytest.mark.parametrize("death", [lambda: die, DiesInItsMidst], ids=["before", "midst"])


def kill_at_each_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, death: Death, prepare: Work, work: Work
) -> Iterator[Path]:
    """Yield a folder for each system call that `work` has died at; at least some."""
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
                assert at > 5
                return
        yield run
    pytest.fail("the work has more steps than were tried")


@deaths
def test_a_kill_of_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    told: list[str] = []

    def prepare(run: Path) -> None:
        told.clear()
        open_run(run).close()

    def work(run: Path) -> None:
        async def one(name: str) -> None:
            await writer.append(record(name, at=float(ord(name))), answer(name))
            told.append(name)

        with ShardWriter.open(str(run), "w1") as writer:
            for name in "abc":
                asyncio.run(one(name))

    for run in kill_at_each_step(tmp_path, monkeypatch, death, prepare, work):
        found = ids(read_shard(str(run), "w1"))
        assert found[: len(told)] == told
        assert len(found) <= len(told) + 1
        folder = RunFolder(run)
        assert ids(folder.records()) == found
        assert [(folder.transcript(each) or {})["id"] for each in folder.records()] == found

        with open_run(run) as store:
            assert store.mended == []
            append(store, *(record(name) for name in "abc" if name not in found))
        assert sorted(ids(RunFolder(run).records())) == ["a", "b", "c"]


@deaths
def test_a_kill_while_shards_are_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    a, b, c = record("a"), record("b", FAILED), record("c", at=3.0)
    new = tmp_path / "new"
    open_run(new).close()
    write_lines(new / "results.jsonl", [a])
    write_shard(new, "w1", record("a", at=2.0), b, c)
    write_shard(new, "w2", record("c", at=4.0), record("d"), record("d", at=5.0))
    shard = new / "shards" / "w2" / "results-000001.jsonl"
    shard.write_bytes(b"no json\n" + shard.read_bytes() + record_line(a)[:-9])

    def prepare(run: Path) -> None:
        shutil.copytree(new, run)

    for run in kill_at_each_step(
        tmp_path, monkeypatch, death, prepare, lambda run: open_run(run).close()
    ):
        with open_run(run) as store:
            assert store.totals().cost_usd == 0.25 * 7
        assert ids(RunFolder(run).records()) == ["a", "b", "c", "d"]
        assert sorted(names(run / "attempts.jsonl")) == ["a", "c", "d"]
        assert b"no json\n" in (run / "damaged.jsonl").read_bytes()
        assert not list(run.rglob(".*.new"))


@deaths
def test_a_kill_while_results_of_shards_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death
) -> None:
    stores: dict[Path, RunStore] = {}

    def prepare(run: Path) -> None:
        with open_run(run) as store:
            append(store, record("a", FAILED), record("x", CUT))
        write_shard(run, "w1", record("b", FAILED), record("c"))
        write_shard(run, "w2", record("d", FAILED))
        stores[run] = open_run(run)

    def work(run: Path) -> None:
        stores[run].take_back(lambda each: each.status == FAILED)

    for run in kill_at_each_step(tmp_path, monkeypatch, death, prepare, work):
        stores[run].close()
        with open_run(run) as store:
            tries = [each.id for each in RunFolder(run).attempts() if each.status != CUT]
            assert sorted(ids(store.records()) + tries) == ["a", "b", "c", "d"]
            assert store.totals().cost_usd == 1.25
            store.take_back(lambda each: each.status == FAILED)
            append(store, *(record(name, at=2.0) for name in "abd"))
        assert sorted(ids(RunFolder(run).records())) == ["a", "b", "c", "d"]
    stores.popitem()[1].close()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_refuses_ends_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with ShardWriter.open(str(tmp_path), "w1") as writer:
        bring(writer, record("a"))
        with acting(monkeypatch, fail(errno.ENOSPC), calls=[call]):
            (error,) = bring(writer, record("b"))

        (later,) = bring(writer, record("c"))

    for each in (error, later):
        assert isinstance(each, StoreError)
        assert "the disk is full" in each.raw_message


# --- at a URL ------------------------------------------------------------------------------------


class Storage:
    """Dies at the call that writes or removes, with the number `at`, and at all after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.calls = at, 0
        for name in ("put", "delete"):
            monkeypatch.setattr(Remote, name, self._instead(getattr(Remote, name)))

    def _instead(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(remote: Remote, *arguments: object) -> None:
            self.calls += 1
            if self.calls > self.at:
                raise Killed
            real(remote, *arguments)

        return call

    @property
    def reached(self) -> bool:
        return self.calls > self.at


def test_a_kill_of_a_driver_at_a_url_at_each_of_its_writes(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(STEPS):
        place, told = f"{memory_url}/{at}", []
        with RunStore.open(place, manifest=MANIFEST) as store:
            append(store, record("a"), record("b", FAILED), record("x", CUT), result=answer("b"))
        write_shard(place, "w1", record("c", FAILED), record("a", at=9.0))
        with monkeypatch.context() as patch:
            storage = Storage(patch, at)
            try:
                with RunStore.open(place, manifest=MANIFEST) as store:
                    store.take_back(lambda each: each.status == FAILED)
                    for name in "bc":
                        append(store, record(name, at=5.0))
                        told.append(name)
                    store.finish()
            except Killed:
                pass
        if not storage.reached:
            assert at > 8
            break
        Remote(place).delete(".lock.json")

        with RunStore.open(place, manifest=MANIFEST) as store:
            found = {each.id: each for each in store.records()}
            assert {"a", *told} <= found.keys()
            assert all(found[name].started_at == 5.0 for name in told)
            missing = [name for name in "bc" if name not in found]
            append(store, *(record(name, at=6.0) for name in missing))
        run = open_folder(place)
        assert sorted(ids(run.records())) == ["a", "b", "c"]
        paid = sum(each.cost_usd or 0.0 for each in [*run.records(), *run.attempts()])
        assert paid == run.totals().cost_usd >= 1.25
    else:
        pytest.fail("the work has more steps than were tried")


def test_a_storage_that_fails_now_and_then_is_asked_again(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
    real, failures = MemoryFileSystem.pipe_file, [0]

    def now_and_then(*arguments: Any, **options: Any) -> Any:
        failures[0] += 1
        if failures[0] % 3:
            raise OSError("the storage is busy")
        return real(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", now_and_then)
    with ShardWriter.open(memory_url, "w1") as writer:
        assert bring(writer, record("a")) == [record("a")]

    monkeypatch.setattr(remote, "WAITS_S", ())
    with pytest.raises(StoreError, match=r"w2/opened: the storage is busy"):
        ShardWriter.open(memory_url, "w2")
