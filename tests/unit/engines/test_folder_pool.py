"""Folders that are used again: whatever was done to one, the next prompt finds it empty."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.engines import folder_pool
from chutes_opencode.engines.folder_pool import FolderPool


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, with a file."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text("theirs")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The server's workspace."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def pool(root: Path) -> FolderPool:
    return FolderPool(root)


def give_back(pool: FolderPool, folder: Path, *, again: bool = True) -> None:
    asyncio.run(pool.give_back(folder, again=again))


def is_new(folder: Path) -> bool:
    """Whether it is a real folder of ours alone, with nothing in it."""
    return not folder.is_symlink() and folder.stat().st_mode == 0o40700 and not os.listdir(folder)  # noqa: PTH208 - hidden ones too


def hidden_files(folder: Path, outside: Path) -> None:
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "config").write_text("x")
    (folder / ".env").write_text("SECRET=1")


def a_folder_that_nobody_may_read(folder: Path, outside: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "b" / "file").chmod(0)
    (folder / "a" / "b").chmod(0o500)
    (folder / "a").chmod(0)


def links_to_the_outside(folder: Path, outside: Path) -> None:
    (folder / "folder").symlink_to(outside)
    (folder / "file").symlink_to(outside / "precious")
    (folder / "nowhere").symlink_to("/no/such/file")
    (folder / "itself").symlink_to(folder)


def a_fifo_and_a_socket(folder: Path, outside: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/socket")  # its name may not be long
        finally:
            os.close(descriptor)


def a_very_deep_tree(folder: Path, outside: Path) -> None:
    before = Path.cwd()
    try:
        os.chdir(folder)
        for _ in range(1500):
            Path("deep").mkdir()
            os.chdir("deep")
    finally:
        os.chdir(before)


def no_folder_any_more(folder: Path, outside: Path) -> None:
    folder.rmdir()


def not_even_the_folder_around_it(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder.parent)


def a_link_in_its_place(folder: Path, outside: Path) -> None:
    folder.rmdir()
    folder.symlink_to(outside)


def a_link_in_place_of_the_folder_around_it(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder.parent)
    (outside / "work").mkdir()
    folder.parent.symlink_to(outside)


def a_file_in_its_place(folder: Path, outside: Path) -> None:
    folder.rmdir()
    folder.write_text("x")


def other_modes(folder: Path, outside: Path) -> None:
    (folder / "file").write_text("x")
    folder.chmod(0)
    folder.parent.chmod(0o777)


DEEDS = (
    hidden_files,
    a_folder_that_nobody_may_read,
    links_to_the_outside,
    a_fifo_and_a_socket,
    a_very_deep_tree,
    no_folder_any_more,
    not_even_the_folder_around_it,
    a_link_in_its_place,
    a_link_in_place_of_the_folder_around_it,
    a_file_in_its_place,
    other_modes,
)


@pytest.mark.parametrize("leave", DEEDS, ids=lambda deed: deed.__name__)
def test_a_used_folder_is_used_again_and_empty(
    pool: FolderPool, root: Path, outside: Path, leave: Callable[[Path, Path], None]
) -> None:
    folder = pool.take()
    leave(folder, outside)

    give_back(pool, folder)

    again = pool.take()
    assert (again, is_new(again)) == (folder, True)
    assert (outside / "precious").read_text() == "theirs"
    assert list(folder.parent.parent.iterdir()) == [folder.parent]


def test_everybody_has_a_folder_of_his_own(pool: FolderPool) -> None:
    folders = [pool.take() for _ in range(20)]

    assert len({*folders}) == 20
    assert all(is_new(folder) for folder in folders)


def test_neighbours_are_not_to_be_found_one_step_up(pool: FolderPool) -> None:
    one, other = pool.take(), pool.take()

    assert list(one.parent.iterdir()) == [one]
    assert other.parent != one.parent


def test_the_folder_used_last_is_the_next(pool: FolderPool) -> None:
    one, other = pool.take(), pool.take()

    give_back(pool, other)
    give_back(pool, one)

    assert [pool.take(), pool.take()] == [one, other]


def test_a_folder_that_shall_not_be_used_again_is_deleted(pool: FolderPool) -> None:
    folder = pool.take()

    give_back(pool, folder, again=False)

    assert not folder.parent.exists()
    assert pool.take() != folder


def write_a_file(folder: Path) -> None:
    (folder / "late").write_text("x")


def open_it_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def put_another_in_its_place(folder: Path) -> None:
    folder.rename(folder.with_name("other"))
    folder.mkdir(0o700)


def remove_it(folder: Path) -> None:
    folder.rmdir()


@pytest.mark.parametrize(
    "touch",
    [write_a_file, open_it_to_all, put_another_in_its_place, remove_it],
    ids=lambda deed: deed.__name__,
)
def test_a_spare_folder_that_somebody_has_touched_is_left_alone(
    pool: FolderPool, touch: Callable[[Path], None]
) -> None:
    folder = pool.take()
    give_back(pool, folder)

    touch(folder)

    other = pool.take()
    assert other != folder
    assert is_new(other)


def test_a_folder_that_cannot_be_renewed_is_not_given_out_again(
    pool: FolderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pool.take()

    def refuse(path: Path, target: Path) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        give_back(pool, folder)

    assert pool.take() != folder


def test_a_folder_whose_content_cannot_be_deleted_is_used_again_all_the_same(
    pool: FolderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pool.take()
    (folder / "file").write_text("x")

    def refuse(path: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(folder_pool, "remove_tree", refuse)
    give_back(pool, folder)

    assert (pool.take(), is_new(folder)) == (folder, True)


def test_where_an_agent_has_moved_all_folders_away_others_are_made(
    pool: FolderPool, root: Path, outside: Path
) -> None:
    first, second = pool.take(), pool.take()
    home = first.parent.parent
    home.rename(outside / "moved")
    home.symlink_to(outside / "moved")

    give_back(pool, first)
    give_back(pool, second)

    assert sorted(path.name for path in (outside / "moved").iterdir()) == ["1", "2"]
    folder = pool.take()
    assert is_new(folder)
    assert outside not in folder.resolve().parents


def test_without_a_workspace_there_is_no_folder(pool: FolderPool, root: Path) -> None:
    root.rmdir()

    with pytest.raises(FileNotFoundError):
        pool.take()


def test_whatever_becomes_of_the_one_who_gives_it_back_the_folder_is_renewed(
    pool: FolderPool,
) -> None:
    folder = pool.take()
    (folder / "file").write_text("x")

    async def main() -> None:
        task = asyncio.create_task(pool.give_back(folder))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())

    assert (pool.take(), is_new(folder)) == (folder, True)
