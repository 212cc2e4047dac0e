"""One prompt on a session of a warm server: sent, watched, stopped where needed, read back."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.engines.clock import AttemptClock
from chutes_opencode.engines.heard import Heard
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.telling import Row, Telling
from chutes_opencode.engines.watchdog import TOOL_FINISHES
from chutes_opencode.engines.wire import Wire
from chutes_opencode.events import Event
from chutes_opencode.limits import cost_usd
from chutes_opencode.masking import mask, mask_value
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.opencode.transcript import transcript_from_export
from chutes_opencode.request import FilePart, PromptRequest
from chutes_opencode.results import Part, TextPart, Transcript

LOOK_SECONDS = 0.25
# An abort takes some milliseconds, and what follows it little more.
ABORT_SECONDS = 3.0
READ_SECONDS = 15.0
HEALTH_SECONDS = 3.0
BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Seated:
    """Where a prompt's turn takes place.

    Attributes:
        server: The warm server.
        provider_id: Of the models in its config.
        session_id: opencode's id of the session.
        public_id: The id that the caller knows it by.
        before: How many messages the session had before.
        work_dir: The agent's folder, where it outlives the prompt.
        price: Of the model, where the server's config holds none; None: it does, or none is known.
    """

    server: Server
    provider_id: str
    session_id: str
    public_id: str
    before: int = 0
    work_dir: Path | None = None
    price: Price | None = None


class Turn:
    """Carries one attempt out. Used once.

    Attributes:
        rows: The messages of this attempt, as far as they were read.
        telling: Tells its events.
    """

    def __init__(
        self, request: PromptRequest, seated: Seated, observe: Observe, *, relayed: bool
    ) -> None:
        """Take what is run, where, and who is told.

        Args:
            request: What is run.
            seated: Where.
            observe: Is told what happens.
            relayed: Whether the relay tells the text as it comes.
        """
        self._request = request
        self._seated = seated
        self._api = seated.server.api
        self._sent = False
        self._stop: str | None = None
        self._refusal: ApiError | None = None
        self._answer: Row = {}
        self.rows: Sequence[Row] = ()
        self._heard = Heard()
        self._observe = observe
        self.telling = Telling(self._hear, self.read, text=not relayed)

    async def run(self, wire: Wire) -> Evidence:
        """Run the attempt; what went wrong is in its evidence.

        Args:
            wire: Its way to the provider; what it hears goes to `telling`.
        """
        started = time.monotonic()
        sending = asyncio.create_task(self._send(wire))
        try:
            try:
                async with asyncio.timeout(self._request.timeout_seconds) as timeout:
                    clock = AttemptClock(timeout, self._request.timeout_seconds)
                    await self._watch(sending, wire, clock)
            except TimeoutError:
                self._stop = self._stop or "timeout"
        finally:
            if not sending.done():
                await self._abort(sending)
        self._take(sending)
        if self._stop is None and wire.stopped():
            self._stop = "relay"  # opencode was faster than our look: it was refused
        # The books are whole when the way is closed: what was under way is cut and priced.
        await wire.close()
        self.rows = self._only_answer(wire) or await self.read()
        if self._stop == "crash" and (said := self._heard.parts()):
            row = {"info": {"role": "assistant"}, "parts": [_said_part(part) for part in said]}
            self.rows = [*self.rows, row]
        await self.telling.end(self.rows)
        return self._evidence(wire, started)

    def _hear(self, event: Event) -> None:
        """Tell an event, and remember the text of the step, should the server die in it."""
        self._heard.take(event)
        self._observe(event)

    async def read(self) -> Sequence[Row]:
        """Return the messages of this attempt; those read before where the server is gone."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                rows = await self._api.messages(self._seated.session_id)
        except (ServerGoneError, ApiError, TimeoutError):
            return self.rows
        self.rows = [mask_value(row) for row in rows[self._seated.before :]]
        return self.rows

    async def _send(self, wire: Wire) -> dict[str, Any]:
        request = self._request
        parts = [*map(_file_part, request.attachments), _text_part(request.prompt)]
        async with self._seated.server.entrance.enter() as let_next:
            wire.when_asked(let_next)
            self._sent = True
            return await self._api.send(
                self._seated.session_id,
                agent=request.agent_name,
                provider_id=self._seated.provider_id,
                model_id=request.model,
                parts=parts,
            )

    async def _watch(
        self, sending: asyncio.Task[dict[str, Any]], wire: Wire, clock: AttemptClock
    ) -> None:
        """Wait for the answer, or for a reason not to."""
        while self._stop is None:
            await asyncio.wait([sending], timeout=LOOK_SECONDS)
            if sending.done():
                return
            clock.wait_with(wire.queued_s())
            self._stop = "relay" if wire.stopped() else wire.overdue()

    async def _abort(self, sending: asyncio.Task[dict[str, Any]]) -> None:
        """Stop the session; a server on which that does not work gets no more prompts.

        First through the server: a client that goes away does not stop opencode.
        """
        if not self._sent:  # it waits for its turn to go in: nothing there is to be stopped
            sending.cancel()
            await asyncio.wait([sending])
            return
        session_id = self._seated.session_id
        stopped = await _within(ABORT_SECONDS, self._api.abort(session_id))
        if stopped:
            await asyncio.wait([sending], timeout=ABORT_SECONDS)
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])
            server = self._seated.server
            server.draining = True
            if not stopped and not await self._api.healthy(HEALTH_SECONDS):
                await server.kill()

    def _take(self, sending: asyncio.Task[dict[str, Any]]) -> None:
        """Read what became of the call."""
        if sending.cancelled():
            return
        error = sending.exception()
        if isinstance(error, ApiError):
            self._refusal = error
        elif isinstance(error, ServerGoneError):
            self._stop = self._stop or "crash"
        elif error is not None:
            raise error
        else:
            self._answer = sending.result() or {}

    def _only_answer(self, wire: Wire) -> Sequence[Row]:
        """Return the attempt's messages without asking for them; none where there may be others.

        The call returns the last message only. One model request that called no tool makes no
        other, and to ask costs opencode a tenth of what the prompt does.
        """
        exchanges = wire.exchanges()
        info = self._answer.get("info")
        if not wire.relayed or len(exchanges) != 1 or self._request.attachments or not info:
            return ()
        if not exchanges[0].whole or exchanges[0].finish_reason in TOOL_FINISHES:
            return ()
        asked = {
            "info": {"role": "user"},
            "parts": [_text_part(self._request.prompt)],
        }
        return [mask_value(row) for row in (asked, self._answer)]

    def _evidence(self, wire: Wire, started: float) -> Evidence:
        seated = self._seated
        document = {"info": {"id": seated.public_id}, "messages": self.rows}
        transcript = _priced(transcript_from_export(document), seated.price)
        exchanges = wire.exchanges()
        return Evidence(
            transcript=transcript,
            exchanges=exchanges,
            returncode=self._returncode(transcript),
            stderr=seated.server.stderr_tail() if self._stop == "crash" else "",
            run_error=self._run_error(),
            stopped=self._stop or self._unseen(transcript, bool(exchanges)),
            work_dir=seated.work_dir,
            duration_s=time.monotonic() - started,
            queued_s=wire.queued_s() or 0.0,
            relayed=wire.relayed,
            ended=wire.error(),
            alone=seated.server.plan.exclusive,
        )

    def _returncode(self, transcript: Transcript) -> int:
        """Return what `opencode run` would have exited with."""
        if self._stop is not None:
            return -1
        return 1 if self._refusal is not None or transcript.error is not None else 0

    def _run_error(self) -> dict[str, object] | None:
        body = self._refusal.body if self._refusal is not None else None
        if not body or "name" not in body:
            return None
        data = body.get("data")
        if not isinstance(data, dict):
            return body
        # "Check server logs", it says, and they go with the server.
        told = self._seated.server.explain(str(data.get("ref")))
        return {**body, "data": {**data, "message": told}} if told else body

    def _unseen(self, transcript: Transcript, asked: bool) -> str | None:
        """Say why an answer without a single model request is none to believe."""
        if asked:
            return None
        if self._refusal is not None:
            refused_file = self._request.attachments and self._refusal.status == BAD_REQUEST
            return "attachment" if refused_file else None
        return "guard" if transcript.turns else None


def _priced(transcript: Transcript, price: Price | None) -> Transcript:
    """Say what each message cost; a server that prompts share knows no prices."""
    if price is None:
        return transcript
    messages = (replace(one, cost_usd=cost_usd(one.usage, price)) for one in transcript.messages)
    return replace(transcript, messages=tuple(messages))


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _said_part(part: Part) -> dict[str, str]:
    """Return what was heard as a part of opencode's message."""
    text = getattr(part, "text", "")
    return {"type": "text" if isinstance(part, TextPart) else "reasoning", "text": mask(text)}


def _file_part(part: FilePart) -> dict[str, str]:
    """Return an attachment as a part of a message; by value, so that no path is known."""
    data = base64.b64encode(part.content).decode()
    return {
        "type": "file",
        "mime": part.media_type,
        "filename": part.name,
        "url": f"data:{part.media_type};base64,{data}",
    }


async def _within(seconds: float, call: Awaitable[object]) -> bool:
    """Tell whether a call to the server worked in time."""
    try:
        async with asyncio.timeout(seconds):
            await call
    except (ServerGoneError, ApiError, TimeoutError):
        return False
    return True
