"""What may run now, and what becomes of a failure: one decision for each, with the clock given.

======================================  =========================================================
AuthenticationError, BillingError       the batch stops: every further item would meet it, too
LimitExceededError of a shared budget   so does it; but if one answer went on beyond its own bound,
                                        that is the item's: the next one is told what is left
OpenCodeNotFoundError, NoWorkerError    so does it
ModelNotFoundError                      asked again soon; from three tasks in a row, the model is
                                        closed. No model left: the batch stops
ColdModelError                          the model is paused for 30, 60 … 300 s, after which one
                                        task at a time tries it; the first answer opens it
RateLimitError with a reset time        everything is paused until then
any other error                         the item's own: it is recorded
======================================  =========================================================

A task that is told so again, while its model answers others that began later, has a failure of its
own: it is recorded.

No wait is without end. A model that stays cold for `max_pause_s` is closed, a rate limit that
lasts as long stops the batch, and a task that was put back 20 times is left for the next resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    LimitExceededError,
    ModelNotFoundError,
    NoWorkerError,
    OpenCodeError,
    OpenCodeNotFoundError,
    RateLimitError,
    TransientError,
)

BATCH_BUDGET = "max_cost_usd of the batch"
"""Name of a batch's `Budget`: what a `LimitExceededError` calls it."""

MAX_PAUSE_S = 1800.0
MAX_REQUEUES = 20
COLD_WAITS_S = (30.0, 300.0)  # the first, and what they double up to
# So many tasks in a row must be told that a model is unknown, or the only one so often again.
GONE_AFTER = 3
UNKNOWN_WAIT_S = 1.0  # the first; it doubles

_SHARED_LIMITS = (BATCH_BUDGET, "max_total_cost_usd", "max_process_cost_usd")


@dataclass(frozen=True, slots=True)
class Requeue:
    """Run the task again.

    Attributes:
        until: Not before then, seconds since the epoch.
        scope: What is paused until then: its "model", or "all".
    """

    until: float
    scope: Literal["model", "all"]


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the task for the next resume; `Gates.closed` tells whether its model's all are.

    Attributes:
        reason: Why: "cold", "model", or "rate limit".
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Begin no task any more; the failed one is left for the next resume.

    Attributes:
        reason: "authentication", "billing", "budget", "opencode", "models" or "workers" (none is
            left), or "rate limit".
        error: What it is about.
    """

    reason: str
    error: OpenCodeError


@dataclass(frozen=True, slots=True)
class Keep:
    """The failure is the item's own: it is recorded."""


