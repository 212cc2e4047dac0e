"""How an opencode process reaches the provider, and what is seen on the way.

By the relay, which holds the key, the limits and the evidence; or by itself (`relay=False`), under
the eyes of the guard plugin, which can do less and shows the process the real key.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from chutes_opencode.engines.base import Observe
from chutes_opencode.engines.post import Post
from chutes_opencode.engines.seat import Seat
from chutes_opencode.engines.watchdog import Patience, Watchdog
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.events import Event, ReasoningDelta, TextDelta
from chutes_opencode.opencode.config import Target, caller_keys, tool_prefix
from chutes_opencode.opencode.guard import OPENCODE_BODY_KEYS, guard_spec
from chutes_opencode.opencode.transcript import exchanges_from_guard
from chutes_opencode.opencode.workspace import Workspace, write_guard
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.lease import Lease, relay_stopped
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import SystemRule, Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange


class Wire(Protocol):
    """One attempt's way to the provider.

    Attributes:
        base_url: Where opencode sends its model requests.
        key: What it sends as its key.
        plugin: The plugin that it loads; None: it loads none.
        agent_prompt: The agent's prompt in the config; None: opencode's own.
        relayed: Whether the relay is on the way.
    """

    base_url: str
    key: str
    plugin: Path | None
    agent_prompt: str | None
    relayed: bool

    def exchanges(self) -> tuple[Exchange, ...]:
        """Return the model requests that were seen."""

    def bind(self, session_id: str) -> None:
        """Name opencode's session before it asks for the first time."""

    def error(self) -> OpenCodeError | None:
        """Return what the attempt was ended for on the way."""

    def stopped(self) -> bool:
        """Tell whether there is no way any more, so that opencode can only fail."""

    def overdue(self) -> str | None:
        """Name the phase of the attempt that has lasted too long; None: none has."""

    def queued_s(self) -> float | None:
        """Return the seconds waited for the first permit; None: it waits still."""

    def told(self, observe: Observe) -> Observe:
        """Return who is told what opencode writes: not twice what the way has told."""

    def when_asked(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, on this loop, when opencode asks its model for the first time."""

    async def close(self) -> None:
        """End what is still under way; then the exchanges are whole."""


class GuardWire:
    """Straight to the provider; see `Wire`."""

    relayed = False

    def __init__(
        self,
        request: PromptRequest,
        target: Target,
        workspace: Workspace,
        key: str,
        *,
        server: bool = False,
    ) -> None:
        """Put the guard into the workspace.

        Args:
            request: What is run.
            target: Where its model requests go.
            workspace: Where opencode lives.
            key: The provider's.
            server: Whether it is a server, which reads its config, key included, for each folder.

        Raises:
            OpenCodeError: A parameter that cannot be sent.
        """
        self.base_url = target.base_url
        self.key = key
        self.plugin: Path | None = workspace.guard
        self.agent_prompt = request.system_message
        self._records = workspace.guard.with_name("guard.jsonl")
        spec = guard_spec(request, target, workspace.attachments)
        write_guard(workspace, spec | {"server": server})

    def exchanges(self) -> tuple[Exchange, ...]:
        """Read what the guard has recorded."""
        try:
            return exchanges_from_guard(self._records.read_text("utf-8", errors="replace"))
        except FileNotFoundError:
            return ()

    def bind(self, session_id: str) -> None:
        """Do nothing: the process has one session and its sub-agents'."""

    def error(self) -> OpenCodeError | None:
        """Return None: what the guard refuses stands in its records."""

    def stopped(self) -> bool:
        """Return False: nobody stands between."""
        return False

    def overdue(self) -> str | None:
        """Return None: only the whole attempt has its time."""
        return None

    def queued_s(self) -> float | None:
        """Return 0: nobody makes it wait."""
        return 0.0

    def told(self, observe: Observe) -> Observe:
        """Return `observe`: opencode's own parts are all that there is."""
        return observe

    def when_asked(self, tell: Callable[[], None]) -> None:
        """Do nothing: its process has one prompt only."""

    async def close(self) -> None:
        """Do nothing: the guard ends with its process."""


class RelayWire:
    """By the relay; see `Wire`. Made by `relayed` and `booked`."""

    relayed = True
    plugin: Path | None = None

    def __init__(
        self,
        relay: Relay,
        key: str,
        agent_prompt: str | None,
        booking: Booking,
        watchdog: Watchdog,
        post: Post,
    ) -> None:
        """Take the booking and what opencode shall be told."""
        self.base_url = relay.url
        self._relay = relay
        self.key = key
        self.agent_prompt = agent_prompt
        self._booking = booking
        self._watchdog = watchdog
        self._post = post

    def exchanges(self) -> tuple[Exchange, ...]:
        """Read the relay's books."""
        return self._booking.exchanges()

    def bind(self, session_id: str) -> None:
        """Announce the session: requests of another one are refused from the first on."""
        self._booking.ledger.bind(session_id)

    def error(self) -> OpenCodeError | None:
        """Return what the relay ended the prompt for."""
        return self._booking.error or (None if self._relay.alive else relay_stopped())

    def stopped(self) -> bool:
        """Tell whether the relay has stopped: nobody is there who could end opencode's wait."""
        return self._booking.ended == "relay" or not self._relay.alive

    def overdue(self) -> str | None:
        """Ask the watchdog."""
        return self._watchdog.overdue()

    def queued_s(self) -> float | None:
        """Read when the first permit was given."""
        if self._booking.started is None and self._booking.waiting:
            return None
        return self._booking.queued_s

    def told(self, observe: Observe) -> Observe:
        """Leave out the text, of which the relay has told every delta already."""

        def observe_rest(event: Event) -> None:
            if not isinstance(event, TextDelta | ReasoningDelta):
                observe(event)

        return observe_rest

    def when_asked(self, tell: Callable[[], None]) -> None:
        """Ask the booking, which is at home on the relay's loop."""
        self._booking.when_asked(lambda: self._post.call(tell))

    async def close(self) -> None:
        """Close the booking; all that it has told is delivered."""
        await self._booking.aclose()
        self._post.deliver()


@asynccontextmanager
async def relayed(
    relay: Relay,
    request: PromptRequest,
    terms: Terms,
    workspace: Workspace,
    seat: Seat,
    observe: Observe,
    patience: Patience,
) -> AsyncIterator[RelayWire]:
    """Lease a way by the relay for one attempt in a process of its own.

    Args:
        relay: Of this process.
        request: What is run.
        terms: What it may do; what depends on the workspace is filled in.
        workspace: Where opencode lives.
        seat: Where the agent works.
        observe: Is told of deltas, waits and retries.
        patience: How long each phase may last.

    Raises:
        ConfigurationError: A dollar limit, and a model whose price is unknown.
    """
    marker = new_marker()
    # A caller's folder is the caller's; ours have another name in each run.
    ours = (workspace.root,) if request.work_dir else (workspace.root, seat.work_dir)
    whole = complete_terms(terms, request, marker, ours=ours)
    if request.attachments:
        whole = replace(whole, hidden_paths=(str(workspace.attachments),))
    with relay.lease() as lease:
        async with booked(
            relay, lease, request, whole, marker=marker, observe=observe, patience=patience
        ) as wire:
            yield wire


@asynccontextmanager
async def booked(
    relay: Relay,
    lease: Lease,
    request: PromptRequest,
    terms: Terms,
    *,
    marker: str | None,
    observe: Observe,
    patience: Patience,
    session_id: str | None = None,
) -> AsyncIterator[RelayWire]:
    """Open the books of one attempt on a lease.

    Args:
        relay: Of this process.
        lease: Of the opencode that runs it.
        request: What is run.
        terms: From `complete_terms`.
        marker: The agent's prompt in that opencode's config.
        observe: Is told of deltas, waits and retries, on this loop.
        patience: How long each phase may last.
        session_id: opencode's session; None: the first one that asks.

    Raises:
        ConfigurationError: A dollar limit, and a model whose price is unknown.
    """
    post = Post(asyncio.get_running_loop())
    booking = lease.open(terms, session_id, observe=lambda event: post.send(observe, event))
    prompt = None if request.system_message is None else marker
    watchdog = Watchdog(booking, patience, request)
    wire = RelayWire(relay, lease.key, prompt, booking, watchdog, post)
    try:
        yield wire
    finally:
        await wire.close()


def new_marker() -> str:
    """Return a random agent's prompt, which the relay replaces by the caller's."""
    return f"system-{uuid.uuid4().hex}"


def complete_terms(
    terms: Terms, request: PromptRequest, marker: str | None, *, ours: Iterable[Path]
) -> Terms:
    """Fill in what the relay must know of the opencode that will ask.

    Args:
        terms: The prompt's.
        request: What is run.
        marker: The agent's prompt in opencode's config.
        ours: Folders whose names change from run to run; equal ones for the cache.
    """
    rule, replay = None, terms.replay
    if request.system_message is not None and marker is not None:
        rule = SystemRule(marker, request.system_message, keep_context=request.context)
    keys = caller_keys(request)
    if replay is not None:
        forms = (form for path in map(str, ours) for form in (path, path.lstrip("/")))
        replay = replace(replay, volatile=(*replay.volatile, *forms))
    return replace(
        terms,
        system=rule,
        body_keys=None if keys is None else OPENCODE_BODY_KEYS | keys,
        tool_prefixes=tuple(tool_prefix(server.name) for server in request.tools),
        replay=replay,
    )
