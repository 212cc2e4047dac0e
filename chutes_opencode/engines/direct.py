"""DirectEngine: a plain chat completion by the relay's own exchange, without opencode or socket.

For prompts that need no agent. Everything that costs or fails is the relay's business, as with
every engine: same lease, same limiter, same books, same retries. Where a stream breaks after its
first byte, the relay asks for the step to be repeated; here opencode's part of that is done.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.engines.chat import (
    ChatRow,
    answer_message,
    answered_message,
    asked_messages,
    chat_body,
    refuse_arguments,
)
from chutes_opencode.engines.clock import AttemptClock
from chutes_opencode.engines.heard import Heard
from chutes_opencode.engines.post import Post, tell_safely
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.events import Event, StepEnd
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.booking import Booking, EndedError
from chutes_opencode.relay.client import CHAT, Client, ModelRequest
from chutes_opencode.relay.endings import repeat_event
from chutes_opencode.relay.lease import STOPPED, relay_stopped
from chutes_opencode.relay.server import Relay, shared_relay
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Message, TextPart, Transcript
from chutes_opencode.retry import Stop, decide

LOOK_SECONDS = 0.25  # for what nothing wakes us up: the first permit, a relay that died
SESSION_PREFIX = "direct-"

_REPEAT = repeat_event()
_log = logging.getLogger(__name__)


def refuse_request(request: PromptRequest, terms: Terms | None) -> None:
    """Refuse a request that a plain chat completion cannot do, rather than do a part of it.

    Args:
        request: What is asked for; its `context` and `builtin_tools` are no requests.
        terms: None: without the relay.

    Raises:
        ConfigurationError: Names the argument and what to do instead.
    """
    refuse_arguments(
        {
            "tools": request.tools,
            "work_dir": request.work_dir,
            "permission": request.permission,
            "env": request.env,
            "project_rules": request.rules_file,
            "keep_session": request.keep_session,
            "extra_cli_args": request.extra_cli_args,
            "system_message": request.system_message,
            "relay": terms is not None,
        }
    )


@dataclass(frozen=True, slots=True)
class _Chat:
    """One attempt: what is asked, and by which booking."""

    request: PromptRequest
    messages: tuple[ChatRow, ...]
    session_id: str
    booking: Booking
    heard: Heard


class DirectEngine:
    """Runs each prompt as one chat completion; used on one event loop at a time.

    Attributes:
        name: "direct".
    """

    name = "direct"

    def __init__(
        self, target: Callable[[], Target], relay: Callable[[], Relay] = shared_relay
    ) -> None:
        """Start nothing yet.

        Args:
            target: Returns where requests go, with the models of now, for their output limits.
            relay: Returns this process's relay.
        """
        self._target = target
        self._find_relay = relay
        self._relay: Relay | None = None
        self._post: Post | None = None
        self._held: dict[str, tuple[ChatRow, ...]] = {}

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        """Run one attempt; see `Engine.run`.

        Raises:
            ConfigurationError: It asks for what a plain chat completion cannot do.
        """
        refuse_request(request, terms)
        assert terms is not None
        held = self._continued(request.session_id)
        messages = asked_messages(request, held)
        body = chat_body(request, self._target(), messages)
        relay = await self._alive_relay()
        post, heard = self._post_here(), Heard()
        session_id = request.session_id or f"{SESSION_PREFIX}{random.getrandbits(64):016x}"

        def hear(event: Event) -> None:
            heard.take(event)
            post.send(observe, event)

        started = time.monotonic()
        with relay.lease() as lease:
            booking = lease.open(_plain(terms), session_id, hear)
            chat = _Chat(request, messages, session_id, booking, heard)
            try:
                stopped = await _converse(relay, chat, body)
            finally:
                await booking.aclose()
        post.deliver()
        evidence = _evidence(chat, stopped, relay, time.monotonic() - started)
        if evidence.returncode == 0:
            tell_safely(observe, _step_end(evidence.transcript.turns[-1]))
        self._hold(chat, evidence, accept)
        return evidence

    async def forget(self, session_id: str) -> None:
        """Forget the messages of a session; see `Engine.forget`."""
        self._held.pop(session_id, None)

    async def close(self) -> None:
        """Forget every session: nothing else is kept."""
        self._held.clear()

    async def _alive_relay(self) -> Relay:
        """Return the relay; to start one takes a moment, so that is done in a thread."""
        if self._relay is None or not self._relay.alive:
            self._relay = await asyncio.to_thread(self._find_relay)
        return self._relay

    def _post_here(self) -> Post:
        """Return the way from the relay's thread to this event loop."""
        loop = asyncio.get_running_loop()
        if self._post is None or self._post.loop is not loop:
            self._post = Post(loop)
        return self._post

    def _continued(self, session_id: str | None) -> tuple[ChatRow, ...]:
        """Return the messages of the session to continue; none where a new one is asked for."""
        if session_id is None:
            return ()
        if session_id not in self._held:
            raise ConfigurationError(
                raw_message=f"engine='direct' keeps no session, so there is no {session_id!r}",
                hint="Leave session_id= out and pass messages=, or use engine='serve' or 'run'.",
            )
        return self._held[session_id]

    def _hold(self, chat: _Chat, evidence: Evidence, accept: Callable[[Evidence], bool]) -> None:
        """Hold a session for its next turn; a turn that failed leaves it as it was."""
        request = chat.request
        if not (request.hold or request.session_id) or not accept(evidence):
            return
        self._held.pop(chat.session_id, None)
        if request.hold:
            answers = map(answered_message, evidence.transcript.turns)
            self._held[chat.session_id] = (*chat.messages, *answers)


