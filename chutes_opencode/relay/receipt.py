"""Receive one answer: judge it, pass on what is good of it, and know at any moment what it cost.

A receipt can be booked at any time: after the answer's end, or where it was cut.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chutes_opencode.classify import classify_response
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.events import ReasoningDelta, TextDelta
from chutes_opencode.limits import Hold, cost_bound, cost_usd
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.client import Client, ModelRequest
from chutes_opencode.relay.estimate import (
    Kind,
    estimate_usage,
    input_tokens,
    output_tokens,
)
from chutes_opencode.relay.ledger import Entry
from chutes_opencode.relay.replay import Recorder, Request
from chutes_opencode.relay.resources import Resources
from chutes_opencode.relay.rewrite import Body
from chutes_opencode.relay.stream import Delta, StreamCheck
from chutes_opencode.relay.streaming import pass_stream, stream_error
from chutes_opencode.relay.upstream import Answer, BrokenAnswerError
from chutes_opencode.relay.whole import (
    WholeAnswer,
    answer_error,
    broken_error,
    read_error,
    read_whole,
)
from chutes_opencode.results import Usage

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Price

# Some servers forget it; their stream is judged by what it holds.
_STREAM_TYPES = ("text/event-stream", "")
_KEPT = re.compile(r"^(retry-after|retry-after-ms|x-request-id|x-chutes-.*|x-ratelimit-.*|date)$")
# opencode's HTTP client refuses an answer with more than some hundred headers (seen).
_MAX_HEADERS = 32
_MAX_HEADER_CHARS = 4096
_NOT_PASSED = ("retry-after", "retry-after-ms", "date")


class Receipt:
    """What is known of one answer by now.

    Attributes:
        failure: What it died of; None: nothing yet.
        final: Whether another attempt is not worth it, whatever the failure's class.
    """

    def __init__(
        self,
        booking: Booking,
        resources: Resources,
        client: Client,
        request: ModelRequest,
        body: Body,
        entry: Entry,
        hold: Hold,
    ) -> None:
        """Wait for an answer; see `Attempt`.

        Args:
            booking: The prompt's.
            resources: Connections and limiters.
            client: Who gets the answer.
            request: As it came.
            body: As it went to the provider.
            entry: The request in the books.
            hold: Dollars that were set aside for it.
        """
        self.failure: OpenCodeError | None = None
        self.final = False
        self._booking = booking
        self._resources = resources
        self._client = client
        self._request = request
        self._body = body
        self._entry = entry
        self._hold = hold
        self._input_tokens: int | None = None
        self._streams = body.get("stream") is True
        self._model = str(body["model"])
        self._answer: Answer | None = None
        self._check = StreamCheck()
        self._untold: list[Delta] = []  # of what was read and not passed on yet
        self._whole = WholeAnswer()
        self._accepted = False  # from here on the provider may bill it
        self._error: str | None = None
        self._error_body: str | None = None
        self._recorder = self._make_recorder()

    def fail(self, error: OpenCodeError) -> None:
        """Note that no answer came."""
        self.failure = error
        self._error = error.raw_message

    async def receive(self, answer: Answer, accepted: Callable[[], object]) -> None:
        """Take an answer to its end.

        Args:
            answer: Its head has come.
            accepted: Called when it shows that the provider took the request.

        Raises:
            EndedError: A limit of ours was crossed on the way.
        """
        self._answer = answer
        kept = {name: value for name, value in answer.headers.items() if _KEPT.match(name)}
        self._booking.ledger.answer(
            self._entry, answer.status, answer.media_type, kept, at=time.monotonic()
        )
        if not self._is_as_asked(answer):
            await self._refused(answer)
            return
        accepted()
        self._accepted = True
        if self._streams:
            await self._receive_stream(answer)
        else:
            await self._receive_whole(answer)
        if self.failure is None:
            await self._store(answer)

    def book(self) -> None:
        """Close the ledger's entry with what is known."""
        stream = self._streams and self._accepted
        seen = self._check if stream else self._whole
        ended = self.failure is not None or self._is_whole()
        self._booking.forget_running(self)
        self._booking.ledger.finish(
            self._entry,
            at=time.monotonic(),
            whole=self._is_whole(),
            usage=self._usage(seen.usage, seen.output_bytes),
            finish_reason=seen.finish_reason,
            served_model=seen.served_model,
            body=self._error_body,
            error=self._error if ended else self._error or "cut before its end",
        )

    async def close(self) -> None:
        """Give the connection back."""
        if self._recorder is not None:
            self._recorder.close()
        if self._answer is not None:
            await self._answer.close()

    def at_most_usd(self, price: Price, body_bytes: int) -> float:
        """Return what an answer that broke may have cost, US dollars; 0: its cost is known.

        Args:
            price: Of the model.
            body_bytes: Length of the request's body.
        """
        told = self._check.usage if self._streams else self._whole.usage
        if not self._accepted or self._is_whole() or told is not None:
            return 0.0
        if not self._streams:  # it was made before any of it was sent
            return self._hold.usd
        return cost_bound(price, body_bytes, sum(self._check.output_bytes.values()))

    def _is_as_asked(self, answer: Answer) -> bool:
        if not 200 <= answer.status < 300:
            return False
        if self._streams:
            return answer.media_type in _STREAM_TYPES
        return answer.media_type.endswith("json") or not answer.media_type

    def _is_whole(self) -> bool:
        if self.failure is not None or not self._accepted:
            return False
        return self._check.outcome == "whole" if self._streams else bool(self._whole.body)

    async def _refused(self, answer: Answer) -> None:
        self._error_body = await read_error(answer)
        patterns = self._booking.terms.upstream.patterns
        self.failure = answer_error(answer, self._error_body, patterns=patterns, model=self._model)

    # --- streams ---------------------------------------------------------------------------------

    async def _receive_stream(self, answer: Answer) -> None:
        terms = self._booking.terms
        broken = await pass_stream(
            answer, self._check, self._pass, self._hear, idle_seconds=terms.idle_seconds
        )
        self.failure = stream_error(
            self._check,
            broken,
            patterns=terms.upstream.patterns,
            model=self._model,
            request_id=self._entry.exchange.request_id,
        )
        self.final = self._check.outcome == "unknown_finish"
        if self.failure is not None:
            self._error = self._check.error or self.failure.raw_message

    async def _pass(self, data: bytes) -> None:
        await self._start()
        if self._recorder is not None:
            self._recorder.write(data)
        await self._client.write(data)
        self._tell_deltas()

    def _hear(self) -> None:
        self._untold += self._check.deltas
        self._check_limits()

    async def _start(self) -> None:
        if self._client.started or self._answer is None:
            return
        told = self._entry.exchange.headers.items()
        passed = [(name, value) for name, value in told if _may_pass(name, value)]
        content_type = self._content_type(self._answer)
        await self._client.start(200, {"content-type": content_type, **dict(passed[:_MAX_HEADERS])})

    def _content_type(self, answer: Answer) -> str:
        told = answer.headers.get("content-type", "")
        plain = "text/event-stream" if self._streams else "application/json"
        return told if _may_pass("content-type", told) else plain

    def _tell_deltas(self) -> None:
        booking = self._booking
        if booking.observed and booking.ledger.is_main(self._request.session_id):
            for kind, text in self._untold:
                booking.tell(TextDelta(text=text) if kind == "text" else ReasoningDelta(text=text))
        self._untold.clear()

    def _check_limits(self) -> None:
        booking = self._booking
        bounded = booking.terms.max_tokens is not None or booking.budgets
        if not bounded or self._check.outcome != "truncated":  # else it is over anyway
            return
        used = self._check.usage or Usage(output=output_tokens(self._check.output_bytes))
        booking.count_running(self, used.total)
        price = booking.prices[self._model]
        if booking.budgets and price is not None:
            booking.check_overrun(self._hold, cost_usd(self._with_input(used), price))

    def _with_input(self, used: Usage) -> Usage:
        """Add the tokens of the request to those of its answer, where only these are known."""
        if self._check.usage is not None:
            return used
        if self._input_tokens is None:
            self._input_tokens = input_tokens(self._body)
        return replace(used, input=self._input_tokens)

    # --- whole answers ---------------------------------------------------------------------------

    async def _receive_whole(self, answer: Answer) -> None:
        terms = self._booking.terms
        try:
            self._whole = await read_whole(answer, idle_seconds=terms.idle_seconds)
        except BrokenAnswerError as error:
            self._error = str(error)
            self.failure = broken_error(error, answer, self._model)
        except ValueError as error:
            self._error_body = str(error)
            self._accepted = False
            self.failure = classify_response(
                answer.status,
                self._error_body,
                answer.headers,
                now=datetime.now(UTC),
                model=self._model,
                patterns=terms.upstream.patterns,
            )
        else:
            await self._pass(self._whole.body)

    # --- what it cost ----------------------------------------------------------------------------

    def _usage(self, told: Usage | None, output_bytes: Mapping[Kind, int]) -> Usage | None:
        if not self._accepted:
            return told
        cached = self._count_cached()
        return told or estimate_usage(self._body, output_bytes, cached=cached)

    def _count_cached(self) -> int:
        """Remember the request even if its usage was told: a later one may be estimated by it."""
        price = self._booking.prices[self._model]
        if price is None or price.cache_read is None:
            return 0
        return self._resources.prefixes.accept(self._request.session_id, self._body)

    # --- replay ----------------------------------------------------------------------------------

    def _make_recorder(self) -> Recorder | None:
        stored = stored_request(self._booking, self._request, self._body)
        return None if stored is None else Recorder(stored)

    async def _store(self, answer: Answer) -> None:
        if self._recorder is not None:
            content_type = self._content_type(answer)
            await asyncio.to_thread(
                self._recorder.commit, status=answer.status, content_type=content_type
            )


def _may_pass(name: str, value: str) -> bool:
    """Tell whether a header goes on to opencode: not if a server wrote what is no header."""
    plain = value.isascii() and value.isprintable() and 0 < len(value) <= _MAX_HEADER_CHARS
    return plain and name not in _NOT_PASSED


def stored_request(booking: Booking, request: ModelRequest, body: Body) -> Request | None:
    """Return a request as the store of exchanges knows it; None: nothing is stored."""
    key = booking.terms.replay
    if key is None:
        return None
    return Request(
        key,
        base_url=booking.terms.upstream.base_url,
        path=request.path,
        body=body,
        step=booking.ledger.steps(request.session_id),
    )
