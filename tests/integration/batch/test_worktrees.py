"""Working trees of real repositories: what is checked out, from where, and its end (real git)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode import ConfigurationError
from chutes_opencode.batch.repositories.git import git_environment
from chutes_opencode.batch.repositories.worktrees import Worktrees
from tests.integration.batch.repositories import commit_all, diff_after, files_after, git
from tests.patience import PROCESS_SECONDS


def refusal(worktrees: Worktrees, repo: str, commit: str | None = None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        files_after(worktrees, repo, commit)
    return caught.value


# ------------------------------------------------------------------------------ what is checked out
def test_a_name_is_resolved_to_its_hash(worktrees: Worktrees, repo: Path) -> None:
    head = git(repo, "rev-parse", "HEAD")

    async def found(commit: str | None) -> str:
        async with worktrees.checkout(str(repo), commit) as tree:
            assert git(tree.path, "rev-parse", "HEAD") == tree.commit
            return tree.commit

    names = (None, "", "HEAD", "main", "v2", "refs/heads/main", head, head.upper(), head[:10])
    assert {asyncio.run(found(name)) for name in names} == {head}
    assert asyncio.run(found("HEAD~1")) == git(repo, "rev-parse", "HEAD~1")


def test_a_name_means_the_same_for_the_whole_batch_and_is_fresh_for_the_next(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    files_after(worktrees, repo, "main")
    (repo / "newest.txt").write_text("newest\n")
    newest = commit_all(repo)

    assert "newest.txt" not in files_after(worktrees, repo, "main")
    assert "newest.txt" in files_after(
        Worktrees(tmp_path / "cache", tmp_path / "work"), repo, "main"
    )
    assert "newest.txt" in files_after(worktrees, repo, newest)


def test_a_hash_that_is_there_needs_no_source_any_more(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    head = git(repo, "rev-parse", "HEAD")
    files_after(worktrees, repo, head)
    shutil.rmtree(repo / ".git")

    assert "later.txt" in files_after(Worktrees(tmp_path / "cache", tmp_path / "work"), repo, head)


def test_the_commit_counts_and_not_what_lies_about(worktrees: Worktrees, repo: Path) -> None:
    (repo / "a.txt").write_text("dirty\n")
    (repo / "untracked.txt").write_text("dirty\n")
    texts: list[str] = []

    diff_after(worktrees, repo, lambda f: texts.append((f / "a.txt").read_text()))

    assert texts[0].startswith("line 0\n")
    assert "untracked.txt" not in files_after(worktrees, repo)


def test_an_agent_sees_nothing_of_later_commits(worktrees: Worktrees, repo: Path) -> None:
    seen: list[str] = []

    diff_after(
        worktrees, repo, lambda f: seen.append(git(f, "log", "--all", "--format=%s")), "HEAD~1"
    )

    assert seen == ["first"]


def test_a_commit_that_no_branch_holds_is_fetched_by_its_hash(
    worktrees: Worktrees, repo: Path
) -> None:
    files_after(worktrees, repo)
    (repo / "lost.txt").write_text("lost\n")
    lost = commit_all(repo)
    git(repo, "reset", "--quiet", "--hard", "HEAD~1")

    assert "lost.txt" in files_after(worktrees, repo, lost)


def test_a_shallow_source_gives_what_it_has(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repo}", "shallow")
    history: list[str] = []

    def look_and_change(folder: Path) -> None:
        history.append(git(folder, "log", "--format=%s"))
        (folder / "a.txt").unlink()

    patch = diff_after(worktrees, tmp_path / "shallow", look_and_change)

    assert history == ["second"]
    assert "deleted file" in patch


def test_a_partial_source_that_lacks_files_is_told_in_words(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    git(repo, "config", "uploadpack.allowFilter", "true")
    clone = ("clone", "--quiet", "--no-checkout", "--filter=blob:none")
    git(tmp_path, *clone, f"file://{repo}", "partial")

    assert "partial" in refusal(worktrees, str(tmp_path / "partial")).raw_message


def test_submodules_and_pointers_of_large_files_are_left_as_they_are(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n"
    (repo / "big.bin").write_text(pointer)
    (repo / ".gitattributes").write_text("big.bin filter=lfs diff=lfs merge=lfs -text\n")
    shutil.copytree(repo, tmp_path / "other")
    allowed = ("-c", "protocol.file.allow=always")
    git(repo, *allowed, "submodule", "--quiet", "add", str(tmp_path / "other"), "module")
    commit_all(repo)
    seen: list[object] = []

    def look(folder: Path) -> None:
        seen.extend([(folder / "big.bin").read_text(), list((folder / "module").iterdir())])

    assert diff_after(worktrees, repo, look) == ""
    assert seen == [pointer, []]


# ------------------------------------------------------------------------------------ addresses
@pytest.mark.parametrize("address", ["{repo}", "{repo}/", "{repo}/.git", "file://{repo}", "source"])
def test_addresses(
    worktrees: Worktrees, repo: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(repo.parent)

    assert "a.txt" in files_after(worktrees, address.format(repo=repo))


@pytest.mark.parametrize(
    ("address", "commit", "reason"),
    [
        ("", None, "no repository"),
        ("--upload-pack=touch x", None, "no repository"),
        ("ext::sh -c touch% x", None, "no repository"),
        ("no/such/folder", None, "no folder"),
        (".", None, "cannot be fetched"),
        ("file:///no/such/folder", None, "cannot be fetched"),
        ("ftp://127.0.0.1/x.git", None, "cannot be fetched"),
        ("git@127.0.0.1:owner/repo.git", None, "cannot be fetched"),
        ("http://127.0.0.1:9/x.git", None, "cannot be fetched"),
        ("{repo}", "--all", "no commit"),
        ("{repo}", "a b", "no commit"),
        ("{repo}", "v3", "no commit 'v3'"),
        ("{repo}", "0" * 40, "no commit '000"),
        ("{repo}", "HEAD~7", "no commit 'HEAD~7'"),
    ],
)
def test_what_does_not_exist_is_told_in_words(
    worktrees: Worktrees, repo: Path, address: str, commit: str | None, reason: str
) -> None:
    error = refusal(worktrees, address.format(repo=repo), commit)

    assert reason in error.raw_message
    assert error.hint


def test_a_password_in_an_address_is_masked(worktrees: Worktrees) -> None:
    error = refusal(worktrees, "http://me:s3cret-t0ken@127.0.0.1:9/x.git")

    assert "s3cret-t0ken" not in f"{error} {error.raw_message}"


def test_without_git_the_hint_says_what_to_install(repo: Path, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    worktrees = Worktrees(tmp_path / "cache", tmp_path / "work", environment=environment)

    assert "Install git" in refusal(worktrees, str(repo)).hint


def test_a_hostile_source_runs_nothing(worktrees: Worktrees, repo: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {touched}\ncat\n")
    program.chmod(0o755)
    (repo / ".gitattributes").write_text("* filter=bad diff=bad\n")
    commit_all(repo)
    for hook in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction"):
        (repo / ".git" / "hooks").mkdir(exist_ok=True)
        shutil.copy(program, repo / ".git" / "hooks" / hook)
    for name in (
        *("filter.bad.smudge", "filter.bad.clean", "filter.bad.process", "diff.bad.textconv"),
        *("core.fsmonitor", "core.sshCommand", "core.gitProxy", "core.alternateRefsCommand"),
        *("core.editor", "core.pager", "diff.external", "uploadpack.packObjectsHook"),
    ):
        git(repo, "config", name, str(program))

    patch = diff_after(worktrees, repo, lambda f: (f / "a.txt").write_text("changed\n"))

    assert "+changed" in patch
    assert not touched.exists()


def test_a_source_of_another_user_is_read(repo: Path, tmp_path: Path) -> None:
    foreign = {**git_environment(), "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    worktrees = Worktrees(tmp_path / "cache", tmp_path / "work", environment=foreign)

    assert "a.txt" in files_after(worktrees, repo)


def test_the_users_own_settings_run_nothing(
    worktrees: Worktrees, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"touch {tmp_path}/touched; cat"
    config = Path(os.environ["HOME"], ".gitconfig")
    config.write_text(f'[diff]\nexternal = "{program}"\n[core]\nfsmonitor = "{program}"\n')
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", program)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    worktrees = Worktrees(tmp_path / "cache", tmp_path / "work")
    monkeypatch.delenv("GIT_DIR")

    patch = diff_after(worktrees, repo, lambda f: (f / "a.txt").write_text("changed\n"))

    assert "+changed" in patch
    assert not (tmp_path / "touched").exists()


# ---------------------------------------------------------------------------- many, and the end
def test_fifty_at_once_share_one_clone_and_no_file(
    worktrees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    together = 50
    all_there = asyncio.Barrier(together)

    async def work(number: int) -> str:
        async with worktrees.checkout(str(repo), "HEAD" if number % 2 else "HEAD~1") as tree:
            await asyncio.wait_for(all_there.wait(), PROCESS_SECONDS)
            (tree.path / "a.txt").write_text(f"of {number}\n")
            return await tree.diff()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(work, range(together)))

    patches = asyncio.run(all_of_them())

    assert all(f"+of {number}\n" in patch for number, patch in enumerate(patches))
    assert len(list((tmp_path / "cache").glob("*.git"))) == 1
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("ends", ["error", "cancelled", "cancelled twice"])
def test_a_checkout_is_removed_on_every_way_out(
    worktrees: Worktrees, repo: Path, tmp_path: Path, ends: str
) -> None:
    async def work(started: asyncio.Event) -> None:
        async with worktrees.checkout(str(repo)) as tree:
            (tree.path / "sub").chmod(0)
            started.set()
            if ends == "error":
                raise LookupError
            await asyncio.Event().wait()

    async def work_and_end() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(work(started))
        await started.wait()
        task.cancel()
        if ends == "cancelled twice":
            await asyncio.sleep(0)  # it has begun to remove the folder
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work_and_end())

    assert list((tmp_path / "work").iterdir()) == []


KILLED = """
import asyncio, os, sys
from pathlib import Path
from chutes_opencode.batch.repositories.git import git_environment
from chutes_opencode.batch.repositories.worktrees import Worktrees

