"""ServeEngine: a session per prompt on a warm `opencode serve`, which many prompts share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from chutes_opencode.engines.base import Evidence, Observe, not_run
from chutes_opencode.engines.kept import Copy, KeptSessions, drop
from chutes_opencode.engines.leftovers import end_leftovers
from chutes_opencode.engines.outputs import delete_outputs
from chutes_opencode.engines.plans import Plans
from chutes_opencode.engines.pool import ServerPool
from chutes_opencode.engines.seat import Seat, take_seat
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.turn import Seated, Turn
from chutes_opencode.engines.watchdog import TOOL_FINISHES, Patience
from chutes_opencode.engines.wire import GuardWire, Wire, booked, complete_terms
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError, UnknownOpenCodeError
from chutes_opencode.events import Waiting
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.opencode.config import Target, body_values
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.relay.server import Relay, shared_relay
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange

TIDY_SECONDS = 10.0
LOOK_SECONDS = 0.05
QUIET_SECONDS = 2.0  # a shorter wait is not worth telling


class NoServerError(Exception):
    """No server came up; the next try may find one."""


@dataclass(slots=True)
class _Waits:
    """What a prompt waits for before it begins."""

    what: str = ""


@dataclass(slots=True)
class _Stage:
    """A prompt's place on a server, from its first turn to its last.

    Attributes:
        server: The server.
        copy: The session.
        seat: Its folder, and where it is kept.
        guard: The wire of a server that talks to the provider itself.
        shells: Sessions whose shells may have left something running.
        kept: Whether the session outlives the prompt.
    """

    server: Server
    copy: Copy
    seat: Seat
    guard: GuardWire | None = None
    shells: set[str] = field(default_factory=set)
    kept: bool = False


@dataclass(frozen=True, slots=True)
class ServeEngine:
    """Runs each prompt in a session of its own on a warm server.

    Without the relay a prompt gets a server of its own: only one prompt can be bounded by the
    guard plugin, which sits inside of opencode.

    Attributes:
        target: Returns where model requests go, with the models of now.
        key: Returns the provider key, for prompts without the relay.
        pool: Returns this process's servers.
        plans: Which server a prompt needs.
        sessions: Where sessions are kept.
        kept: How they come to a server and back.
        isolated: Whether each prompt gets a server of its own.
        relay: Returns this process's relay.
        patience: How long each phase of an attempt may last.
        name: "serve".
    """

    target: Callable[[], Target]
    key: Callable[[], str]
    pool: Callable[[], ServerPool]
    plans: Plans
    sessions: SessionStore
    kept: KeptSessions
    isolated: bool = False
    relay: Callable[[], Relay] = shared_relay
    patience: Patience = field(default_factory=Patience)
    name: str = "serve"
    _held: dict[str, tuple[AsyncExitStack, _Stage]] = field(default_factory=dict)
    _tidying: set[asyncio.Task[None]] = field(default_factory=set)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _relays: list[Relay] = field(default_factory=list)

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        """Run one attempt; see `Engine.run`."""
        if request.session_id in self._held:
            return await self._turn(request, self._held[request.session_id][1], observe, terms)
        if self._closed.is_set():
            # Another attempt would start a server that nobody closes.
            raise ConfigurationError(
                raw_message="the instance was closed while the prompt ran",
                hint="Close it when its prompts have ended.",
            )
        if request.hold and (terms is None or request.session_id):
            # The next turn has another server, or a session that has to be there still.
            request = replace(request, keep_session=request.keep_session or True)
        began = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                stage = await self._begin(stack, request, observe, terms)
                left = max(request.timeout_seconds - (time.monotonic() - began), 0.0)
                asked = replace(request, timeout_seconds=left)
                evidence = await self._turn(asked, stage, observe, terms)
                if stage.seat.card is not None:
                    return await self._settle(request, stage, evidence, accept)
                if request.hold and accept(evidence):
                    self._held[stage.copy.public_id] = (stack.pop_all(), stage)
                return evidence
        except (ServerGoneError, NoServerError) as error:
            return Evidence(stopped="crash", stderr=str(error), relayed=terms is not None)
        except ApiError as error:
            raise ConfigurationError(raw_message=f"opencode serve refused: {error}") from error
        except OSError as error:
            raise not_run(error) from error

    async def forget(self, session_id: str) -> None:
        """Remove a kept session; see `Engine.forget`."""
        held = self._held.pop(session_id, None)
        if held is not None:
            await held[0].aclose()
        else:
            await self.kept.forget(session_id)

    async def close(self) -> None:
        """End the servers that only this engine uses; nothing is begun on it any more."""
        self._closed.set()
        # What is held is in the midst of a call, which ends it.
        end = time.monotonic() + TIDY_SECONDS
        while self._held and time.monotonic() < end:
            await asyncio.sleep(LOOK_SECONDS)
        for session_id in tuple(self._held):
            await self.forget(session_id)
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=TIDY_SECONDS)
        await self.kept.close()
        await self.pool().detach(self)

    # --- the stage -------------------------------------------------------------------------------

    async def _begin(
        self,
        stack: AsyncExitStack,
        request: PromptRequest,
        observe: Observe,
        terms: Terms | None,
    ) -> _Stage:
        """Find server, folder and session.

        Raises:
            PromptTimeoutError: That took longer than the whole attempt may.
        """
        waits = _Waits()
        told = asyncio.get_running_loop().call_later(
            QUIET_SECONDS, lambda: observe(Waiting(reason=waits.what))
        )
        try:
            async with asyncio.timeout(request.timeout_seconds) as timeout:
                return await self._take_stage(stack, request, terms, waits)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise PromptTimeoutError(
                raw_message=f"waited {request.timeout_seconds:.1f} s for {waits.what}"
            ) from None
        finally:
            told.cancel()

    async def _take_stage(
        self, stack: AsyncExitStack, request: PromptRequest, terms: Terms | None, waits: _Waits
    ) -> _Stage:
        seat = None
        if request.session_id or request.keep_session:
            waits.what = "the session, which is in use"
            seat = await stack.enter_async_context(self._seat(request))
            request = replace(request, work_dir=seat.work_dir)
        wires: list[GuardWire] = []
        if terms is None:
            plan, wires = self.plans.guarded(request, self.target(), self.key())
        else:
            plan = self.plans.shared(request, self.target(), await self._alive_relay())
            plan = replace(plan, exclusive=True) if self.isolated or request.alone else plan
        waits.what = "an opencode server to start (start_seconds), or for its place (max_servers)"
        try:
            server = await stack.enter_async_context(self.pool().server(plan, self))
        except UnknownOpenCodeError as error:
            raise NoServerError(str(error)) from error
        waits.what = "the folder: others use it with other tool servers, or its own do not start"
        folder = await stack.enter_async_context(server.folders.place(request))
        waits.what = "opencode to make the session"
        seat = seat or Seat(folder)
        copy = await self.kept.begin(request, server, seat, folder)
        stage = _Stage(server, copy, seat, wires[0] if wires else None)
        stack.push_async_callback(self._leave, stage)
        return stage

    def _seat(self, request: PromptRequest) -> AbstractAsyncContextManager[Seat]:
        store, version = self.sessions, self.plans.binary.version
        # The folder of a session that is kept stands on its card.
        return take_seat(request, Path(), store, engine=self.name, version=version)

    async def _settle(
        self,
        request: PromptRequest,
        stage: _Stage,
        evidence: Evidence,
        accept: Callable[[Evidence], bool],
    ) -> Evidence:
        """Keep the session, or end it; what was paid for is not lost where that fails."""
        accepted = accept(evidence)
        try:
            await self.kept.settle(stage.copy, stage.seat, request, accepted=accepted)
        except (ServerGoneError, ApiError, OSError) as error:
            return replace(evidence, stopped="unkept", stderr=str(error)) if accepted else evidence
        stage.kept = accepted and bool(request.keep_session)
        return evidence

    async def _leave(self, stage: _Stage) -> None:
        """End what the prompt's tools have left, and delete the session while others go on."""
        if stage.shells:
            await end_leftovers(stage.shells)
            await delete_outputs(stage.server.workspace, stage.server.api, stage.shells)
        if not stage.kept:
            task = asyncio.create_task(drop(stage.copy))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _alive_relay(self) -> Relay:
        """Return the relay; to start one takes a moment, so that is done in a thread."""
        if not (self._relays and self._relays[-1].alive):
            self._relays[:] = [await asyncio.to_thread(self.relay)]
        return self._relays[-1]

    # --- a turn ----------------------------------------------------------------------------------

    async def _turn(
        self, request: PromptRequest, stage: _Stage, observe: Observe, terms: Terms | None
    ) -> Evidence:
        """Run one prompt on the stage's session."""
        copy = stage.copy
        kept = stage.seat.work_dir if request.keep_session else None
        seated = Seated(
            stage.server,
            self.target().provider.id,
            copy.session_id,
            copy.public_id,
            before=copy.before,
            work_dir=request.work_dir or kept,
            price=None if terms is None else terms.prices.get(request.model),
        )
        turn = Turn(request, seated, observe, relayed=stage.guard is None)
        async with AsyncExitStack() as stack:
            wire: Wire = stage.guard or await self._book(stack, request, stage, terms, turn)
            try:
                evidence = await turn.run(wire)
            finally:
                stage.shells |= _shells(wire.exchanges(), copy.session_id)
        stage.copy = replace(copy, before=copy.before + len(turn.rows))
        return evidence

    async def _book(
        self,
        stack: AsyncExitStack,
        request: PromptRequest,
        stage: _Stage,
        terms: Terms | None,
        turn: Turn,
    ) -> Wire:
        """Open the books of a turn."""
        server, copy = stage.server, stage.copy
        assert terms is not None
        assert server.lease is not None
        mine = () if request.work_dir else (copy.directory,)
        values = body_values(request.params)
        if request.params.max_tokens is not None:
            values["max_tokens"] = request.params.max_tokens
        whole = complete_terms(
            replace(terms, body_values=values, history=copy.history),
            request,
            server.marker,
            ours=(server.workspace.root, *mine),
        )
        way = booked(
            await self._alive_relay(),
            server.lease,
            request,
            whole,
            marker=server.marker,
            observe=turn.telling.hear,
            patience=self.patience,
            session_id=copy.session_id,
        )
        return await stack.enter_async_context(way)


def _shells(exchanges: tuple[Exchange, ...], session_id: str) -> set[str]:
    """Return the sessions whose tools may have left something running."""
    if not any(exchange.finish_reason in TOOL_FINISHES for exchange in exchanges):
        return set()
    return {session_id, *(e.session_id for e in exchanges if e.session_id)}
