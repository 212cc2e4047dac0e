"""A booking: one prompt's place at the relay, from its start to its end.

What runs for it is bounded by its deadline and by `end`: the first reason to end it stays, cuts
every stream that is under way and refuses every later request. Its evidence may be read from any
thread at any time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

from chutes_opencode.errors import LimitExceededError, OpenCodeError, PromptTimeoutError
from chutes_opencode.events import Event, Waiting
from chutes_opencode.limits import Budget, Hold, require_prices
from chutes_opencode.relay.ledger import Ledger
from chutes_opencode.relay.terms import Terms
from chutes_opencode.results import Exchange, Usage

CLOSED = "closed"
CLOSE_SECONDS = 5.0
QUIET_SECONDS = 0.05  # a shorter wait is not worth telling

Observer = Callable[[Event], object]

_log = logging.getLogger(__name__)


class EndedError(Exception):
    """Our own hand ended the request; the message is why, the cause what led to it."""


class Booking:
    """One prompt at the relay; made by `Lease.open`, ended by `close`.

    Attributes:
        terms: What the prompt may do.
        prices: The models that it may ask, with their prices.
        ledger: Its books.
        budgets: Its own dollar limit and those that it shares.
        tools_seen: Whether a request has shown its tools, so that they need no check any more.
        started: When it got its first permit, on the clock of `time.monotonic`.
        queued_s: Seconds that it waited for that.
        quiet_since: When its last request ended, on the same clock; None: none has.
        last_failure: What the last attempt that failed died of.
    """

    def __init__(
        self, terms: Terms, session_id: str | None = None, observe: Observer | None = None
    ) -> None:
        """Open the books.

        Raises:
            ConfigurationError: A dollar limit, and a model whose price is unknown.
        """
        self.terms = terms
        own = terms.max_cost_usd
        self.budgets = (*(() if own is None else (Budget("max_cost_usd", own),)), *terms.budgets)
        named = (terms.model, *terms.fallback_models)
        self.prices = {**{name: terms.prices.get(name) for name in named}, **terms.prices}
        if self.budgets:
            require_prices(self.prices)
        self.ledger = Ledger(
            self.prices,
            max_requests=terms.max_requests,
            max_tokens=terms.max_tokens,
            session_id=session_id,
        )
        self.tools_seen = False
        self.started: float | None = None
        self.queued_s = 0.0
        self.quiet_since: float | None = None
        self.last_failure: OpenCodeError | None = None
        self._failures: dict[str, OpenCodeError] = {}
        self._observe = observe
        self._first_request: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._ended: str | None = None
        self._error: OpenCodeError | None = None
        self._closed = False
        self._waiting = 0
        self._unfit: set[str] = set()  # models that are full, cold or gone
        self._running_tokens: dict[object, int] = {}
        self._scopes: dict[asyncio.Task[object], tuple[asyncio.AbstractEventLoop, _Scope]] = {}
        self._idle = threading.Event()
        self._idle.set()
        if terms.opened is not None:
            terms.opened(self)

    # --- evidence, from any thread ---------------------------------------------------------------

    @property
    def ended(self) -> str | None:
        """Why the relay ended the prompt; None: it did not.

        "max_requests", "max_tokens", "max_cost_usd", "budget:<name>", "tool server <prefix>",
        "failing" (the provider, for good), "configuration", "deadline" or "relay" (it stopped).
        """
        return self._ended

    @property
    def error(self) -> OpenCodeError | None:
        """The typed error that `ended` stands for."""
        return self._error

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    @property
    def waiting(self) -> bool:
        """Whether a request of the prompt waits now: for a permit, a pause or a backoff."""
        return self._waiting > 0

    @property
    def busy(self) -> bool:
        """Whether a request of the prompt is under way, waits included."""
        return not self._idle.is_set()

    @property
    def usage(self) -> Usage:
        """Tokens so far, of requests that have ended."""
        return self.ledger.usage

    @property
    def cost_usd(self) -> float | None:
        """US dollars so far; None if a price is unknown."""
        return self.ledger.cost_usd

    def exchanges(self) -> tuple[Exchange, ...]:
        """Return its requests in their order; whole once the booking is closed."""
        return self.ledger.exchanges()

    # --- the end ---------------------------------------------------------------------------------

    def end(self, reason: str, error: OpenCodeError) -> None:
        """End the prompt, from any thread; only the first reason counts."""
        with self._lock:
            if self._ended is not None or self._closed:
                return
            self._ended, self._error = reason, error
        self._cut()

    def close(self) -> None:
        """End what still runs and refuse what comes later; returns when the books are closed."""
        with self._lock:
            self._closed = True
        self._cut()
        if not self._on_running_loop():
            self._idle.wait(CLOSE_SECONDS)

    async def aclose(self) -> None:
        """Do what `close` does without blocking the event loop."""
        with self._lock:
            self._closed = True
        self._cut()
        if not self._idle.is_set() and not self._on_running_loop():
            await asyncio.to_thread(self._idle.wait, CLOSE_SECONDS)

    def check(self) -> None:
        """Raise if the prompt is over.

        Raises:
            EndedError: It is.
        """
        if self._ended is not None:
            raise EndedError(self._ended)
        if self._closed:
            raise EndedError(CLOSED)

    def check_limits(self) -> None:
        """Raise if no further request may be sent; called again right before one is.

        Raises:
            EndedError: A limit is reached; the prompt is over.
        """
        self.check()
        limit = self.ledger.limit_reached()
        if limit is not None:
            self._exceed(limit)

    def _exceed(self, limit: str) -> NoReturn:
        words = "model requests" if limit == "max_requests" else "tokens"
        error = LimitExceededError(
            raw_message=f"the prompt reached its limit of {words}", limit=limit
        )
        error.__cause__ = self.last_failure
        self.end(limit, error)
        raise EndedError(limit)

    def overspend(self, error: LimitExceededError) -> NoReturn:
        """End the prompt because its money, or what it shares, is used up.

        Raises:
            EndedError: Always.
        """
        error.__cause__ = self.last_failure
        reason = error.limit if error.limit == "max_cost_usd" else f"budget:{error.limit}"
        self.end(reason, error)
        raise EndedError(reason) from None

    def check_overrun(self, hold: Hold, usd: float) -> None:
        """Allow a request that costs more than was set aside for it only what is free.

        Args:
            hold: What was set aside.
            usd: Dollars that it has cost by now: the provider may have ignored `max_tokens`.

        Raises:
            EndedError: A budget has not so much left; the prompt is over.
        """
        budget = hold.raise_to(usd) if usd > hold.usd else None
        if budget is not None:
            words = f"{budget.name}: an answer went on beyond what it was allowed to cost"
            self.overspend(LimitExceededError(raw_message=words, limit=budget.name, overrun=True))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Bound what runs inside by the deadline, by `end` and by `close`.

        Raises:
            EndedError: One of them ended it.
        """
        self.check()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        left = self._seconds_left()
        try:
            async with asyncio.timeout(left) as timeout:
                scope = _Scope(timeout)
                self._enter(task, loop, scope)
                try:
                    self.check()  # `end` may have come while we entered
                    yield
                finally:
                    self._leave(task)
        except TimeoutError:
            if not timeout.expired():
                raise
            self.expire()
            self.check()
            raise

    def _seconds_left(self) -> float | None:
        deadline = self.terms.deadline
        return None if deadline is None else deadline - time.monotonic()

    def expire(self) -> None:
        """End the prompt where no one else has: the time is up."""
        error = PromptTimeoutError(raw_message="the prompt's deadline has passed")
        error.__cause__ = self.last_failure
        self.end("deadline", error)

    def _enter(
        self, task: asyncio.Task[object], loop: asyncio.AbstractEventLoop, scope: _Scope
    ) -> None:
        with self._lock:
            self._scopes[task] = (loop, scope)
            self._idle.clear()
            tell, self._first_request = self._first_request, None
        if tell is not None:
            tell()

    def _leave(self, task: asyncio.Task[object]) -> None:
        with self._lock:
            _, scope = self._scopes.pop(task)
            scope.over = True
            if not self._scopes:
                self.quiet_since = time.monotonic()
                self._idle.set()

    def _cut(self) -> None:
        """End every request that is under way, but not the one that asks for it."""
        asking = _current_task()
        with self._lock:
            scopes = [entry for task, entry in self._scopes.items() if task is not asking]
        for loop, scope in scopes:
            if loop.is_closed():
                self._idle.set()
            else:
                loop.call_soon_threadsafe(scope.cut)

    def _on_running_loop(self) -> bool:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return False
        with self._lock:
            return any(loop is here for loop, _ in self._scopes.values())

    def when_asked(self, tell: Callable[[], object]) -> None:
        """Have `tell` called once, on the relay's loop, when the next request comes."""
        with self._lock:
            self._first_request = tell

    # --- for the exchanges, on the relay's loop --------------------------------------------------

    @property
    def observed(self) -> bool:
        """Whether anyone wants to hear of it."""
        return self._observe is not None

    def tell(self, event: Event) -> None:
        """Tell the observer; its faults are its own."""
        if self._observe is None:
            return
        try:
            self._observe(event)
        except Exception:  # noqa: BLE001 - the caller's own function
            _log.exception("an observer failed on %s", type(event).__name__)

    @contextmanager
    def waits(self, reason: str, seconds: float | None = None) -> Iterator[None]:
        """Show in `waiting` that a request waits; tell the observer if it lasts."""
        event = Waiting(reason=reason, seconds=seconds)
        told = asyncio.get_running_loop().call_later(QUIET_SECONDS, self.tell, event)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            told.cancel()

    def permitted(self, asked: float) -> None:
        """Note that a permit was given that was asked for at `asked` (monotonic)."""
        if self.started is None:
            self.started = time.monotonic()
            self.queued_s = self.started - asked

    def note_failure(self, session_id: str, error: OpenCodeError) -> None:
        """Note what an attempt of a session died of."""
        self.last_failure = self._failures[session_id] = error

    def failure_of(self, session_id: str) -> OpenCodeError | None:
        """Return what the last attempt of a session that failed died of."""
        return self._failures.get(session_id)

    def fit_model(self, model: str) -> str:
        """Return the model to ask where `model` is asked for: itself, or what stands in for it."""
        candidates = (model, *self.terms.fallback_models)
        return next((name for name in candidates if name not in self._unfit), candidates[-1])

    def has_other_model(self, model: str) -> bool:
        """Tell whether another model than `model` may still be asked."""
        return bool({self.terms.model, *self.terms.fallback_models} - self._unfit - {model})

    def give_up_model(self, model: str) -> bool:
        """Ask `model` no more in this prompt; tell whether another one stands in for it."""
        if not self.has_other_model(model):
            return False
        self._unfit.add(model)
        return True

    def count_running(self, request: object, tokens: int) -> None:
        """Note the tokens of a request under way.

        Raises:
            EndedError: All of them together cross a limit; the prompt is over.
        """
        self._running_tokens[request] = tokens
        limit = self.ledger.limit_crossed(sum(self._running_tokens.values()))
        if limit is not None:
            self._exceed(limit)

    def forget_running(self, request: object) -> None:
        """Count a request's tokens no more as under way: the ledger has them."""
        self._running_tokens.pop(request, None)


class _Scope:
    """A timeout that may be told to expire at once, as long as it is entered."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self.over = False

    def cut(self) -> None:
        if not self.over and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
