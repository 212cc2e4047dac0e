"""Play a plan over a connection: send the answer, count what was sent, put it on the bill."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from chutes_opencode.loopback import EXTENSION
from chutes_opencode.simulator.answers import Answer, Cut, End, Sent
from chutes_opencode.simulator.billing import BillEntry, Outcome, Tokens, key_label
from chutes_opencode.simulator.chunks import DONE, Delta, Envelope, Meter, deltas, encode, event
from chutes_opencode.simulator.chunks import usage_of as usage_fields
from chutes_opencode.simulator.models import prices
from chutes_opencode.simulator.plan import ChatRequest, Plan, fill
from chutes_opencode.simulator.state import SimulatorState

DAILY_QUOTA = 5000
# In the middle of a stream means: after the client has read its beginning. A reset discards what
# the client has not read yet, and some clients take a close at once for no answer at all.
_CUT_PAUSE_S = 0.5

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Wire:
    """The client's connection: an HTTP answer in pieces."""

    def __init__(self, send: Send, scope: Mapping[str, Any]) -> None:
        """Take an ASGI `send`, and the loopback server's extension from the scope."""
        self._send = send
        self._endings = (scope.get("extensions") or {}).get(EXTENSION) or {}

    async def start(self, status: int, media_type: str, headers: Mapping[str, str]) -> None:
        """Send the status line and headers."""
        pairs = [("content-type", media_type), *headers.items()]
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def close(self) -> None:
        """Close the connection after what was sent."""
        self._endings["close"]()

    def reset(self) -> None:
        """Reset the connection."""
        self._endings["reset"]()


async def send_answer(wire: Wire, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
    """Send a whole answer."""
    body = answer.body.encode("utf-8", "replace")
    fields = {**(headers or {}), **dict(answer.headers), "content-length": str(len(body))}
    await wire.start(answer.status, answer.media_type, fields)
    await wire.finish(body)


class Player:
    """One chat completion being played."""

    def __init__(self, state: SimulatorState, request: ChatRequest, plan: Plan, wire: Wire) -> None:
        """Prepare; nothing is sent yet."""
        self._state = state
        self._request = request
        self._plan = plan
        self._wire = wire
        self._model = str(plan.row["id"])
        self._invocation = str(uuid.uuid4())
        self._envelope = Envelope(
            f"chatcmpl-{self._invocation.replace('-', '')}", self._model, int(time.time())
        )
        self._meter = Meter()
        self._owed = False
        self._usage_mode = state.scenario.usage

    async def play(self) -> None:
        """Send the answer. Cancelled when the client goes; what was sent is billed even so."""
        try:
            await self._answer()
        except asyncio.CancelledError:
            self._wire.close()  # else the server would make up a 500 where nothing was sent
            raise
        finally:
            self._settle("aborted")

    async def _answer(self) -> None:
        fault = self._plan.fault
        if fault.never_answers:
            await _for_ever()
        await self._state.gate.passed()
        await asyncio.sleep(self._plan.first_byte_delay_s)
        if fault.answer is not None:
            answer = fill(fault.answer, self._plan, self._request)
            await send_answer(self._wire, answer, self._headers())
        elif self._request.stream:
            await self._stream()
        else:
            await self._whole()

    async def _stream(self) -> None:
        cut = self._plan.fault.cut
        pieces = list(deltas(self._plan.reply, self._envelope.id, self._plan.chunk_size))
        await self._start("text/event-stream; charset=utf-8")
        if cut is None or cut.sent is not Sent.NOTHING:
            await self._chunk({"role": "assistant", "content": ""})
        for delta in pieces[: _share(len(pieces), cut)]:
            await asyncio.sleep(self._plan.token_delay_s)
            self._meter.add(delta)
            await self._chunk(delta.payload)
        if cut is not None:
            await self._break(cut)
            return
        await self._chunk({}, self._plan.reply.finish_reason or None)
        if self._request.include_usage and self._usage_mode != "never":
            await self._wire.write(event(self._envelope.usage_chunk(self._usage())))
        self._settle("complete")
        await self._wire.finish(DONE)

    async def _whole(self) -> None:
        cut = self._plan.fault.cut
        pieces = list(deltas(self._plan.reply, self._envelope.id, self._plan.chunk_size))
        await asyncio.sleep(self._plan.token_delay_s * len(pieces))
        self._count(pieces[: _share(len(pieces), cut)])
        completion = self._envelope.completion(self._plan.reply, self._usage())
        if self._usage_mode == "never":
            del completion["usage"]
        body = encode(completion)
        await self._start("application/json")
        if cut is not None:
            await self._wire.write(body[: _share(len(body), cut)])
            await self._break(cut)
            return
        self._settle("complete")
        await self._wire.finish(body)

    async def _break(self, cut: Cut) -> None:
        if cut.end is End.STALL:
            await _for_ever()
        self._settle("died")
        if cut.end is End.CLEAN:
            await self._wire.finish(cut.tail.encode())
            return
        await asyncio.sleep(_CUT_PAUSE_S)
        if cut.end is End.CLOSE:
            self._wire.close()
        else:
            self._wire.reset()

    async def _start(self, media_type: str) -> None:
        self._owed = True
        await self._wire.start(200, media_type, self._headers())

    async def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> None:
        chunk = self._envelope.chunk(delta, finish_reason)
        if self._usage_mode == "every":
            chunk["usage"] = self._usage()
        await self._wire.write(event(chunk))

    def _count(self, pieces: list[Delta]) -> None:
        for delta in pieces:
            self._meter.add(delta)

    def _tokens(self) -> Tokens:
        plan, meter = self._plan, self._meter
        return Tokens(plan.input_tokens, plan.cached_tokens, meter.output, meter.reasoning)

    def _usage(self) -> dict[str, Any]:
        return usage_fields(self._tokens())

    def _headers(self) -> dict[str, str]:
        used = self._state.used(self._request.key)
        return {
            "x-chutes-invocationid": self._invocation,
            "x-chutes-quota-total": str(DAILY_QUOTA),
            "x-chutes-quota-used": str(used),
            "x-chutes-quota-remaining": str(max(0, DAILY_QUOTA - used)),
        }

    def _settle(self, outcome: Outcome) -> None:
        """Book the request, once; before the last bytes go, so that a client finds it booked."""
        if not self._owed:
            return
        self._owed = False
        tokens, request = self._tokens(), self._request
        self._state.ledger.add(
            BillEntry(
                key=key_label(request.key),
                model=self._model,
                session_id=request.session_id,
                parent_session_id=request.parent_session_id,
                input_tokens=tokens.input,
                cached_tokens=tokens.cached,
                output_tokens=tokens.output,
                reasoning_tokens=tokens.reasoning,
                cost_usd=tokens.cost_usd(prices(self._plan.row)),
                outcome=outcome,
            )
        )


def _share(count: int, cut: Cut | None) -> int:
    """How many of `count` pieces are sent before the cut."""
    if cut is None or cut.sent is Sent.ALL:
        return count
    return 0 if cut.sent is Sent.NOTHING else (count + 1) // 2


async def _for_ever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()
