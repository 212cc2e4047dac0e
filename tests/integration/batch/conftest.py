"""A repository, and what checks it out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chutes_opencode.batch.repositories.worktrees import Worktrees
from tests.integration.batch.repositories import commit_all, git


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository of two commits; the second one is on main and has the tag v2."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: items with a repository cannot be run here")
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text("*.log\nbuild/\n")
    (folder / "a.txt").write_text("".join(f"line {n}\n" for n in range(50)))
    (folder / "run.sh").write_text("echo hello\n")
    (folder / "data.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "link").symlink_to("a.txt")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text("b\n")
    commit_all(folder, "first")
    (folder / "later.txt").write_text("later\n")
    commit_all(folder, "second")
    git(folder, "tag", "-a", "v2", "-m", "two")
    return folder


@pytest.fixture
def worktrees(tmp_path: Path) -> Worktrees:
    return Worktrees(tmp_path / "cache", tmp_path / "work")
