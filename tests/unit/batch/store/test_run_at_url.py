"""A run at a URL: its writer and its readers work in copies, and the URL has the truth."""

from __future__ import annotations

import platform
import shutil
import time
from pathlib import Path

import orjson
import pytest

from chutes_opencode import load_settings
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import CUT, FAILED
from chutes_opencode.batch.store import mirror as mirror_module
from chutes_opencode.batch.store import remote_lock
from chutes_opencode.batch.store.folder import RunFolder, open_folder
from chutes_opencode.batch.store.mirror import Mirror
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.run_store import RunStore
from tests.patience import wait_until
from tests.unit.batch.shard_room import ids, write_shard
from tests.unit.batch.store_room import MANIFEST, answer, append, names, record


def opened(place: str) -> RunStore:
    return RunStore.open(place, manifest=MANIFEST)


def test_all_that_was_stored_is_at_the_url(memory_url: str) -> None:
    with opened(memory_url) as store:
        append(store, record("a"), result=answer("deep"))
        append(store, record("x", CUT))
        store.finish(at=9.0)
        shutil.rmtree(store.path)  # with this machine
    assert store.place == memory_url

    run = open_folder(memory_url)

    assert ids(run.records()) == ["a"]
    assert ids(run.attempts()) == ["x"]
    assert run.manifest.finished_at == 9.0
    assert run.holder() is None
    (found,) = run.records()
    transcript = run.transcript(found)
    assert transcript is not None
    assert transcript["messages"][0]["parts"][0]["text"] == "deep"
    assert run.transcript(found) == transcript, "it is here now"


def test_copies_are_kept_below_the_home_and_apart(memory_url: str) -> None:
    home = load_settings().home
    with opened(memory_url) as store:
        reader = open_folder(memory_url + "/")

    assert store.path.parent == reader.path.parent
    assert store.path.is_relative_to(home / "runs")
    assert {store.path.name, reader.path.name} == {"work", "view"}


def test_a_reader_sees_a_driver_at_work_and_refreshes(memory_url: str) -> None:
    with opened(memory_url) as store:
        run = RunFolder.at(memory_url)
        assert ids(run.records()) == []
        holder = run.holder()
        assert holder is not None
        assert holder.host == platform.node()

        append(store, record("a"))
        write_shard(memory_url, "w1", record("b"))
        (store.path / "status.json").write_bytes(b'{"pid": 1}')
        store.publish("status.json")
        run.refresh(results=False)
        assert (run.path / "status.json").read_bytes() == b'{"pid": 1}'
        assert ids(run.records()) == []

        run.refresh()
        assert ids(run.records()) == ["a", "b"]


def test_what_was_taken_back_vanishes_from_a_readers_copy(memory_url: str) -> None:
    with opened(memory_url) as store:
        append(store, record("a", FAILED), record("b"))
    run = open_folder(memory_url)
    assert ids(run.records()) == ["a", "b"]

    with opened(memory_url) as store:
        store.take_back(lambda each: each.status == FAILED)
    run.refresh()

    assert ids(run.records()) == ["b"]
    assert ids(run.attempts()) == ["a"]


def test_what_is_gone_at_the_url_is_gone_in_a_copy(memory_url: str) -> None:
    with opened(memory_url) as store:
        append(store, record("a"))
    write_shard(memory_url, "w1", record("b"))
    remote = Remote(memory_url)
    remote.put("attempts.jsonl", b"")
    run = open_folder(memory_url)
    assert (run.path / "attempts.jsonl").exists()

    for name in remote.sizes("shards/w1"):
        remote.delete(name)
    remote.delete("attempts.jsonl")
    run.refresh()

    assert ids(run.records()) == ["a"]
    assert not (run.path / "attempts.jsonl").exists()


def test_a_writers_copy_is_made_anew(memory_url: str) -> None:
    """Of a copy that a power cut has spoilt nothing is believed; hidden files are not copies."""
    with opened(memory_url) as store:
        append(store, record("a"))
    with opened(memory_url) as store:
        (part,) = store.path.glob("shards/*/results-*.jsonl")
    part.write_bytes(b"\0" * (part.stat().st_size - 1) + b"\n")
    (store.path / ".items.jsonl").write_text("{}")
    (store.path / "other.txt").write_text("")

    with opened(memory_url) as store:
        assert store.mended == []
        assert ids(store.records()) == ["a"]
        assert (store.path / ".items.jsonl").exists()
        assert not (store.path / "other.txt").exists()


