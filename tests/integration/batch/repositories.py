"""Real git repositories, and what comes of checkouts of them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from chutes_opencode.batch.repositories.worktrees import Worktrees

IDENTITY = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=folder, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit_all(folder: Path, message: str = "change") -> str:
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def diff_after(
    worktrees: Worktrees, repo: Path | str, change: Callable[[Path], object], commit: str = "HEAD"
) -> str:
    """What the patch says after a change in a fresh checkout."""

    async def work() -> str:
        async with worktrees.checkout(str(repo), commit) as tree:
            change(tree.path)
            return await tree.diff()

    return asyncio.run(work())


def files_after(worktrees: Worktrees, repo: Path | str, commit: str | None = None) -> list[str]:
    async def work() -> list[str]:
        async with worktrees.checkout(str(repo), commit) as tree:
            return sorted(path.name for path in tree.path.iterdir())

    return asyncio.run(work())
