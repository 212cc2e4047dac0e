"""A working tree of its own for each prompt on a repository, and what the agent changed in it.

Objects are fetched once, into a bare mirror in the cache. A checkout is a small repository of its
own that borrows the mirror's objects, rather than one of `git worktree`: branches, stashes and
settings of one agent reach no other, and nothing is to be seen of what came after the commit.
The changes are read by a second repository beside it, which the agent does not know: the patch is
right whatever became of its own (commits, settings, even its removal).

Left alone: submodules (their folders are empty, changes in them are no part of the patch), large
files of Git LFS (their pointers are what is checked out), changes of a local repository that are
not committed. As in SWE-bench, files that a `.gitignore` names are no part of the patch.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from chutes_opencode.batch.repositories.git import (
    FETCH_SECONDS,
    Git,
    git_environment,
    make_git,
    too_large,
)
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import register_secret
from chutes_opencode.opencode.workspace import OWNER_FILE, PREFIX, sweep_once
from chutes_opencode.process import process_start_time
from chutes_opencode.supervisor import remove_tree

MAX_CHANGED_BYTES = 128 << 20
"""Size of changed files, before they are compared, above which there is no patch."""
PLACES = 4
"""How many git processes run at once."""
LOCK_SECONDS = 0.1  # between looks whether another process has let go of a mirror

_T = TypeVar("_T")
_HEAD = "refs/remotes/origin/HEAD"
_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", f"+HEAD:{_HEAD}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = re.compile(r"[^\s:\\\x00-\x1f-][^\s:\\\x00-\x1f]*")
_HELPER = re.compile(r"\w+::")
_SCP = re.compile(r"[^/]+:")
_REPO_HINT = (
    "Check the path or URL; of a private repository make a clone with your own git, and name its "
    "path."
)
_COMMIT_HINT = "Check the commit: a hash, tag or branch of that repository."


@dataclass(frozen=True, slots=True)
class Worktree:
    """A repository's files at a commit, for one prompt.

    Attributes:
        path: The folder; a git repository.
        commit: The full hash of what was checked out.
    """

    path: Path
    commit: str
    _git: Git = field(repr=False)
    _judge: Path = field(repr=False)

    async def diff(self) -> str:
        """Return what is different from the commit now, as a patch that `git apply` takes.

        New, deleted, renamed and binary files, modes and symbolic links are in it, whether the
        agent has committed them or not. Where a changed text is no UTF-8 all files are written as
        binary ones. Empty: nothing has changed.

        Raises:
            ConfigurationError: The folder is gone, or the change is too large: files of more than
                128 MiB, or a patch of more than 32 MiB.
        """
        left_out = await self._check_changes()
        await self._run("add", "--all", "--", ".", *left_out)
        attributes = self._judge / "info" / "attributes"
        for text in ("", "* -diff\n"):
            attributes.write_text(text)
            patch = await self._run(
                *("diff", "--cached", "--binary", "--find-renames", "--no-color"),
                *("--no-ext-diff", "--no-textconv", "--ignore-submodules=all", self.commit),
            )
            with suppress(UnicodeDecodeError):
                return patch.decode("utf-8")
        raise AssertionError("a patch of binary files is ASCII")

    async def _check_changes(self) -> list[str]:
        """Refuse what is too large to be compared; return what to leave out: other repositories."""
        kinds = ("--others", "--modified", "--exclude-standard")
        listed = await self._run("ls-files", "-z", *kinds)
        paths = [os.fsdecode(path) for path in listed.split(b"\0") if path]
        sizes = await _in_thread(self._sizes, paths)
        if sum(sizes.values()) > MAX_CHANGED_BYTES:
            largest = max(sizes, key=lambda path: sizes[path])
            total = sum(sizes.values()) >> 20
            raise too_large(
                f"{len(sizes)} files of {total} MiB, {largest!r} of {sizes[largest] >> 20} MiB"
            )
        inner = [path for path in paths if path.endswith("/")]
        return [f":(exclude,literal){path.rstrip('/')}" for path in inner]

    def _sizes(self, paths: list[str]) -> dict[str, int]:
        sizes = {}
        for path in paths:
            with suppress(OSError):  # deleted
                sizes[path] = (self.path / path).lstat().st_size
        return sizes

    async def _run(self, *arguments: str) -> bytes:
        if not self.path.is_dir() or self.path.is_symlink():
            raise ConfigurationError(
                raw_message="the agent has removed the folder of its repository",
                hint="Its answer is kept; there is no patch.",
            )
        where = ("--git-dir", self._judge, "--work-tree", self.path, "-C", self.path)
        return await self._git.check("the agent's changes cannot be read", *where, *arguments)


class Worktrees:
    """Makes working trees; for one event loop at a time.

    Several processes may share its folders. What a process left behind that was killed is removed
    by the next one.
    """

    def __init__(
        self, cache_root: Path, work_root: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Make nothing yet.

        Args:
            cache_root: Where the mirrors are kept; it may be deleted when nothing runs.
            work_root: Where the working trees are, each as long as its prompt.
            environment: What git gets; None: the caller's without its keys and git settings.
        """
        self._cache_root = cache_root.absolute()
        self._work_root = work_root.absolute()
        self._environment = git_environment() if environment is None else environment
        self._places = asyncio.Semaphore(PLACES)
        self._locks: dict[Path, asyncio.Lock] = {}
        self._fetched: set[Path] = set()
        self._resolved: dict[tuple[str, str], str] = {}

    @asynccontextmanager
    async def checkout(self, repo: str, commit: str | None = None) -> AsyncIterator[Worktree]:
        """Check a commit out into a folder of its own, and remove it at the end.

        Args:
            repo: Path of a local repository (relative to the current folder), or URL.
            commit: Hash, tag or branch; None: the repository's HEAD. What a name means is looked
                up once: it stays the same for all later checkouts.

        Raises:
            ConfigurationError: No git, no such repository or commit, or no place on the disk.
        """
        source, commit = checked_source(repo), checked_commit(commit)
        with suppress(OSError):  # of another process's folder
            await _in_thread(sweep_once, self._work_root)
        root = self._make_root(repo)  # here: nobody would remove what a thread makes too late
        owner = os.getpid()
        try:
            git = make_git(root, self._environment, self._places)
            mirror = self._mirror_of(source)
            full = await self._resolve(git, mirror, source, commit)
            yield await self._populate(git, mirror, source, full)
        finally:
            if os.getpid() == owner:  # a forked child closes its copy of this generator, too
                with suppress(OSError):  # the next process tries again; the answer is paid for
                    await _in_thread(remove_tree, str(root))

    def _make_root(self, repo: str) -> Path:
        try:
            for folder in (self._cache_root, self._work_root):
                folder.mkdir(parents=True, exist_ok=True)
            root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._work_root))
            owner = {"pid": os.getpid(), "start_time": process_start_time(os.getpid())}
            (root / OWNER_FILE).write_text(json.dumps(owner))
        except OSError as error:
            raise ConfigurationError(
                raw_message=f"there is no place to check {repo} out: {error}",
                hint="Free some space, or make that folder writable.",
            ) from error
        return root

    def _mirror_of(self, source: str) -> Path:
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        return self._cache_root / f"{_name_of(source)}-{digest}.git"

    async def _resolve(self, git: Git, mirror: Path, source: str, commit: str) -> str:
        """Return the full hash of a commit that the mirror then has."""
        async with self._locks.setdefault(mirror, asyncio.Lock()):
            known = self._resolved.get((source, commit))
            if known is None:
                async with _held(mirror.with_suffix(".lock")):
                    known = await self._look_up(git, mirror, source, commit)
                self._resolved[source, commit] = known
        if not known:
            raise ConfigurationError(
                raw_message=f"there is no commit {commit!r} in {source}", hint=_COMMIT_HINT
            )
        return known

    async def _look_up(self, git: Git, mirror: Path, source: str, commit: str) -> str:
        """Fetch what is missing, and return the full hash; empty: there is no such commit."""
        if not (mirror / "HEAD").exists():
            form = "sha256" if len(commit) == 64 and _HASH.fullmatch(commit) else "sha1"
            options = ("--bare", "--quiet", "--template=", f"--object-format={form}")
            await git.check("the cache cannot be written", "init", *options, mirror)
        await _in_thread(_clear_locks, mirror)
        is_hash = _HASH.fullmatch(commit) is not None
        if is_hash and (found := await self._rev_parse(git, mirror, commit)):
            return found
        if mirror not in self._fetched:
            what = f"{source} (wanted: {commit}) cannot be fetched"
            arguments = _fetch(mirror, source, *_REFS)
            await git.check(what, *arguments, hint=_REPO_HINT, seconds=FETCH_SECONDS)
            self._fetched.add(mirror)
        found = await self._rev_parse(git, mirror, commit)
        if not found and is_hash:  # no branch holds it; many servers give it all the same
            refs = f"+{commit}:refs/wanted/{commit}"
            await git.run(*_fetch(mirror, source, refs), seconds=FETCH_SECONDS)
            found = await self._rev_parse(git, mirror, commit)
        return found

    async def _rev_parse(self, git: Git, mirror: Path, commit: str) -> str:
        name = re.sub(r"^HEAD\b", _HEAD, commit)
        wanted = ("--quiet", "--end-of-options", f"{name}^{{commit}}")
        ran = await git.run("--git-dir", mirror, "rev-parse", "--verify", *wanted)
        return ran.output.decode().strip() if ran.returncode == 0 else ""

    async def _populate(self, git: Git, mirror: Path, source: str, commit: str) -> Worktree:
        tree, judge = git.root / _name_of(source), git.root / "judge.git"
        await _in_thread(_lay_out, tree, judge, mirror, commit)
        await git.check(
            f"{commit} of {source} cannot be checked out",
            *("--git-dir", judge, "--work-tree", tree),
            *("read-tree", "--reset", "-u", commit),
            hint="Free some space; of a partial or shallow clone name its source instead.",
        )
        # With its index: git then sees at once that nothing has changed.
        await _in_thread(shutil.copytree, judge, tree / ".git")
        return Worktree(tree, commit, git, judge)


