"""Sessions that outlive their prompt: kept on disk, found by id, used by one call at a time.

A kept session is a folder with opencode's database (or, from a warm server, a document of its
messages), the agent's own folder and a card that says which engine, host and opencode version made
it. A call works on a copy and puts it back only when it succeeded, so a failed attempt leaves the
session as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.supervisor import remove_tree

LOCK_POLL_SECONDS = 0.05
KEPT_NAME = "opencode-session"
_SESSION_ID = re.compile(r"ses_[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class SessionCard:
    """What a kept session is bound to.

    Attributes:
        engine: Engine that made it.
        host: Machine that holds it.
        version: opencode version of its database.
        folder: Where it is kept.
        work_dir: The agent's folder.
    """

    engine: str
    host: str
    version: str
    folder: str
    work_dir: str

    @property
    def data(self) -> Path:
        """The folder of the session's database or document."""
        return Path(self.folder) / "data"

    @property
    def document(self) -> Path:
        """The file of the session's messages, where the engine keeps these."""
        return self.data / "session.json"

    def refuse_move(self, keep: bool | Path) -> None:
        """Refuse another folder than the one that the session is kept in.

        Raises:
            ConfigurationError: `keep` names another folder.
        """
        if isinstance(keep, Path) and keep.absolute() / KEPT_NAME != Path(self.folder):
            raise ConfigurationError(
                raw_message=f"the session is kept in {self.folder}, not in {keep}",
                hint="Continue it with keep_session=True: it stays where it is.",
            )


class SessionStore:
    """All kept sessions of a user, below one folder."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it is made when a session is kept."""
        self._root = root

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def engine_of(self, session_id: str) -> str | None:
        """Tell which engine a session is bound to; None: it is not kept here.

        Raises:
            ConfigurationError: That is no session id.
        """
        card = self._read(session_id)
        return card.engine if card else None

    def find(self, session_id: str, *, engine: str, version: str) -> SessionCard:
        """Look a session up.

        Args:
            session_id: opencode's id.
            engine: Engine that shall continue it.
            version: opencode version that shall continue it.

        Raises:
            ConfigurationError: It is not kept here, or belongs to another engine, host or version.
        """
        card = self._read(session_id)
        if card is None or not card.data.is_dir():
            raise ConfigurationError(
                raw_message=f"session {session_id!r} is not kept here",
                hint="Pass keep_session=True to each call whose session shall be continued.",
            )
        wanted = {"engine": engine, "host": socket.gethostname(), "opencode version": version}
        found = {"engine": card.engine, "host": card.host, "opencode version": card.version}
        for name, value in wanted.items():
            if found[name] != value:
                raise ConfigurationError(
                    raw_message=f"{session_id} is bound to {name} {found[name]}, not {value}",
                    hint=f"Pass engine={card.engine!r} (--engine …), or begin a new one."
                    if name == "engine"
                    else "Continue it where it was made, or begin a new session.",
                )
        return card

    def place(self, keep: Path | None, *, engine: str, version: str) -> SessionCard:
        """Make the folder of a session that is about to begin.

        Args:
            keep: Folder that the caller wants; None: one of ours.
            engine: Engine that makes it.
            version: opencode version that makes it.

        Raises:
            ConfigurationError: The folder cannot be made, or holds a session already.
        """
        # In a caller's folder ours is a folder of its own: removing it must not remove theirs.
        folder = keep.absolute() / KEPT_NAME if keep else self._root.absolute() / uuid.uuid4().hex
        if folder.exists():
            raise ConfigurationError(raw_message=f"{folder} already holds a kept session")
        work = folder / "work"
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                raw_message=f"the session folder {folder} cannot be made: {error}"
            ) from error
        return SessionCard(engine, socket.gethostname(), version, str(folder), str(work))

    def keep(self, session_id: str, card: SessionCard, data: Path) -> None:
        """Put a session's database into its folder, in place of the one before."""
        fresh = card.data.with_name(f"data-{uuid.uuid4().hex}")
        shutil.copytree(data, fresh, ignore=shutil.ignore_patterns("log"))
        remove_tree(str(card.data))
        fresh.rename(card.data)
        self._enter(session_id, card)

    def keep_document(self, session_id: str, card: SessionCard, text: str) -> None:
        """Write a session's document, in place of the one before."""
        card.data.mkdir(parents=True, exist_ok=True)
        _write_whole(card.document, text)
        self._enter(session_id, card)

    def forget(self, session_id: str) -> None:
        """Remove a session; nothing happens when it is not kept."""
        card = self._read(session_id)
        if card is not None:
            self.discard(card)
            self._entry(session_id).unlink(missing_ok=True)
            self._lock_file(session_id).unlink(missing_ok=True)

    def discard(self, card: SessionCard) -> None:
        """Remove the folder of a session that never came to be, or is no longer wanted."""
        remove_tree(card.folder)

    @asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """Hold a session for one call; others, of any process, wait their turn."""
        _check_id(session_id)
        self._root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_file(session_id), thread_local=False)
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                await asyncio.sleep(LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _read(self, session_id: str) -> SessionCard | None:
        _check_id(session_id)
        try:
            return SessionCard(**json.loads(self._entry(session_id).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _enter(self, session_id: str, card: SessionCard) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        _write_whole(self._entry(session_id), json.dumps(asdict(card)))

    def _entry(self, session_id: str) -> Path:
        return self._root / f"{session_id}.json"

    def _lock_file(self, session_id: str) -> Path:
        return self._root / f"{session_id}.lock"


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it, even after a crash, finds the old one or the new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def _check_id(session_id: str) -> None:
    if not _SESSION_ID.fullmatch(session_id):
        raise ConfigurationError(raw_message=f"{session_id!r} is no session id (ses_…)")
