"""Where an attempt works: the agent's folder, and the kept session, if any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError
from chutes_opencode.opencode.sessions import SessionCard, SessionStore
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.request import PromptRequest


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the agent works, and the kept session that it works on.

    Attributes:
        work_dir: The agent's folder.
        session_id: The session that is continued; None: a new one.
        card: Where the session is kept; None: it is not.
    """

    work_dir: Path
    session_id: str | None = None
    card: SessionCard | None = None


@asynccontextmanager
async def take_seat(
    request: PromptRequest,
    default: Path,
    sessions: SessionStore,
    *,
    engine: str,
    version: str,
) -> AsyncIterator[Seat]:
    """Find or make the session's place and the agent's folder.

    Args:
        request: What is run.
        default: The agent's folder where neither request nor session names one.
        sessions: Where sessions are kept.
        engine: Name of the engine that keeps and continues them.
        version: opencode's version.

    Raises:
        ConfigurationError: No such folder or session, or one of another engine or version.
        PromptTimeoutError: The session was in use all the time.
    """
    if request.session_id is not None:
        # Before the wait as well: of a session that is not there, not even a lock shall be.
        sessions.find(request.session_id, engine=engine, version=version)
        async with AsyncExitStack() as stack:
            await _take_turn(stack, sessions, request.session_id, request.timeout_seconds)
            card = sessions.find(request.session_id, engine=engine, version=version)
            card.refuse_move(request.keep_session)
            yield Seat(work_folder(request, Path(card.work_dir)), request.session_id, card)
    elif request.keep_session:
        keep = request.keep_session if isinstance(request.keep_session, Path) else None
        card = sessions.place(keep, engine=engine, version=version)
        try:
            folder = work_folder(request, Path(card.work_dir))
            # A later turn goes on in the same folder, whoever's it is.
            yield Seat(folder, None, replace(card, work_dir=str(folder)))
        except BaseException:
            sessions.discard(card)
            raise
    else:
        yield Seat(work_folder(request, default))


def settle(
    request: PromptRequest,
    workspace: Workspace,
    sessions: SessionStore,
    card: SessionCard,
    evidence: Evidence,
    *,
    accepted: bool,
) -> None:
    """Keep the session, forget it, or leave it as it was before the attempt."""
    session_id = evidence.transcript.session_id
    if accepted and session_id and request.keep_session:
        sessions.keep(session_id, card, workspace.data)
    elif accepted and request.session_id:
        sessions.forget(request.session_id)
    elif request.session_id is None:
        sessions.discard(card)


async def _take_turn(
    stack: AsyncExitStack, sessions: SessionStore, session_id: str, seconds: float
) -> None:
    """Wait for the session; others may be using it."""
    try:
        async with asyncio.timeout(seconds):
            await stack.enter_async_context(sessions.turn(session_id))
    except TimeoutError as error:
        raise PromptTimeoutError(
            raw_message=f"session {session_id} was in use for {seconds:g} s"
        ) from error


def work_folder(request: PromptRequest, default: Path) -> Path:
    """Return the folder that the request names, else the default.

    Raises:
        ConfigurationError: It is no folder.
    """
    folder = request.work_dir or default
    if not folder.is_dir():
        raise ConfigurationError(
            raw_message=f"work_dir {folder} is no folder", hint="Make the folder, or name another."
        )
    return folder.resolve()