def checked_source(repo: str) -> str:
    """Return the address of a repository as git takes it: a URL, or an absolute path.

    Raises:
        ConfigurationError: It can be none.
    """
    if not repo.strip() or repo.startswith("-") or _HELPER.match(repo) or not repo.isprintable():
        raise ConfigurationError(raw_message=f"{repo!r} is no repository", hint=_REPO_HINT)
    if "://" in repo:
        try:
            password = urlsplit(repo).password or ""
        except ValueError as error:
            raise ConfigurationError(
                raw_message=f"{repo!r} is no repository: {error}", hint=_REPO_HINT
            ) from error
        for secret in (password, unquote(password)):
            register_secret(secret)
        return repo
    path = Path(repo).expanduser()
    if _SCP.match(repo) and not path.exists():  # git's own rule: host:path
        return repo
    if not path.is_dir():
        raise ConfigurationError(raw_message=f"there is no folder {path}", hint=_REPO_HINT)
    return str(path.absolute())


def checked_commit(commit: str | None) -> str:
    """Return what to look up for a commit.

    Raises:
        ConfigurationError: It can be no name of one.
    """
    if commit is None or commit == "":
        return "HEAD"
    if not _NAME.fullmatch(commit):
        raise ConfigurationError(raw_message=f"{commit!r} is no commit", hint=_COMMIT_HINT)
    return commit.lower() if _HASH.fullmatch(commit.lower()) else commit


