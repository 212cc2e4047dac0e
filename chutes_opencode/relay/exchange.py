"""One model request of opencode's, from its arrival to the end of its answer.

    admission → rewrite → replay → attempt … attempt → the answer, or an ending

Nothing here knows HTTP's server side: the relay's app calls `exchange` for a request that came over
a socket, and an engine in this process may call it with a client of its own.

Attempts are counted for each model step of a session. Before a byte has gone to the client, a
failed attempt is followed by the next one here; after that the stream is ended so that opencode
repeats the step (and the count goes on), or so that it stops.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import NoReturn

from chutes_opencode.errors import (
    CapacityError,
    ColdModelError,
    ConfigurationError,
    ModelNotFoundError,
    OpenCodeError,
    PermanentError,
    RateLimitError,
    ToolServerError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import RequestStarted, Retrying, StepRestarted
from chutes_opencode.relay.attempt import Attempt, Failure
from chutes_opencode.relay.booking import CLOSED, Booking, EndedError
from chutes_opencode.relay.client import CHAT, Client, ModelRequest
from chutes_opencode.relay.endings import STATUS, refusal_body, repeat_event, stop_event
from chutes_opencode.relay.playback import play_back
from chutes_opencode.relay.resources import Resources
from chutes_opencode.relay.rewrite import (
    Body,
    MarkerMissingError,
    read_body,
    requested_tools,
    rewrite,
)
from chutes_opencode.retry import Stop, decide

_OTHER_MODEL_HELPS = (CapacityError, ColdModelError, ModelNotFoundError)
_LAST_WORDS_SECONDS = 2.0  # for a client that does not read

_log = logging.getLogger(__name__)


async def exchange(
    booking: Booking, request: ModelRequest, client: Client, resources: Resources
) -> None:
    """Answer one request; a failure is told to the client and stands in the booking.

    Args:
        booking: The prompt that it belongs to.
        request: The request.
        client: Who gets the answer.
        resources: The relay's connections and limiters.

    Raises:
        TimeoutError: The client did not read what should have been its last words.
    """
    step = _Step(booking, request, client, resources)
    try:
        async with booking.running():
            await step.run()
    except EndedError as ended:
        step.note_end(str(ended))
        await _tell_end(client, str(ended))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not hang a prompt
        _log.exception("the relay failed on a request")
        words = f"the relay failed: {type(error).__name__}: {error}"
        booking.end("failing", UnknownOpenCodeError(raw_message=words))
        step.note_end("failing")
        await _tell_end(client, "failing")


async def _tell_end(client: Client, reason: str) -> None:
    async with asyncio.timeout(_LAST_WORDS_SECONDS):
        await refuse(client, reason)


async def refuse(client: Client, reason: str) -> None:
    """Tell a client that our own hand ended its request; opencode stops then."""
    if client.ended:
        return
    if client.started:
        await client.write(stop_event(reason))
    else:
        await client.start(STATUS, {"content-type": "application/json"})
        await client.write(refusal_body(reason))
    await client.end()


class _Step:
    """A request and its attempts."""

    def __init__(
        self, booking: Booking, request: ModelRequest, client: Client, resources: Resources
    ) -> None:
        self._booking = booking
        self._ledger = booking.ledger
        self._request = request
        self._client = client
        self._resources = resources
        self._attempt: Attempt | None = None
        self._asked: str | None = None
        self._tools: tuple[str, ...] = ()

    async def run(self) -> None:
        """Answer the request.

        Raises:
            EndedError: Our own hand ends it.
        """
        body = self._admit()
        while True:
            model = self._booking.fit_model(str(self._asked))
            sent = self._rewrite(body, model)
            if await play_back(self._booking, self._request, self._client, sent):
                return
            self._attempt = Attempt(
                self._booking, self._resources, self._client, self._request, sent
            )
            failure = await self._attempt.run()
            if failure is None:
                await self._client.end()
                return
            self._booking.note_failure(self._request.session_id, failure.error)
            if self._client.started:
                await self._break_off(failure)
                return
            await self._prepare_next(failure, model)

    def note_end(self, reason: str) -> None:
        """Book why our own hand ended the request."""
        if reason == CLOSED:
            return
        entry = self._attempt.entry if self._attempt is not None else None
        if entry is None:
            session = self._request.session_id
            self._ledger.refuse(
                session, self._asked, reason, tools=self._tools, at=time.monotonic()
            )
        elif entry.exchange.error is not None or entry.exchange.body is not None:
            self._ledger.end(entry, reason)

    # --- admission -------------------------------------------------------------------------------

    def _admit(self) -> Body:
        """Check what can be checked before anything is sent."""
        try:
            body = read_body(self._request.body)
        except ValueError as error:
            raise EndedError("malformed") from error
        self._tools = requested_tools(body)
        told = body.get("model")
        self._asked = told if isinstance(told, str) else None
        if self._asked not in self._booking.prices:
            raise EndedError("model")
        self._booking.check_limits()
        self._check_tries()
        self._check_tools()
        if self._is_main():
            step = self._ledger.steps(self._request.session_id) + 1
            self._booking.tell(RequestStarted(model=str(self._asked), step=step))
        return body

    def _check_tries(self) -> None:
        """Refuse a step that opencode repeats although its attempts are used up."""
        failure = self._booking.failure_of(self._request.session_id)
        if failure is not None and self._tries() >= self._booking.terms.tries_left:
            self._give_up(failure)

    def _check_tools(self) -> None:
        """Find each tool server among the tools of the prompt's first request."""
        booking = self._booking
        if booking.tools_seen or not self._is_main() or self._request.path != CHAT:
            return
        booking.tools_seen = True
        for prefix in booking.terms.tool_prefixes:
            if not any(name.startswith(prefix) for name in self._tools):
                words = f"no tool of the server {prefix.removesuffix('_')!r} reached the model"
                self._end(f"tool server {prefix}", ToolServerError(raw_message=words))

    def _rewrite(self, body: Body, model: str) -> Body:
        main = self._is_main() and self._request.path == CHAT
        try:
            return rewrite(body, self._booking.terms, main=main, model=model)
        except MarkerMissingError as error:
            return self._end("configuration", ConfigurationError(raw_message=str(error)))

    # --- after a failure -------------------------------------------------------------------------

    async def _prepare_next(self, failure: Failure, model: str) -> None:
        """Wait until the next attempt is due; raises where there is none."""
        error, booking = failure.error, self._booking
        if failure.final:
            self._give_up(error)
        if isinstance(error, _OTHER_MODEL_HELPS) and booking.give_up_model(model):
            seconds = 0.0
        elif failure.collateral:
            self._ledger.forgive(self._request.session_id)
            return
        else:
            seconds = self._wait_s(error)
        if self._tries() >= booking.terms.tries_left:
            self._give_up(error)
        self._booking.check_limits()
        booking.tell(
            Retrying(attempt=self._tries(), error=error, wait_seconds=seconds, scope="request")
        )
        with booking.waits("the next attempt", seconds):
            await asyncio.sleep(seconds)

    def _wait_s(self, error: OpenCodeError) -> float:
        """Return the wait before the next attempt; a rate limit is waited for at the limiter."""
        terms = self._booking.terms
        untold = isinstance(error, RateLimitError) and error.reset_time is None
        if untold:
            return 0.0
        decision = decide(
            terms.policy,
            error,
            self._tries(),
            now=datetime.now(UTC),
            remaining_s=None if terms.deadline is None else terms.deadline - time.monotonic(),
            random01=random.random(),
            used_up=self._tries() >= terms.tries_left,
        )
        if isinstance(decision, Stop):
            return self._give_up(error)
        return 0.0 if isinstance(error, RateLimitError) else decision.seconds

    async def _break_off(self, failure: Failure) -> None:
        """End a stream that broke: opencode repeats the step, or stops."""
        error, used_up = failure.error, self._tries() >= self._booking.terms.tries_left
        if failure.final or used_up or isinstance(error, PermanentError):
            self._give_up(error)
        if self._is_main():
            self._booking.tell(StepRestarted(reason=error.raw_message))
        await self._client.write(repeat_event())
        await self._client.end()

    def _give_up(self, error: OpenCodeError) -> NoReturn:
        """End the prompt with the provider's error; a sub-agent's ends only the sub-agent."""
        if self._is_main():
            self._booking.end("failing", error)
        raise EndedError("failing") from error

    def _end(self, reason: str, error: OpenCodeError) -> NoReturn:
        self._booking.end(reason, error)
        raise EndedError(reason) from error

    def _is_main(self) -> bool:
        return self._ledger.is_main(self._request.session_id)

    def _tries(self) -> int:
        return self._ledger.tries(self._request.session_id)
