"""The patches of what agents do to a repository (real git)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode import ConfigurationError
from chutes_opencode.batch.repositories.worktrees import Worktrees
from tests.integration.batch.repositories import commit_all, diff_after, git

MIB = 1 << 20


def contents(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tracked or new file below a folder: what kind it is, and what is in it."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name.split("/")[0] == ".git" or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink():
            found[name] = ("link", os.fsencode(path.readlink()))
        else:
            mode = "executable" if path.stat().st_mode & 0o100 else "file"
            found[name] = (mode, path.read_bytes())
    return found


def rename(folder: Path) -> None:
    (folder / "a.txt").rename(folder / "renamed.txt")


def commit_it(folder: Path) -> None:
    (folder / "new.txt").write_text("new\n")
    commit_all(folder)
    git(folder, "checkout", "--quiet", "-b", "mine")
    (folder / "a.txt").write_text("mine\n")
    commit_all(folder)


def remove_git(folder: Path) -> None:
    (folder / "a.txt").write_text("changed\n")
    shutil.rmtree(folder / ".git")


def hostile_settings(folder: Path) -> None:
    """The agent's own repository tells git to run programs, and to hide what was changed."""
    (folder / "a.txt").write_text("changed\n")
    (folder / ".git" / "info" / "exclude").write_text("*\n")
    (folder / ".gitattributes").write_text("*.txt filter=bad diff=bad\n")
    for name in ("filter.bad.clean", "diff.bad.textconv", "diff.external", "core.fsmonitor"):
        git(folder, "config", name, "touch ../touched; cat")
    git(folder, "update-index", "--assume-unchanged", "a.txt")


def swap_kinds(folder: Path) -> None:
    """A file becomes a folder, a folder a link, a link a file."""
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    (folder / "a.txt" / "inner").write_text("inner\n")
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to("run.sh")
    (folder / "link").unlink()
    (folder / "link").write_text("no link any more\n")


def odd_names(folder: Path) -> None:
    for name in (b"na\nme \xc3\xa9\"'\\.txt", b"-rf", b":(glob)x", b"caf\xe9"):
        (folder / os.fsdecode(name)).write_text("x\n")


def new_folder(folder: Path) -> None:
    (folder / "x").mkdir()
    (folder / "x" / "y").write_text("y\n")


def turn_link(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("/etc/passwd")


def delete_most(folder: Path) -> None:
    for name in ("a.txt", "link", "run.sh"):
        (folder / name).unlink()


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": lambda f: (f / "a.txt").write_text("other\n"),
    "no newline at the end": lambda f: (f / "a.txt").write_text("other"),
    "carriage returns": lambda f: (f / "a.txt").write_bytes(b"one\r\ntwo\rthree\n"),
    "new": lambda f: (f / "new.txt").write_text("new\n"),
    "new in a new folder": new_folder,
    "emptied": lambda f: (f / "a.txt").write_text(""),
    "new and empty": lambda f: (f / "empty").touch(),
    "deleted": lambda f: (f / "run.sh").unlink(),
    "renamed": rename,
    "executable": lambda f: (f / "run.sh").chmod(0o755),
    "binary": lambda f: (f / "data.bin").write_bytes(os.urandom(3000)),
    "new binary": lambda f: (f / "new.bin").write_bytes(b"\0" * 5000 + os.urandom(100)),
    "no UTF-8": lambda f: (f / "a.txt").write_bytes(b"caf\xe9\nline\n"),
    "odd names": odd_names,
    "link turned": turn_link,
    "kinds swapped": swap_kinds,
    "committed by the agent": commit_it,
    "the agent removed .git": remove_git,
    "hostile settings": hostile_settings,
    "most deleted": delete_most,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_patch_applies_to_a_clean_checkout(
    worktrees: Worktrees, repo: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    wanted: dict[str, tuple[str, bytes]] = {}

    def change_and_look(folder: Path) -> None:
        change(folder)
        wanted.update(contents(folder))

    patch = diff_after(worktrees, repo, change_and_look)

    clean = tmp_path / "clean"
    git(tmp_path, "clone", "--quiet", str(repo), str(clean))
    (tmp_path / "patch").write_bytes(patch.encode())
    git(clean, "apply", str(tmp_path / "patch"))
    assert contents(clean) == wanted
    assert patch
    assert not (tmp_path / "touched").exists()


def test_nothing_changed_is_an_empty_patch(worktrees: Worktrees, repo: Path) -> None:
    assert diff_after(worktrees, repo, lambda folder: None) == ""
    assert diff_after(worktrees, repo, lambda f: os.utime(f / "a.txt", (1, 1))) == ""


def test_a_rename_is_told_as_one(worktrees: Worktrees, repo: Path) -> None:
    patch = diff_after(worktrees, repo, rename)

    assert "rename from a.txt\nrename to renamed.txt" in patch


def test_ignored_files_are_left_out_unless_tracked(worktrees: Worktrees, repo: Path) -> None:
    def change(folder: Path) -> None:
        (folder / "x.log").write_text("noise\n")
        (folder / "build").mkdir()
        (folder / "build" / "out").write_text("noise\n")
        (folder / ".gitignore").write_text("*.txt\n*.log\nbuild/\n")
        (folder / "a.txt").write_text("kept: it is tracked\n")

    patch = diff_after(worktrees, repo, change)

    assert "noise" not in patch
    assert "+kept: it is tracked" in patch


@pytest.mark.parametrize("has_commit", [True, False])
def test_a_repository_made_by_the_agent_is_left_out(
    worktrees: Worktrees, repo: Path, has_commit: bool
) -> None:
    def change(folder: Path) -> None:
        (folder / "a.txt").write_text("changed\n")
        inner = folder / "vendor [x]"
        inner.mkdir()
        git(inner, "init", "--quiet")
        (inner / "inside").write_text("inside\n")
        if has_commit:
            commit_all(inner)

    patch = diff_after(worktrees, repo, change)

    assert "+changed" in patch
    assert "vendor" not in patch


@pytest.mark.parametrize("has_commit", [True, False])
def test_a_repository_made_around_tracked_files_hides_none_of_them(
    worktrees: Worktrees, repo: Path, has_commit: bool
) -> None:
    def change(folder: Path) -> None:
        (folder / "sub" / "b.txt").write_text("changed\n")
        git(folder / "sub", "init", "--quiet")
        if has_commit:
            commit_all(folder / "sub")

    assert "+changed" in diff_after(worktrees, repo, change)


def test_files_with_line_ends_of_their_own_are_no_change(worktrees: Worktrees, repo: Path) -> None:
    (repo / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    commit_all(repo)
    (repo / ".gitattributes").write_text("*.txt text\n")  # git would like to normalise them now
    commit_all(repo)

    patch = diff_after(worktrees, repo, lambda f: (f / "new").write_text("new\n"))

    assert "crlf" not in patch


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(lambda: os.urandom(100 * MIB), "git printed", id="a patch of 100 MB"),
        pytest.param(lambda: b"\0" * (300 * MIB), "300 MiB", id="a file of 300 MB"),
    ],
)
def test_a_change_that_is_too_large_is_told_in_words(
    worktrees: Worktrees, repo: Path, content: Callable[[], bytes], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match="too large to keep") as caught:
        diff_after(worktrees, repo, lambda f: (f / "huge.bin").write_bytes(content()))

    assert reason in caught.value.raw_message


def test_a_folder_that_the_agent_removed_is_told_in_words(worktrees: Worktrees, repo: Path) -> None:
    with pytest.raises(ConfigurationError, match="removed the folder"):
        diff_after(worktrees, repo, shutil.rmtree)