def _name_of(source: str) -> str:
    """Return what a repository is called, as a name of a folder."""
    last = re.split(r"[/:]", source.rstrip("/").removesuffix(".git").rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9_-]", "-", last)[:60].strip("-") or "repository"


def _fetch(mirror: Path, source: str, *refs: str) -> tuple[str | Path, ...]:
    options = ("--quiet", "--no-tags", "--prune", "--force", "--update-shallow")
    return ("--git-dir", mirror, "fetch", *options, "--no-write-fetch-head", "--", source, *refs)


def _clear_locks(mirror: Path) -> None:
    """Remove the locks of a git that was killed; ours says that no other writes here."""
    for lock in (*mirror.glob("*.lock"), *(mirror / "refs").rglob("*.lock")):
        lock.unlink(missing_ok=True)


def _lay_out(tree: Path, judge: Path, mirror: Path, commit: str) -> None:
    """Make an empty folder, and a repository that borrows the mirror's objects."""
    tree.mkdir()
    for folder in ("objects/info", "refs/heads", "info"):
        (judge / folder).mkdir(parents=True)
    (judge / "objects" / "info" / "alternates").write_text(f"{mirror / 'objects'}\n")
    (judge / "HEAD").write_text(f"{commit}\n")
    sha256 = len(commit) == 64
    config = f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = false\n"
    config += "\tlogAllRefUpdates = true\n"
    config += "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
    (judge / "config").write_text(config)
    if (mirror / "shallow").exists():
        shutil.copy(mirror / "shallow", judge / "shallow")


async def _in_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """Run a function in a thread; when cancelled, wait for its end all the same.

    Nothing may write to a folder that is being removed, and removals are not left out.
    """
    work = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


@asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    """Hold a lock that processes share; waiting for it can be cancelled."""
    from filelock import FileLock, Timeout  # with asyncio behind it: only who needs it pays

    lock = FileLock(path, thread_local=False)
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            await asyncio.sleep(LOCK_SECONDS)
    try:
        yield
    finally:
        lock.release()