Decision = Requeue | Leave | Stop | Keep


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A task that was let in; from `Gates.enter`.

    Attributes:
        model: Its model string.
        at: When, seconds since the epoch.
        since: When it was let in for the first time.
    """

    model: str
    at: float
    since: float


@dataclass(slots=True)
class _Gate:
    """One model, or the account.

    Attributes:
        until: When the pause ends; -inf: there is none.
        paused_at: When it began: what was let in before knew nothing of it.
        since: When the first of the pauses began that no answer has ended; None: none has.
        wait_s: How long the last pause was.
        probe: The task that tries whether a pause may end.
        answered: When the last of those that it has answered was let in; -inf: there is none.
        unknown: How many tasks in a row were told that the model is unknown.
        closed: Why nothing is asked of it any more; "": it is.
    """

    until: float = -math.inf
    paused_at: float = -math.inf
    since: float | None = None
    wait_s: float = 0.0
    probe: Ticket | None = None
    answered: float = -math.inf
    unknown: int = 0
    closed: str = ""

    def pause(self, until: float, now: float) -> None:
        """Pause until a time; not shorter than it is paused already."""
        self.since = now if self.since is None else self.since
        self.paused_at = now
        self.until = max(self.until, until)
        self.probe = None

    def open(self) -> None:
        """End the pause: it has answered."""
        self.until, self.since, self.wait_s, self.probe = -math.inf, None, 0.0, None
        self.unknown = 0


class Gates:
    """Which models of a batch take tasks now. Times are seconds since the epoch.

    Each task that `enter` lets in ends in one of `succeeded`, `decide` and `dropped`.
    """

    def __init__(self, models: Iterable[str] = ("",), *, max_pause_s: float = MAX_PAUSE_S) -> None:
        """Open a gate for each model.

        Args:
            models: The model strings of the batch; "": the instance's. When all of them are
                closed, the batch stops.
            max_pause_s: How long a pause may last, repetitions included, that no answer ends.
        """
        self._models = tuple(models)
        self._max_pause_s = max_pause_s
        self._gates = {model: _Gate() for model in self._models}
        self._account = _Gate()

    # --- what may run ----------------------------------------------------------------------------

    def admits(self, model: str, now: float) -> bool:
        """Tell whether a task of the model may begin now."""
        return self.opens_at(model, now) <= now

    def opens_at(self, model: str, now: float) -> float:
        """Tell when a task of the model may begin: now, later, or after another one (inf)."""
        gate = self._gate(model)
        if gate.closed or gate.probe is not None:
            return math.inf
        return max(now, gate.until, self._account.until)

    def closed(self, model: str) -> str:
        """Tell why the model's tasks are left: "model" (it is gone) or "cold"; "": they are not."""
        return self._gate(model).closed

    def waiting(self, now: float) -> str:
        """Tell people what is waited for; "": nothing."""
        if self._account.until > now:
            return f"rate limit until {_clock(self._account.until)}"
        cold = {name: gate for name, gate in self._gates.items() if gate.since is not None}
        texts = []
        for name, gate in cold.items():
            if not gate.closed:
                words = "is being tried" if gate.until <= now else f"until {_clock(gate.until)}"
                texts.append(f"cold {name or 'model'} {words}")
        return ", ".join(texts)

    def enter(self, model: str, now: float, since: float | None = None) -> Ticket:
        """Let a task in; `admits` must have said yes.

        Args:
            model: The task's.
            now: The time.
            since: When it was let in for the first time; None: this is the first.
        """
        gate, ticket = self._gate(model), Ticket(model, now, now if since is None else since)
        if gate.since is not None:
            gate.probe = ticket
        return ticket

    # --- what came of it -------------------------------------------------------------------------

    def succeeded(self, ticket: Ticket) -> None:
        """Note that a task was answered."""
        gate = self._gate(ticket.model)
        gate.answered = max(gate.answered, ticket.at)
        self._opened(ticket)

    def dropped(self, ticket: Ticket) -> None:
        """Note that a task was ended by us: it has told nothing."""
        gate = self._gate(ticket.model)
        if gate.probe is ticket:
            gate.probe = None

    def decide(
        self, ticket: Ticket, error: OpenCodeError, times_requeued: int, now: float
    ) -> Decision:
        """Decide what follows a failure.

        Args:
            ticket: The task's.
            error: What it failed of.
            times_requeued: How often it was put back before.
            now: The time.
        """
        self.dropped(ticket)
        if reason := _stops(error):
            return Stop(reason, error)
        if isinstance(error, ModelNotFoundError):
            return self._unknown(ticket, error, times_requeued, now)
        if isinstance(error, ColdModelError):
            return self._cold(ticket, error, times_requeued, now)
        if isinstance(error, RateLimitError) and error.reset_time is not None:
            return self._limited(ticket, error, times_requeued, now)
        if not isinstance(error, TransientError):
            self._opened(ticket)  # whoever refuses is there
        return Keep()

    def _opened(self, ticket: Ticket) -> None:
        """End the pauses of the model and, if it was let in after it began, of the account."""
        self._gate(ticket.model).open()
        if ticket.at >= self._account.paused_at:
            self._account.open()

    def _unknown(
        self, ticket: Ticket, error: ModelNotFoundError, times_requeued: int, now: float
    ) -> Decision:
        gate = self._gate(ticket.model)
        gate.unknown += not times_requeued
        if gate.closed or gate.unknown >= GONE_AFTER:
            return self._close(gate, "model", error)
        if times_requeued and _answers_others(gate, ticket):
            return Keep()
        if times_requeued >= GONE_AFTER:
            return self._close(gate, "model", error)
        return Requeue(now + UNKNOWN_WAIT_S * 2**times_requeued, "model")

    def _cold(
        self, ticket: Ticket, error: ColdModelError, times_requeued: int, now: float
    ) -> Decision:
        gate = self._gate(ticket.model)
        if times_requeued and not gate.closed and _answers_others(gate, ticket):
            return Keep()
        if gate.closed or times_requeued >= MAX_REQUEUES:
            return Leave(gate.closed or "cold")
        if ticket.at >= gate.paused_at:  # else it was on its way when the pause began
            first, most = COLD_WAITS_S
            gate.wait_s = min(max(2 * gate.wait_s, first), most)
            gate.pause(now + max(gate.wait_s, error.retry_after or 0.0), now)
            if _lasts(gate) > self._max_pause_s:
                return self._close(gate, "cold", error)
        return Requeue(max(gate.until, now), "model")

    def _limited(
        self, ticket: Ticket, error: RateLimitError, times_requeued: int, now: float
    ) -> Decision:
        if times_requeued >= MAX_REQUEUES:  # others may have been before it until now
            others = _answers_others(self._gate(ticket.model), ticket)
            return Keep() if others else Leave("rate limit")
        assert error.reset_time is not None
        until = max(error.reset_time.timestamp(), now)
        if isinstance(error, CapacityError):  # the model is full, the account is not
            gate = self._gate(ticket.model)
            gate.until = max(gate.until, until)
            return Requeue(until, "model")
        self._account.pause(until, now)
        if _lasts(self._account) > self._max_pause_s:
            return Stop("rate limit", error)
        return Requeue(self._account.until, "all")

    def _close(self, gate: _Gate, reason: str, error: OpenCodeError) -> Decision:
        gate.closed = reason
        if all(self._gate(model).closed for model in self._models):
            return Stop("models", error)
        return Leave(reason)

    def _gate(self, model: str) -> _Gate:
        return self._gates.setdefault(model, _Gate())


def _stops(error: OpenCodeError) -> str:
    """Name the reason for which every further item would fail, too; "": there is none."""
    if isinstance(error, AuthenticationError):
        return "authentication"
    if isinstance(error, BillingError):
        return "billing"
    if isinstance(error, OpenCodeNotFoundError):
        return "opencode"
    if isinstance(error, NoWorkerError):
        return "workers"
    if isinstance(error, LimitExceededError) and error.limit in _SHARED_LIMITS:
        return "" if error.overrun else "budget"
    return ""


def _answers_others(gate: _Gate, ticket: Ticket) -> bool:
    """Tell whether the model has answered one that began no earlier than this one did."""
    return gate.answered >= ticket.since


def _lasts(gate: _Gate) -> float:
    """Return how long a pause, with those before it, lasts at least."""
    return 0.0 if gate.since is None else gate.until - gate.since


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")
