"""The lock on a record: one fetches, and nothing stays locked."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.catalog import cache as cache_module
from chutes_opencode.catalog.cache import Cache


def make(home: Path) -> Cache:
    return Cache(home, "acme", "https://provider.test/v1")


def locked(cache: Cache, done: Callable[[], bool] = lambda: False, seconds: float = 0.2) -> bool:
    async def main() -> bool:
        async with cache.lock(seconds, done) as needed:
            return needed

    return asyncio.run(main())


def is_free(cache: Cache) -> bool:
    descriptor = os.open(cache.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def test_one_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    seen: list[str] = []

    async def use(name: str) -> None:
        async with make(tmp_path).lock(5.0, lambda: False) as needed:
            assert needed
            seen.append(f"{name} in")
            await asyncio.sleep(0)
            seen.append(f"{name} out")

    async def main() -> None:
        await asyncio.gather(use("a"), use("b"))

    asyncio.run(main())
    assert seen == ["a in", "a out", "b in", "b out"]


def test_the_lock_is_free_afterwards_and_leaves_no_file(tmp_path: Path) -> None:
    cache = make(tmp_path)

    async def main() -> None:
        async with cache.lock(1.0, lambda: False):
            assert not is_free(cache)
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(main())
    assert is_free(cache)
    assert list(cache.folder.iterdir()) == []


def test_who_finds_the_work_done_does_not_wait(tmp_path: Path) -> None:
    answers = iter([False, False, True])

    async def main() -> bool:
        async with (
            make(tmp_path).lock(5.0, lambda: False),
            make(tmp_path).lock(60.0, lambda: next(answers)) as needed,
        ):
            return needed

    assert asyncio.run(main()) is False


def test_work_that_was_done_between_question_and_lock_is_not_done_again(tmp_path: Path) -> None:
    answers = iter([False, True])

    assert locked(make(tmp_path), lambda: next(answers)) is False


def test_a_holder_that_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    async def main() -> bool:
        async with (
            make(tmp_path).lock(5.0, lambda: False),
            make(tmp_path).lock(0.1, lambda: False) as needed,
        ):
            return needed

    assert asyncio.run(main()) is True


def test_where_no_folder_can_be_made_all_go_on_without(unwritable: Path) -> None:
    assert locked(make(unwritable)) is True


def test_where_the_file_system_knows_no_locks_all_go_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(cache_module.fcntl, "flock", flock)  # type: ignore[attr-defined]

    assert locked(make(tmp_path)) is True


def test_what_a_fork_has_closed_is_not_closed_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with make(tmp_path).lock(1.0, lambda: False):
            cache_module._after_fork()

    asyncio.run(main())
