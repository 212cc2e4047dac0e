"""Sessions on warm servers: how a prompt's session begins, and what becomes of it in the end.

What is kept is a document of the session's messages, on disk. The session on a server is a copy of
it: a turn that failed leaves the document as it was, and any later server takes it over. As long as
copy and document agree, the next turn goes on with the copy that is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from chutes_opencode.engines.off_loop import off_loop
from chutes_opencode.engines.outputs import outputs_folder
from chutes_opencode.engines.seat import Seat
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.opencode.api import ApiError, Rules, ServerGoneError
from chutes_opencode.opencode.config import holds_for_sub_agents, permission_rules, rule_list
from chutes_opencode.opencode.history import import_document, replay_events
from chutes_opencode.opencode.sessions import SessionCard, SessionStore
from chutes_opencode.request import ChatMessage, PromptRequest

if TYPE_CHECKING:
    from chutes_opencode.engines.server import Server

CLOSE_SECONDS = 10.0
MAX_RESIDENTS = 256
"""Copies that wait on servers for their next turn; those of other sessions are made from disk."""

Rows = Sequence[dict[str, Any]]
"""Messages of a session as a server returns them, `{"info": …, "parts": […]}` each."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A session as an attempt works on it.

    Attributes:
        server: Where it is.
        session_id: opencode's id of it there.
        public_id: The id that callers know it by; it stays the first one.
        directory: The agent's folder.
        rules: What its tools may do.
        before: Number of messages that were there before the attempt's.
        history: Messages that the relay puts before the session's own.
    """

    server: Server
    session_id: str
    public_id: str
    directory: Path
    rules: Rules
    before: int = 0
    history: tuple[ChatMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class _Document:
    """What is kept of a session.

    Attributes:
        revision: Another one after each turn.
        history: Messages that were given with the first turn, and never to opencode.
        messages: opencode's.
    """

    revision: str = ""
    history: tuple[ChatMessage, ...] = ()
    messages: Rows = ()


@dataclass(frozen=True, slots=True)
class _Resident:
    """A copy on its server that waits for its next turn.

    Attributes:
        copy: It.
        revision: Of the document that it agrees with.
        keeper: The instance's sessions that have left it there.
    """

    copy: Copy
    revision: str
    keeper: KeptSessions


class _Residents(dict[str, _Resident]):
    """The copies of one store's sessions in this process, by public id, the oldest first."""


# All instances of a process know of a store's copies: a session that one of them continues or
# forgets has no copy of another's left. They are there as long as an instance is.
_residents: WeakValueDictionary[tuple[int, Path], _Residents] = WeakValueDictionary()


