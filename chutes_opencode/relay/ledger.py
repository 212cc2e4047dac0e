"""The books of one prompt: its sessions, its requests, what they used. Pure: no clock, no I/O.

A prompt is a tree of sessions: its own, and those of its sub-agents at any depth. All of them are
booked here, and the prompt's limits hold for their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chutes_opencode.limits import cost_usd
from chutes_opencode.masking import mask
from chutes_opencode.results import Exchange, Usage

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Price

# Whoever holds the lease key could send refused requests without end.
_MAX_REFUSALS = 100
_SPARE_SESSIONS = 1000  # sub-agents' beyond one for each request that may be sent
_REQUEST_IDS = ("x-chutes-invocationid", "x-request-id")


@dataclass(slots=True, eq=False)
class Entry:
    """A request of the books, from its sending to its end.

    Attributes:
        exchange: What is known of it by now.
        started: When it was sent, seconds of a monotonic clock.
        open: Whether it is still under way.
    """

    exchange: Exchange
    started: float
    open: bool = True


@dataclass(slots=True)
class _Session:
    """Where one session stands.

    Attributes:
        parent: The session that started it.
        tries: Attempts that its present model step has used.
        steps: Model steps that ended whole.
    """

    parent: str | None = None
    tries: int = 0
    steps: int = 0


class Ledger:
    """The books of one prompt; used on one thread, read from any."""

    def __init__(
        self,
        prices: Mapping[str, Price | None],
        *,
        max_requests: int,
        max_tokens: int | None = None,
        session_id: str | None = None,
    ) -> None:
        """Open the books.

        Args:
            prices: Each allowed model's price, None where it is unknown.
            max_requests: Requests that may be sent.
            max_tokens: Tokens in all; None: no limit.
            session_id: The prompt's own session; None: the first one that has no parent.
        """
        self._prices = dict(prices)
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._sessions: dict[str, _Session] = {}
        self._main: str | None = None
        self._entries: list[Entry] = []
        self._refusals = 0
        self._requests = 0
        self._usage = Usage()
        self._cost_usd: float | None = 0.0
        if session_id is not None:
            self.bind(session_id)

    # --- sessions --------------------------------------------------------------------------------

    @property
    def main_session(self) -> str | None:
        """The prompt's own session; None while none is bound."""
        return self._main

    def bind(self, session_id: str) -> None:
        """Make a session the prompt's own.

        Raises:
            ValueError: Another one is it already.
        """
        if self._main not in (None, session_id):
            raise ValueError("the prompt has a session already")
        self._main = session_id
        self._sessions.setdefault(session_id, _Session())

    def knows(self, session_id: str | None) -> bool:
        """Tell whether a session is the prompt's own or one of its sub-agents'."""
        return session_id in self._sessions

    def admit(self, session_id: str | None, parent: str | None) -> bool:
        """Tell whether a request belongs to this prompt; a sub-agent's session joins the tree.

        Args:
            session_id: The request's session.
            parent: The session that started it, as the request tells.
        """
        if not session_id:
            return False
        if session_id in self._sessions:
            return True
        if parent is not None:
            most = self._max_requests + _SPARE_SESSIONS
            if parent not in self._sessions or len(self._sessions) >= most:
                return False
            self._sessions[session_id] = _Session(parent)
            return True
        if self._main is not None:
            return False
        self.bind(session_id)
        return True

    def is_main(self, session_id: str | None) -> bool:
        """Tell whether a session is the prompt's own."""
        return session_id is not None and session_id == self._main

    def tries(self, session_id: str) -> int:
        """Count the attempts that the session's present model step has used."""
        return self._sessions[session_id].tries

    def forgive(self, session_id: str) -> None:
        """Take back the last attempt: its failure was not its own (one refusal of a burst)."""
        session = self._sessions[session_id]
        session.tries = max(0, session.tries - 1)

    def steps(self, session_id: str) -> int:
        """Count the session's model steps that ended whole."""
        return self._sessions[session_id].steps

    # --- requests --------------------------------------------------------------------------------

    def begin(
        self, session_id: str, model: str, *, tools: tuple[str, ...] = (), at: float
    ) -> Entry:
        """Book a request that is sent now: the next attempt of its session's model step.

        Args:
            session_id: An admitted session.
            model: The model string asked.
            tools: Names of the tools that it offers.
            at: The time, seconds of a monotonic clock.
        """
        session = self._sessions[session_id]
        session.tries += 1
        self._requests += 1
        return self._add(session_id, model, tools, at, attempt=session.tries)

    def answer(
        self,
        entry: Entry,
        status: int,
        content_type: str,
        headers: Mapping[str, str],
        *,
        at: float,
    ) -> None:
        """Note the head of an answer.

        Args:
            entry: The request.
            status: HTTP status.
            content_type: Media type.
            headers: Those that matter, lower case.
            at: The time.
        """
        headers = {name: mask(value) for name, value in headers.items()}  # some echo the key
        request_id = next((headers[name] for name in _REQUEST_IDS if headers.get(name)), None)
        entry.exchange = replace(
            entry.exchange,
            status=status,
            content_type=content_type,
            headers=headers,
            request_id=request_id,
            first_byte_s=max(0.0, at - entry.started),
        )

    def finish(
        self,
        entry: Entry,
        *,
        at: float,
        whole: bool = False,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        served_model: str | None = None,
        body: str | None = None,
        error: str | None = None,
    ) -> None:
        """Book the end of a request; a second time is ignored.

        Args:
            entry: The request.
            at: The time.
            whole: Whether the answer was whole: its session's model step is done.
            usage: What it used, told or estimated; None: nothing that is billed.
            finish_reason: As the provider spelled it.
            served_model: Model that the answer names.
            body: Of an answer that was no stream.
            error: What it died of.
        """
        if not entry.open:
            return
        self._close(entry, at, usage, finish_reason, served_model)
        entry.exchange = replace(
            entry.exchange,
            cost_usd=self._price(entry.exchange.requested_model, usage),
            body=None if body is None else mask(body),
            error=None if error is None else mask(error),
        )
        self._usage += replace(usage or Usage(), num_requests=1)
        cost = entry.exchange.cost_usd
        known = cost is not None and self._cost_usd is not None
        self._cost_usd = self._cost_usd + cost if known else None  # type: ignore[operator]
        if whole:
            self._step_done(entry)

    def replayed(
        self,
        session_id: str,
        model: str,
        *,
        at: float,
        status: int = 200,
        content_type: str = "",
        tools: tuple[str, ...] = (),
        usage: Usage | None = None,
        finish_reason: str | None = None,
        served_model: str | None = None,
    ) -> None:
        """Book an answer that came from disk: it costs nothing, and counts as a request.

        It counts, so that a run that a limit ended ends at the same place when it is repeated.
        """
        self._requests += 1
        entry = self._add(session_id, model, tools, at)
        self._close(entry, at, usage, finish_reason, served_model)
        entry.exchange = replace(
            entry.exchange,
            status=status,
            content_type=content_type,
            first_byte_s=0.0,
            cost_usd=0.0,
            replayed=True,
        )
        self._step_done(entry)

    def refuse(
        self,
        session_id: str | None,
        model: str | None,
        reason: str,
        *,
        tools: tuple[str, ...] = (),
        at: float,
    ) -> None:
        """Note a request that we answered ourselves; of very many only the first hundred."""
        self._refusals += 1
        if self._refusals <= _MAX_REFUSALS:
            entry = self._add(session_id, model, tools, at)
            entry.open = False
            entry.exchange = replace(entry.exchange, refused=reason, cost_usd=0.0, duration_s=0.0)

    def end(self, entry: Entry, reason: str) -> None:
        """Note that we ended a request that was sent, or what followed from it."""
        entry.exchange = replace(entry.exchange, refused=reason)

    # --- sums ------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Count the requests that were sent or replayed."""
        return self._requests

    @property
    def refusals(self) -> int:
        """Count the requests that we answered ourselves."""
        return self._refusals

    @property
    def usage(self) -> Usage:
        """Sum the tokens of the requests that have ended; replayed ones used none."""
        return self._usage

    @property
    def cost_usd(self) -> float | None:
        """Sum the dollars of the requests that have ended; None if a price is unknown."""
        return self._cost_usd

    def limit_reached(self) -> str | None:
        """Name the limit that lets no further request go: "max_requests" or "max_tokens"."""
        if self._requests >= self._max_requests:
            return "max_requests"
        return self.limit_crossed()

    def limit_crossed(self, tokens: int = 0) -> str | None:
        """Name the limit that is used up while requests run: "max_tokens".

        Args:
            tokens: What the requests under way have used so far.
        """
        if self._max_tokens is not None and self._usage.total + tokens >= self._max_tokens:
            return "max_tokens"
        return None

    def exchanges(self) -> tuple[Exchange, ...]:
        """Return the requests in their order, those under way as far as they are seen."""
        return tuple(entry.exchange for entry in tuple(self._entries))

    # --- parts -----------------------------------------------------------------------------------

    def _add(
        self,
        session_id: str | None,
        model: str | None,
        tools: tuple[str, ...],
        at: float,
        attempt: int = 1,
    ) -> Entry:
        session = self._sessions.get(session_id or "")
        exchange = Exchange(
            requested_model=model,
            session_id=session_id,
            parent_session_id=session.parent if session else None,
            tools=tools,
            attempt=attempt,
        )
        entry = Entry(exchange, at)
        self._entries.append(entry)
        return entry

    def _close(
        self,
        entry: Entry,
        at: float,
        usage: Usage | None,
        finish_reason: str | None,
        served_model: str | None,
    ) -> None:
        entry.open = False
        entry.exchange = replace(
            entry.exchange,
            usage=usage,
            finish_reason=finish_reason,
            served_model=served_model,
            duration_s=max(0.0, at - entry.started),
        )

    def _step_done(self, entry: Entry) -> None:
        session = self._sessions[entry.exchange.session_id or ""]
        session.tries = 0
        session.steps += 1

    def _price(self, model: str | None, usage: Usage | None) -> float | None:
        if usage is None:
            return 0.0
        price = self._prices.get(model or "")
        return None if price is None else cost_usd(usage, price)