async def work():
    cache, folder, repo = map(Path, sys.argv[1:])
    async with Worktrees(cache, folder).checkout(str(repo)):
        print("there", flush=True)
        await asyncio.Event().wait()

asyncio.run(work())
"""


def test_what_a_killed_process_left_is_removed_by_the_next(
    worktrees: Worktrees,
    repo: Path,
    tmp_path: Path,
    run_python: Callable[..., subprocess.Popen[str]],
) -> None:
    work = tmp_path / "work"
    process = run_python(KILLED, str(tmp_path / "cache"), str(work), str(repo))
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    [left] = work.iterdir()
    [mirror] = (tmp_path / "cache").glob("*.git")
    for name in ("packed-refs.lock", "refs/heads/main.lock", "config.lock", "shallow.lock"):
        (mirror / name).touch()
    (repo / "newest.txt").write_text("newest\n")
    commit_all(repo)

    files = files_after(worktrees, repo, "main")

    assert "newest.txt" in files
    assert not left.exists()
    assert list(work.iterdir()) == []


def test_two_processes_share_a_mirror(
    worktrees: Worktrees,
    repo: Path,
    tmp_path: Path,
    run_python: Callable[..., subprocess.Popen[str]],
) -> None:
    process = run_python(KILLED, str(tmp_path / "cache"), str(tmp_path / "work"), str(repo))
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    [theirs] = (tmp_path / "work").iterdir()

    assert "a.txt" in files_after(worktrees, repo)
    assert theirs.exists()
    process.send_signal(signal.SIGINT)
    assert process.wait(PROCESS_SECONDS) != 0
    assert not theirs.exists()
    process.communicate()


def test_no_room_is_told_in_words(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    error = refusal(Worktrees(tmp_path / "cache", tmp_path / "file" / "work"), str(repo))

    assert "no place to check" in error.raw_message