class KeptSessions:
    """The sessions of an instance's warm servers; bound to their event loop."""

    def __init__(self, store: SessionStore) -> None:
        """Name where sessions are kept."""
        self._store = store
        self._residents = _residents.setdefault((os.getpid(), store.root), _Residents())
        self._closed = False

    async def begin(
        self, request: PromptRequest, server: Server, seat: Seat, directory: Path
    ) -> Copy:
        """Make the session of an attempt, or a copy of the one that it continues.

        Args:
            request: What is run.
            server: Where.
            seat: With the card of a session that is kept.
            directory: The agent's folder.

        Returns:
            The copy; `settle` ends what begins here.

        Raises:
            ConfigurationError: The kept session cannot be read.
            UnknownOpenCodeError: The server does not take its messages.
            ServerGoneError: Nobody answers.
            ApiError: The server refuses to make a session.
        """
        rules = _rules(request, server)
        kept = _Document(history=request.history)
        if request.session_id is not None and seat.card is not None:
            kept = _read(request.session_id, seat.card)
            resident = await self._take(request.session_id, kept, server, directory, rules)
            if resident is not None:
                return resident
        past, history = _placed(request, server, directory, kept)
        session_id = await _make(server, directory, rules, past)
        public_id = request.session_id or session_id
        return Copy(server, session_id, public_id, directory, rules, len(past), history)

    async def settle(
        self, copy: Copy, seat: Seat, request: PromptRequest, *, accepted: bool
    ) -> None:
        """Keep the session, forget it, or leave it as it was before the attempt.

        Args:
            copy: From `begin`.
            seat: As in `begin`.
            request: As in `begin`.
            accepted: Whether the attempt succeeded.

        Raises:
            ServerGoneError: Its messages cannot be read; it is as it was.
            ApiError: So can they not.
            OSError: They cannot be written; it is as it was.
        """
        if accepted and request.keep_session and seat.card is not None:
            await self._keep(copy, seat.card)
            return
        await drop(copy)
        if accepted and request.session_id:
            self._store.forget(request.session_id)
        elif request.session_id is None and seat.card is not None:
            self._store.discard(seat.card)

    async def forget(self, session_id: str) -> None:
        """Remove a kept session; nothing happens when it is not kept.

        Raises:
            ConfigurationError: That is no session id.
        """
        await off_loop(self._store.forget, session_id)
        await self._drop_resident(session_id)

    async def close(self) -> None:
        """Delete the copies that wait for their next turn; the sessions are kept.

        Others may go on using their servers. Bounded.
        """
        self._closed = True
        own = [name for name, resident in self._residents.items() if resident.keeper is self]
        copies = [self._residents.pop(name).copy for name in own]
        if copies:
            deleting = [asyncio.create_task(drop(copy)) for copy in copies]
            _, late = await asyncio.wait(deleting, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    async def _keep(self, copy: Copy, card: SessionCard) -> None:
        """Write the document; the copy stays where it is, for the next turn."""
        try:
            rows = await copy.server.api.messages(copy.session_id)
            document = _Document(uuid.uuid4().hex, copy.history, rows)
            # Not in a thread: a cancelled one would write into a folder that is removed.
            self._store.keep_document(copy.public_id, card, json.dumps(asdict(document)))
        except BaseException:
            await drop(copy)
            raise
        for name, other in tuple(self._residents.items()):
            if not other.copy.server.alive:
                del self._residents[name]
        if self._closed:
            await drop(copy)
            return
        left = replace(copy, before=len(rows))
        self._residents[copy.public_id] = _Resident(left, document.revision, self)
        if len(self._residents) > MAX_RESIDENTS:
            await self._drop_resident(next(iter(self._residents)))

    async def _take(
        self, public_id: str, kept: _Document, server: Server, directory: Path, rules: Rules
    ) -> Copy | None:
        """Return the copy that is there, if it agrees with the document and with what is asked."""
        resident = self._residents.get(public_id)
        if resident is None:
            return None
        copy = resident.copy
        found = (resident.revision, copy.server, copy.directory, copy.rules)
        if server.alive and found == (kept.revision, server, directory, rules):
            return self._residents.pop(public_id).copy
        await self._drop_resident(public_id)
        return None

    async def _drop_resident(self, public_id: str) -> None:
        resident = self._residents.pop(public_id, None)
        if resident is not None:
            await drop(resident.copy)


async def drop(copy: Copy) -> None:
    """Delete a copy from its server; with the server it is gone anyway."""
    await _delete(copy.server, copy.session_id)


def _rules(request: PromptRequest, server: Server) -> Rules:
    """Return the session's rules; none where the server's config has to hold them."""
    rules = permission_rules(request)
    if not holds_for_sub_agents(rules):
        return []
    return rule_list(rules, outputs=outputs_folder(server.workspace))


def _placed(
    request: PromptRequest, server: Server, directory: Path, kept: _Document
) -> tuple[Rows, tuple[ChatMessage, ...]]:
    """Return what opencode is given of the past, and what the relay puts before that."""
    if not kept.history or server.lease is not None:
        return kept.messages, kept.history
    # Without the relay the history becomes messages of the session, as with `opencode run`.
    asked = replace(request, history=kept.history)
    document = import_document(asked, server.plan.target.provider, directory)
    return [*document["messages"], *kept.messages], ()


async def _make(server: Server, directory: Path, rules: Rules, past: Rows) -> str:
    """Make a session that holds messages."""
    session_id = await server.api.create(directory, rules)
    if not past:
        return session_id
    try:
        await server.api.replay(directory, replay_events(session_id, past))
    except BaseException as error:
        await _delete(server, session_id)
        if isinstance(error, ApiError):
            raise UnknownOpenCodeError(
                status=error.status, raw_message=f"opencode refused the session's messages: {error}"
            ) from error
        raise
    return session_id


async def _delete(server: Server, session_id: str) -> None:
    """Delete a session; with its server it is gone anyway."""
    with suppress(ServerGoneError, ApiError):
        if server.alive:
            await server.api.delete(session_id)


def _read(session_id: str, card: SessionCard) -> _Document:
    try:
        found = json.loads(card.document.read_text())
        history = tuple(ChatMessage(**message) for message in found["history"])
        return _Document(found["revision"], history, found["messages"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            raw_message=f"session {session_id} cannot be read: {card.document}: {error!r}",
            hint="Begin a new session.",
        ) from error
