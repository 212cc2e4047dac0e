"""The record on disk: whole or not there, for any number of processes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog import cache as cache_module
from chutes_opencode.catalog.cache import FAILURE, RECORD, Cache, Failure, Record
from chutes_opencode.errors import ConfigurationError

URL = "https://provider.test/v1"
ROWS = ({"id": "a", "pricing": {"prompt": 0.1}}, {"id": "b\ud800"})
RECORD_OF_A = Record(ROWS, 1000.0, 4600.0, '"v1"', ("row 2 is odd",), (({"id": "c"},), 500.0))


def make(home: Path, provider: str = "acme", url: str = URL) -> Cache:
    return Cache(home, provider, url)


def edit(cache: Cache, name: str = RECORD, **changes: Any) -> None:
    """Change a file of the cache by hand."""
    path = cache.folder / name
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


# --- the record ----------------------------------------------------------------------------------


def test_what_was_written_is_read_by_another(tmp_path: Path) -> None:
    make(tmp_path).write(RECORD_OF_A)

    assert make(tmp_path).read() == RECORD_OF_A


def test_a_record_without_marks_is_read_as_such(tmp_path: Path) -> None:
    record = Record(ROWS, 1000.0, 1000.0)
    make(tmp_path).write(record)

    assert make(tmp_path).read() == record


def test_before_the_first_write_there_is_nothing(tmp_path: Path) -> None:
    cache = make(tmp_path / "home")

    assert (cache.read(), cache.read_failure()) == (None, None)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("provider", "url"), [("other", URL), ("acme", URL + "/x")])
def test_each_provider_and_url_has_a_record_of_its_own(
    tmp_path: Path, provider: str, url: str
) -> None:
    make(tmp_path).write(RECORD_OF_A)

    assert make(tmp_path, provider, url).read() is None


def test_a_provider_with_an_odd_name_stays_in_its_folder(tmp_path: Path) -> None:
    cache = make(tmp_path, "../../" + "x" * 300)
    cache.write(RECORD_OF_A)

    assert cache.folder.parent == tmp_path / "catalog"
    assert cache.read() == RECORD_OF_A


def test_an_unchanged_record_is_read_once(tmp_path: Path) -> None:
    make(tmp_path).write(RECORD_OF_A)
    cache = make(tmp_path)

    assert cache.read() is cache.read()


def test_a_record_that_another_process_has_replaced_is_seen(tmp_path: Path) -> None:
    mine, other = make(tmp_path), make(tmp_path)
    mine.write(RECORD_OF_A)
    assert mine.read() is not None

    other.write(Record(({"id": "new"},), 2000.0, 3000.0))

    record = mine.read()
    assert record is not None
    assert record.rows == ({"id": "new"},)


def test_a_record_that_another_process_has_removed_is_gone(tmp_path: Path) -> None:
    mine, other = make(tmp_path), make(tmp_path)
    mine.write(RECORD_OF_A)
    assert mine.read() is not None

    assert other.clear() is True

    assert mine.read() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": ...},
        {"provider": "other"},
        {"base_url": "https://other.test/v1"},
        {"rows": ...},
        {"rows": []},
        {"rows": "ab"},
        {"rows": [1, "x"]},
        {"fetched_at": None},
        {"fetched_at": True},
        {"fetched_at": "1000"},
        {"fetched_at": float("nan")},
    ],
)
def test_a_record_of_another_kind_counts_as_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)

    edit(cache, **changes)

    assert make(tmp_path).read() is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expires_at": None}, {"expires_at": 1000.0}),
        ({"etag": 7}, {"etag": None}),
        ({"problems": "x"}, {"problems": ()}),
        ({"problems": [1, "x"]}, {"problems": ("x",)}),
        ({"previous": 7}, {"previous": None}),
        ({"previous": {"rows": [], "fetched_at": 1}}, {"previous": None}),
        ({"previous": {"rows": [{}], "fetched_at": None}}, {"previous": None}),
        ({"rows": [{"id": "a"}, 7]}, {"rows": ({"id": "a"},)}),
    ],
)
def test_an_odd_field_costs_only_itself(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)

    edit(cache, **changes)

    record = make(tmp_path).read()
    assert record is not None
    assert {name: getattr(record, name) for name in expected} == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_torn_file_counts_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)
    (cache.folder / RECORD).write_bytes(content)
    (cache.folder / FAILURE).write_bytes(content)

    assert make(tmp_path).read() is None
    assert make(tmp_path).read_failure() is None

    cache.write(RECORD_OF_A)
    assert make(tmp_path).read() == RECORD_OF_A


def test_a_folder_in_the_records_place_counts_as_none(tmp_path: Path) -> None:
    cache = make(tmp_path)
    (cache.folder / RECORD).mkdir(parents=True)

    assert cache.read() is None


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_is_told_to_all_and_leaves_the_record(tmp_path: Path) -> None:
    make(tmp_path).write(RECORD_OF_A)

    make(tmp_path).write_failure(Failure(2000.0, ("down",)))

    other = make(tmp_path)
    assert other.read_failure() == Failure(2000.0, ("down",))
    assert other.read() == RECORD_OF_A


def test_a_list_that_came_ends_the_failure(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write_failure(Failure(2000.0, ("down",)))

    cache.write(RECORD_OF_A)

    assert cache.read_failure() is None
    assert make(tmp_path).read_failure() is None


@pytest.mark.parametrize("changes", [{"failed_at": "x"}, {"schema": 9}, {"base_url": "x"}])
def test_a_failure_of_another_kind_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    cache = make(tmp_path)
    cache.write_failure(Failure(2000.0, ()))

    edit(cache, FAILURE, **changes)

    assert cache.read_failure() is None


# --- what cannot be written ----------------------------------------------------------------------


def test_where_nothing_can_be_written_memory_serves_and_it_is_told(unwritable: Path) -> None:
    cache = make(unwritable)

    cache.write(RECORD_OF_A)
    assert cache.read() == RECORD_OF_A
    assert cache.problem == (
        f"the model list cannot be kept in {cache.folder}: {os.strerror(errno.ENOTDIR)}"
    )

    cache.write_failure(Failure(2000.0, ("down",)))
    assert cache.read_failure() == Failure(2000.0, ("down",))
    assert cache.read() == RECORD_OF_A


def test_the_problem_ends_with_its_cause(unwritable: Path) -> None:
    cache = make(unwritable)
    cache.write(RECORD_OF_A)
    unwritable.parent.unlink()

    cache.write(RECORD_OF_A)

    assert cache.problem == ""
    assert make(unwritable).read() == RECORD_OF_A


def test_what_is_no_json_is_kept_in_memory(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"id": "a"}
    for _ in range(100_000):
        deep = {"id": "a", "in": deep}
    cache = make(tmp_path)

    cache.write(Record((deep,), 1.0, 2.0))

    record = cache.read()
    assert record is not None
    assert "cannot be kept" in cache.problem
    assert list(cache.folder.iterdir()) == []
    while deep := deep.pop("in", {}):  # taken apart by hand: to drop it whole takes the stack
        pass


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)

    def full(*_paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.os, "replace", full)  # type: ignore[attr-defined]
    cache.write(Record(({"id": "new"},), 2.0, 3.0))

    assert "No space left" in cache.problem
    assert make(tmp_path).read() == RECORD_OF_A
    assert [path.name for path in cache.folder.iterdir()] == [RECORD]


# --- what is left behind -------------------------------------------------------------------------


def grow_old(path: Path, seconds: float) -> None:
    stamp = path.stat().st_mtime - seconds
    os.utime(path, (stamp, stamp))


def test_what_killed_writers_have_left_is_removed(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)
    for name in ("models.json.old.new", "models.json.young.new"):
        (cache.folder / name).touch()
    grow_old(cache.folder / "models.json.old.new", 61)

    cache.write(RECORD_OF_A)

    assert sorted(path.name for path in cache.folder.iterdir()) == [
        RECORD,
        "models.json.young.new",
    ]


def test_lists_of_servers_on_this_machine_go_when_nobody_asks_any_more(tmp_path: Path) -> None:
    gone, used, remote = (
        make(tmp_path, url=url) for url in ("http://127.0.0.1:1/v1", "http://localhost:2/v1", URL)
    )
    for cache in (gone, used, remote):
        cache.write(RECORD_OF_A)
    for cache in (gone, remote):
        grow_old(cache.folder, 8 * 86400)

    used.write(RECORD_OF_A)

    assert [cache.folder.exists() for cache in (gone, used, remote)] == [False, True, True]


def test_what_another_process_has_just_removed_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: [tmp_path / "gone"])

    make(tmp_path).write(RECORD_OF_A)

    assert make(tmp_path).read() == RECORD_OF_A


def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)
    cache.write_failure(Failure(1.0, ()))
    cache.totals.touch()

    assert cache.clear() is True

    assert (cache.read(), cache.read_failure()) == (None, None)
    assert not cache.folder.exists()
    assert cache.clear() is False


def test_clearing_spares_what_is_not_ours(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write(RECORD_OF_A)
    (cache.folder / "notes").touch()

    assert cache.clear() is True

    assert [path.name for path in cache.folder.iterdir()] == ["notes"]


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    cache = make(tmp_path)
    (cache.folder / RECORD).mkdir(parents=True)

    with pytest.raises(ConfigurationError, match="cannot be removed"):
        cache.clear()