# --- one attempt ----------------------------------------------------------------------------------


async def _converse(relay: Relay, chat: _Chat, body: bytes) -> str | None:
    """Ask until there is an answer, or an end.

    Returns:
        Why it was stopped: "timeout" or "relay"; None: it ended by itself.
    """
    booking = chat.booking
    answering = asyncio.ensure_future(_answer(relay, chat, body))
    try:
        async with asyncio.timeout(chat.request.timeout_seconds) as timeout:
            clock = AttemptClock(timeout, chat.request.timeout_seconds)
            while not answering.done() and relay.alive:
                await asyncio.wait([answering], timeout=LOOK_SECONDS)
                queues = booking.started is None and booking.waiting
                clock.wait_with(None if queues else booking.queued_s)
    except TimeoutError:
        return "timeout"
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    if answering.cancelled():
        return "relay"
    answering.result()
    return "relay" if booking.ended == STOPPED else None


async def _answer(relay: Relay, chat: _Chat, body: bytes) -> None:
    """Ask, and ask again where a stream broke after its first byte, until the relay ends it."""
    headers = _headers(chat.session_id)
    request = ModelRequest(CHAT, body, chat.session_id, headers)
    while True:
        reader = _Reader()
        await relay.exchange(chat.booking, request, reader)
        if not reader.repeats or not await _waited(chat.booking, chat.session_id):
            return


async def _waited(booking: Booking, session_id: str) -> bool:
    """Wait until a step may be repeated; False: it may not, and the booking is ended."""
    terms, error = booking.terms, booking.failure_of(session_id)
    tries = booking.ledger.tries(session_id)
    decision = decide(
        terms.policy,
        error or UnknownOpenCodeError(),
        tries,
        now=datetime.now(UTC),
        remaining_s=None if terms.deadline is None else terms.deadline - time.monotonic(),
        random01=random.random(),
        used_up=tries >= terms.tries_left,
    )
    if isinstance(decision, Stop):
        booking.end("failing", error or UnknownOpenCodeError())
        return False
    try:
        async with booking.running():
            with booking.waits("the next attempt", decision.seconds):
                await asyncio.sleep(decision.seconds)
    except EndedError:
        return False
    return True


class _Reader(Client):
    """A client that needs no bytes: what they say comes by the booking's observer.

    Attributes:
        repeats: Whether the answer ended so that opencode would repeat the step.
    """

    def __init__(self) -> None:
        """Read nothing yet."""
        self.started = self.ended = self.repeats = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Note that the answer begins."""
        self.started = True

    async def write(self, data: bytes) -> None:
        """Look only for the event that ends a broken stream; it is written by itself."""
        self.repeats = data == _REPEAT

    async def end(self) -> None:
        """Note that the answer is over."""
        self.ended = True


# --- what comes of it -----------------------------------------------------------------------------


def _plain(terms: Terms) -> Terms:
    """Leave out what makes a request of opencode's into the caller's: this one is that already."""
    return replace(
        terms,
        system=None,
        body_keys=None,
        body_values={},
        history=(),
        tool_prefixes=(),
        hidden_paths=(),
    )


def _headers(session_id: str) -> dict[str, str]:
    return {
        "accept": "*/*",
        "user-agent": "chutes-opencode",
        "x-session-id": session_id,
        "x-session-affinity": session_id,
    }


def _evidence(chat: _Chat, stopped: str | None, relay: Relay, duration_s: float) -> Evidence:
    booking, request = chat.booking, chat.request
    exchanges = booking.exchanges()
    asked = Message("user", (TextPart(request.prompt),))
    answer = answer_message(request.model, chat.heard.parts(), exchanges)
    over = stopped is not None or booking.error is not None
    whole = answer is not None and answer.finish_reason is not None and not over
    return Evidence(
        transcript=Transcript(
            chat.session_id if request.hold or request.session_id else None,
            (asked,) if answer is None else (asked, answer),
        ),
        exchanges=exchanges,
        returncode=0 if whole else -1,
        stopped=stopped,
        duration_s=duration_s,
        queued_s=booking.queued_s,
        relayed=True,
        ended=booking.error or (None if relay.alive else relay_stopped()),
    )


def _step_end(turn: Message) -> StepEnd:
    return StepEnd(usage=turn.usage, finish_reason=turn.finish_reason or "")
