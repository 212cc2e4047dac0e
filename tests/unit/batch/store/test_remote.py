"""Objects below a URL: written whole, read, listed and removed; what goes wrong is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.store import remote as remote_module
from chutes_opencode.batch.store.remote import Remote, is_url
from chutes_opencode.errors import ConfigurationError


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, memory_url: str, tmp_path: Path) -> str:
    return memory_url if request.param == "memory" else f"file://{tmp_path}/a run [1]*"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/run", True),
        ("gs://b", True),
        ("memory://x", True),
        ("file:///tmp/x", True),
        ("simplecache::s3://b/x", True),
        ("runs/a", False),
        ("/runs/a", False),
        ("C:/runs", False),
        ("a:b", False),
        ("", False),
        (Path("s3://bucket"), False),
    ],
)
def test_what_is_a_url(place: Path | str, expected: bool) -> None:
    assert is_url(place) is expected


def test_what_was_put_is_there(url: str) -> None:
    remote = Remote(url + "/")
    assert remote.url == url
    assert (remote.names(), remote.sizes(), remote.get("a")) == ([], {}, None)

    remote.put("a", b"one")
    remote.put("b/c/d", b"")
    remote.put("a", b"other")

    assert remote.get("a") == b"other"
    assert remote.names() == ["a", "b"]
    assert remote.sizes() == {"a": 5, "b/c/d": 0}
    assert remote.sizes("b") == {"b/c/d": 0}
    assert remote.sizes("none") == {}
    assert (remote.exists("b/c/d"), remote.exists("x")) == (True, False)
    assert sorted(remote.get_many({"a": 5, "b/c/d": 0, "gone": 1})) == [
        ("a", b"other"),
        ("b/c/d", b""),
    ]
    remote.delete("a")
    remote.delete("a")
    assert remote.sizes() == {"b/c/d": 0}


def test_many_objects_are_asked_for_at_once(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "AT_ONCE", 3)
    remote = Remote(memory_url)
    for number in range(8):
        remote.put(str(number), bytes([number]))

    found = dict(remote.get_many(remote.sizes()))

    assert found == {str(number): bytes([number]) for number in range(8)}


def test_no_more_bytes_are_held_at_once_than_a_large_object_has(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    asked: list[int] = []

    def cat_ranges(self: MemoryFileSystem, paths: list[str], *_: object) -> list[bytes]:
        asked.append(len(paths))
        return [self.cat_file(path) for path in paths]

    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", cat_ranges)
    monkeypatch.setattr(remote_module, "LARGE", 10)
    remote = Remote(memory_url)
    for name, size in (("a", 6), ("b", 4), ("c", 1), ("d", 20), ("e", 1)):
        remote.put(name, b"x" * size)

    found = dict(remote.get_many(remote.sizes()))

    assert asked == [2, 1, 1, 1]
    assert {name: len(data) for name, data in found.items()} == remote.sizes()


def test_a_large_one_goes_to_a_file(url: str, tmp_path: Path) -> None:
    remote = Remote(url)
    remote.put("a", b"x" * 1000)

    remote.download("a", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    with pytest.raises(StoreError, match="/none"):
        remote.download("none", tmp_path / "copy")


def test_what_the_storage_raises_is_told_with_the_objects_name(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    remote = Remote(memory_url)
    remote.put("a", b"1")

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise PermissionError("not yours")

    calls = (
        lambda: remote.put("a", b""),
        lambda: remote.get("a"),
        lambda: [*remote.get_many({"a": 1})],
        lambda: remote.exists("a"),
        lambda: remote.delete("a"),
    )
    with monkeypatch.context() as patch:
        patch.setattr(remote_module, "WAITS_S", ())
        for name in ("pipe_file", "cat_file", "find", "ls", "exists", "rm_file"):
            patch.setattr(MemoryFileSystem, name, refuse)

        for call in calls:
            with pytest.raises(StoreError, match=r"/a: not yours$"):
                call()
        for look in (remote.sizes, remote.names):
            with pytest.raises(StoreError, match=r"/: not yours$"):
                look()


def test_a_url_of_no_storage_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nonsense") as caught:
        Remote("nonsense://x")
    assert "Install what fsspec needs" in caught.value.hint


def test_a_storage_whose_package_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(ConfigurationError, match="s3fs"):
        Remote("s3://bucket/run")


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)

    with pytest.raises(ConfigurationError, match="fsspec") as caught:
        Remote("memory://x")
    assert caught.value.hint == "pip install 'chutes-opencode[ray]'"
