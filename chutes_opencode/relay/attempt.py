"""One attempt: one request to the provider, from its reservation to its booked end.

An attempt takes what it needs in one order (money, then a permit, then a connection) and gives all
of it back however it ends: a whole answer, a failure, a cut, a cancellation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chutes_opencode.errors import (
    CapacityError,
    LimitExceededError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from chutes_opencode.limits import Hold, cost_bound, reserve
from chutes_opencode.relay.booking import Booking, EndedError
from chutes_opencode.relay.client import Client, ModelRequest
from chutes_opencode.relay.ledger import Entry
from chutes_opencode.relay.limiter import Limiter, Outcome, Permit
from chutes_opencode.relay.receipt import Receipt
from chutes_opencode.relay.resources import Resources
from chutes_opencode.relay.rewrite import Body, max_output, requested_tools, write_body
from chutes_opencode.relay.upstream import read_key

# What a request without max_tokens may cost at most is unknown; opencode never asks for more.
DEFAULT_MAX_OUTPUT = 32_000


@dataclass(frozen=True, slots=True)
class Failure:
    """What an attempt died of.

    Attributes:
        error: The typed error.
        collateral: One refusal of a burst, that taught nothing: it is no attempt of the prompt.
        final: Another attempt is not worth it, whatever the error's class.
    """

    error: OpenCodeError
    collateral: bool = False
    final: bool = False


class Attempt:
    """One attempt of a model step.

    Attributes:
        entry: Its place in the ledger; None: it was not sent.
    """

    def __init__(
        self,
        booking: Booking,
        resources: Resources,
        client: Client,
        request: ModelRequest,
        body: Body,
    ) -> None:
        """Prepare; nothing is taken yet.

        Args:
            booking: The prompt's.
            resources: Connections and limiters.
            client: Who gets the answer.
            request: As it came.
            body: As it goes to the provider.
        """
        self._booking = booking
        self._resources = resources
        self._client = client
        self._request = request
        self._body = body
        self._model = str(body["model"])
        self._upstream = booking.terms.upstream
        self._data = write_body(body)
        self._receipt: Receipt | None = None
        self.entry: Entry | None = None

    async def run(self) -> Failure | None:
        """Send the request and pass its answer on; None: it was whole.

        Raises:
            EndedError: A limit of ours lets no request go, or cut this one.
        """
        try:
            key = read_key(self._upstream)
        except OpenCodeError as error:
            return Failure(error, final=True)
        hold = await self._reserve()
        try:
            permit = await self._permit(self._resources.limiter(self._upstream, key))
            return await self._send_with(permit, key, hold)
        except RateLimitError as error:
            return Failure(error, final=True)
        finally:
            hold.settle(self._cost_usd(), self._at_most_usd())

    async def _send_with(self, permit: Permit, key: str | None, hold: Hold) -> Failure | None:
        outcome, error = Outcome.CANCELLED, None
        try:
            receipt = await self._send(permit, key, hold)
            error = receipt.failure
            outcome = self._outcome(error)
        finally:
            permit.release(outcome, pause_until=_pause_until(error))
        if error is None:
            return None
        return Failure(error, collateral=await permit.is_collateral(), final=receipt.final)

    def _outcome(self, error: OpenCodeError | None) -> Outcome:
        """Tell the limiter what the answer says of the account."""
        if error is None:
            return Outcome.OK
        if isinstance(error, CapacityError):
            # Another model is asked at once: that one is full shall not slow it down.
            other = self._booking.has_other_model(self._model)
            return Outcome.ERROR if other else Outcome.CAPACITY
        if isinstance(error, RateLimitError):
            return Outcome.RATE_LIMITED
        # A model without an instance says nothing of the account, so it is an error like others.
        refused = error.status is not None and not isinstance(error, ServerError)
        return Outcome.OK if refused else Outcome.ERROR

    # --- money -----------------------------------------------------------------------------------

    async def _reserve(self) -> Hold:
        booking = self._booking
        price = booking.prices[self._model]
        if not booking.budgets or price is None:  # a price is required where there is a budget
            return Hold()
        most = max_output(self._body, DEFAULT_MAX_OUTPUT)
        try:
            with booking.waits("the budget"):
                return await reserve(booking.budgets, cost_bound(price, len(self._data), most))
        except LimitExceededError as error:
            booking.overspend(error)

    def _cost_usd(self) -> float:
        return (self.entry.exchange.cost_usd or 0.0) if self.entry is not None else 0.0

    def _at_most_usd(self) -> float:
        """Return what an answer that broke may have cost; 0: what it has cost is known."""
        price = self._booking.prices[self._model]
        if self._receipt is None or price is None:
            return 0.0
        return self._receipt.at_most_usd(price, len(self._data))

    # --- permit ----------------------------------------------------------------------------------

    async def _permit(self, limiter: Limiter) -> Permit:
        """Wait for a permit.

        Raises:
            RateLimitError: The account is paused for longer than the prompt is willing to wait.
        """
        booking, asked = self._booking, time.monotonic()
        self._check_pause(limiter, asked + booking.terms.policy.max_wait_s)
        urgent = booking.started is not None
        try:
            with booking.waits("a free place at the provider"):
                permit = await limiter.acquire(
                    priority=urgent,
                    deadline=booking.terms.deadline,
                    patience=booking.terms.policy.max_wait_s,
                )
        except TimeoutError:
            self._check_pause(limiter, booking.terms.deadline or asked)
            booking.expire()
            raise EndedError("deadline") from None
        booking.permitted(asked)
        return permit

    def _check_pause(self, limiter: Limiter, until: float) -> None:
        paused_until = limiter.stats().paused_until
        if paused_until is not None and paused_until > until:
            wait = timedelta(seconds=paused_until - time.monotonic())
            raise RateLimitError(
                reset_time=datetime.now(UTC) + wait,
                raw_message="the provider lets no requests of this account through by now",
                model=self._model,
            )

    # --- the request -----------------------------------------------------------------------------

    async def _send(self, permit: Permit, key: str | None, hold: Hold) -> Receipt:
        """Send the request and receive its answer, and book it however it ends."""
        booking, request = self._booking, self._request
        booking.check_limits()  # others of the prompt may have been sent while this one waited
        entry = self.entry = booking.ledger.begin(
            request.session_id,
            self._model,
            tools=requested_tools(self._body),
            at=time.monotonic(),
        )
        receipt = self._receipt = Receipt(
            booking, self._resources, self._client, request, self._body, entry, hold
        )
        try:
            await self._exchange(receipt, permit, key)
            return receipt
        finally:
            receipt.book()
            await receipt.close()

    async def _exchange(self, receipt: Receipt, permit: Permit, key: str | None) -> None:
        request = self._request
        try:
            answer = await self._resources.client.send(
                self._upstream, key, request.path, self._data, request.headers
            )
        except OpenCodeError as error:
            receipt.fail(error)
            return
        await receipt.receive(answer, permit.accepted)


def _pause_until(error: OpenCodeError | None) -> float | None:
    """Return the monotonic time until which the provider asked to wait."""
    reset = error.reset_time if isinstance(error, RateLimitError) else None
    if reset is None:
        return None
    return time.monotonic() + (reset - datetime.now(UTC)).total_seconds()