def test_a_run_that_was_copied_to_a_url_goes_on_there(tmp_path: Path, memory_url: str) -> None:
    with opened(str(tmp_path / "run")) as store:
        append(store, record("a"), record("b", FAILED), result=answer("deep"))
        append(store, record("x", CUT))
    remote = Remote(memory_url)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            remote.put(str(path.relative_to(tmp_path / "run")), path.read_bytes())

    with opened(memory_url) as store:
        assert store.take_back(lambda each: each.status == FAILED) == 1
        append(store, record("b", at=2.0))

    run = open_folder(memory_url)
    assert ids(run.records()) == ["a", "b"]
    assert ids(run.attempts()) == ["x", "b"]
    assert run.totals().cost_usd == 1.0
    transcript = run.transcript(next(run.records()))
    assert transcript is not None
    assert transcript["id"] == "a"


def test_a_second_driver_is_refused(memory_url: str) -> None:
    with opened(memory_url), pytest.raises(StoreError, match="is in use"):
        opened(memory_url)
    values = {"pid": 7, "host": "elsewhere", "token": "t", "at": time.time()}
    Remote(memory_url).put(".lock.json", orjson.dumps(values))

    with pytest.raises(StoreError, match="process 7 on elsewhere"):
        opened(memory_url)


def test_a_driver_that_was_overtaken_stores_nothing_more(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.001)
    with opened(memory_url) as store:
        append(store, record("a"))
        lock = store._place._lock  # type: ignore[attr-defined]
        values = {"pid": 7, "host": "elsewhere", "token": "t", "at": time.time()}

        def is_lost() -> bool:
            Remote(memory_url).put(".lock.json", orjson.dumps(values))
            return bool(lock._lost)

        wait_until(is_lost)
        with pytest.raises(StoreError, match="was taken over"):
            append(store, record("b"))

    assert Remote(memory_url).exists(".lock.json")


def test_a_place_that_holds_other_things_is_left_alone(memory_url: str) -> None:
    remote = Remote(memory_url)
    remote.put("photos/me.jpg", b"")

    with pytest.raises(StoreError, match=r"holds other things \(photos\)"):
        opened(memory_url)
    with pytest.raises(StoreError, match="holds no run"):
        open_folder(memory_url)
    assert remote.names() == ["photos"]


def test_a_file_that_was_made_in_the_copy_is_published(memory_url: str) -> None:
    opened(memory_url).close()
    run = open_folder(memory_url)
    (run.path / "report.html").write_text("<html>")

    run.publish("report.html")

    assert Remote(memory_url).get("report.html") == b"<html>"
    with pytest.raises(StoreError, match=r"none.html"):
        run.publish("none.html")


def test_of_a_folder_there_is_nothing_to_refresh_or_publish(tmp_path: Path) -> None:
    with opened(str(tmp_path)) as store:
        append(store, record("a"))
        store.publish("status.json")
    run = open_folder(str(tmp_path))
    run.refresh()
    run.refresh(results=False)
    run.publish("report.html")

    assert (run.path, run.place, ids(run.records())) == (tmp_path, str(tmp_path), ["a"])


def test_large_files_are_copied_too(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "LARGE", 10)
    with opened(memory_url) as store:
        append(store, record("a"))

    assert ids(open_folder(memory_url).records()) == ["a"]


def test_only_what_was_changed_is_pushed(memory_url: str, tmp_path: Path) -> None:
    remote = Remote(memory_url)
    mirror = Mirror(remote, tmp_path)
    (tmp_path / "attempts.jsonl").write_bytes(b"")
    (tmp_path / "results.jsonl").write_bytes(b"1\n")
    (tmp_path / "notes.txt").write_bytes(b"mine")

    mirror.push()
    assert remote.sizes() == {"results.jsonl": 2}

    remote.put("results.jsonl", b"of somebody else\n")
    mirror.push()
    assert remote.get("results.jsonl") == b"of somebody else\n"

    (tmp_path / "results.jsonl").write_bytes(b"2\n")
    mirror.push()
    assert remote.get("results.jsonl") == b"2\n"

    (tmp_path / "results.jsonl").write_bytes(b"")
    mirror.push()
    assert remote.get("results.jsonl") == b""


@pytest.mark.parametrize("name", ["../../secret", "transcripts/../x", "shards/w/notes.txt", "a"])
def test_only_transcripts_are_fetched(memory_url: str, tmp_path: Path, name: str) -> None:
    remote = Remote(memory_url)
    Mirror(remote, tmp_path).fetch(name)

    assert [*tmp_path.iterdir()] == []


def test_nothing_is_left_of_a_copy_that_fails(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(memory_url)
    remote.put("run.json", b"{}")

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="the disk is full"):
        Mirror(remote, tmp_path).pull()

    assert [*tmp_path.iterdir()] == []


def test_what_drivers_write_is_named_as_theirs(memory_url: str) -> None:
    with opened(memory_url) as store:
        append(store, record("a"))

    owners = {name.split("/")[1] for name in Remote(memory_url).sizes("shards")}
    assert len(owners) == 1
    assert owners.pop().startswith("driver-")
    assert names(store.path / "results.jsonl") == []
