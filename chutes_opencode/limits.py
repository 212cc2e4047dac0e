"""Limits in dollars: what a request may cost at most, and budgets that prompts share.

A budget is never overdrawn by requests that run at the same time: before a request is sent, an
upper bound of its cost is reserved; when it has ended, its real cost takes the reservation's place.
One that costs more than its bound (a provider may ignore max_tokens) has to reserve the rest while
it runs. Of one that died without telling its usage the cost is an estimate; what it may have cost
beyond that is kept out of use.

=====================================  ==========================================================
bound <= limit - used - reserved       reserved, the request may go
bound <= limit - used                  it waits until open reservations settle
otherwise                              `LimitExceededError`: it can never fit
=====================================  ==========================================================
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chutes_opencode.errors import ConfigurationError, LimitExceededError
from chutes_opencode.results import Usage

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Price

# What a sum of floating-point dollars may be off by.
_EPSILON_USD = 1e-9
_TOKENS = 1_000_000

# One lock for all budgets: a request reserves in several of them or in none.
_lock = threading.Lock()


def _renew_lock() -> None:
    """Give a forked child a free lock: the thread that held the old one is not in it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def guard() -> threading.Lock:
    """Return the lock under which all budgets change; for subclasses of `Budget`."""
    return _lock


def cost_usd(usage: Usage, price: Price) -> float:
    """Price a usage in US dollars; cached input at the input price where no other is known."""
    cached = price.input if price.cache_read is None else price.cache_read
    micro_dollars = (
        (usage.input + usage.cache_write) * price.input
        + usage.cache_read * cached
        + (usage.output + usage.reasoning) * price.output
    )
    return micro_dollars / _TOKENS


def cost_bound(price: Price, body_bytes: int, max_tokens: int) -> float:
    """Return what a request costs at most, US dollars.

    No token is shorter than a byte, so the request has at most as many tokens as its body has
    bytes. (An image that is only named by its URL would be no part of the body; opencode and we
    send images inside it.)

    Args:
        price: Of the model.
        body_bytes: Length of the request's body.
        max_tokens: Output tokens that it asks for at most.
    """
    dearest = max(price.input, price.cache_read or 0.0)
    return (body_bytes * dearest + max_tokens * price.output) / _TOKENS


def require_prices(prices: Mapping[str, Price | None]) -> None:
    """Refuse a limit in dollars for models whose price nobody knows.

    Args:
        prices: Each allowed model and its price.

    Raises:
        ConfigurationError: Names the models without a price.
    """
    unknown = [model for model, price in prices.items() if price is None]
    if unknown:
        raise ConfigurationError(
            raw_message=f"a limit in dollars needs the price of {', '.join(unknown)}",
            hint="Leave the dollar limit out, or use a model whose price the provider lists.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """A part of a budget that is set aside; each is one of its own, whatever its amount.

    Attributes:
        usd: The amount, US dollars.
        process: Who will settle it; a forked child's copy of it is never settled.
    """

    usd: float
    process: int


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that waits for room in a budget.

    Attributes:
        usd: Dollars that it may cost.
        wake: Tells it that there may be room.
    """

    usd: float
    wake: Callable[[], object]


class Budget:
    """Dollars that prompts share; safe across threads and event loops.

    A subclass may have its room from elsewhere: it says in `_committed` and `_room` what is used
    and what is free, is told by `_changed` of what it may have to get or give back, and calls
    `_wake_waiters` where there may be more room than before.

    Attributes:
        name: What a `LimitExceededError` calls it.
        max_cost_usd: The limit, US dollars.
    """

    def __init__(self, name: str, max_cost_usd: float, *, spent_usd: float = 0.0) -> None:
        """Start with nothing reserved.

        Args:
            name: What a `LimitExceededError` calls it.
            max_cost_usd: The limit, US dollars.
            spent_usd: What of it was spent before; may be more than all.

        Raises:
            ConfigurationError: The limit is negative or no number.
        """
        if not (math.isfinite(max_cost_usd) and max_cost_usd >= 0):
            raise ConfigurationError(raw_message=f"{name} must be 0 or more, not {max_cost_usd!r}")
        self.name = name
        self.max_cost_usd = max_cost_usd
        self._spent = spent_usd
        self._doubtful = 0.0
        self._open: dict[Reservation, float] = {}
        self._waiters: dict[object, Waiter] = {}

    @property
    def spent(self) -> float:
        """Dollars that settled requests have cost."""
        return self._spent

    @property
    def doubtful(self) -> float:
        """Dollars that requests which never told their usage may have cost beyond `spent`."""
        return self._doubtful

    @property
    def waiting(self) -> int:
        """How many requests wait for reservations to settle."""
        return len(self._waiters)

    @property
    def reserved(self) -> float:
        """Dollars that are set aside for requests under way."""
        with _lock:
            return self._reserved()

    @property
    def left(self) -> float:
        """Dollars that nothing has used or reserved; below 0 when a bound did not hold."""
        with _lock:
            return self._room()

    def try_reserve(self, usd: float) -> Reservation | None:
        """Set an amount aside.

        Returns:
            None: it does not fit now, but may when open reservations have settled.

        Raises:
            LimitExceededError: It can never fit.
        """
        hold = try_reserve((self,), usd)
        return hold.reservations[0] if hold is not None else None

    def require(self, usd: float) -> None:
        """Refuse an amount that can never fit any more; nothing is set aside.

        Raises:
            LimitExceededError: It cannot.
        """
        with _lock:
            self._fits(usd)

    def settle(self, reservation: Reservation, usd: float, at_most: float = 0.0) -> None:
        """Replace a reservation by what the request has cost; a second time is ignored.

        Args:
            reservation: It.
            usd: What it has cost.
            at_most: What it may have cost, where `usd` is an estimate.
        """
        with _lock:
            if self._open.pop(reservation, None) is None:
                return
            self._spent += usd
            self._doubtful += max(at_most - usd, 0.0)
            self._changed()
        self._wake_waiters()

    def add_waiter(self, wake: Callable[[], object], usd: float = 0.0) -> Callable[[], None]:
        """Have a function called whenever a reservation settles.

        Args:
            wake: Called on the thread that settles, so it must be quick, must not raise, and must
                wake an event loop by `call_soon_threadsafe`.
            usd: Dollars that are waited for.

        Returns:
            A function that ends it.
        """
        token = object()
        with _lock:
            self._waiters[token] = Waiter(usd, wake)

        def remove() -> None:
            with _lock:
                self._waiters.pop(token, None)
                self._changed()

        return remove

    def _wake_waiters(self) -> None:
        """Have all that wait try again; the lock is not held."""
        with _lock:
            waiters = tuple(self._waiters.values())
        for waiter in waiters:
            waiter.wake()

    # --- with the lock held ----------------------------------------------------------------------

    def _committed(self) -> tuple[float, float]:
        """Return what of the limit is spent, and what may be besides; neither comes back."""
        return self._spent, self._doubtful

    def _room(self) -> float:
        """Return what may be reserved now."""
        return self._unused() - self._reserved()

    def _changed(self) -> None:
        """Hear that a request was settled, got more, found no room, or waits no more."""

    def _reserved(self) -> float:
        here = os.getpid()
        return math.fsum(usd for held, usd in self._open.items() if held.process == here)

    def _unused(self) -> float:
        return self.max_cost_usd - math.fsum(self._committed())

    def _fits(self, usd: float) -> bool:
        """Tell whether an amount fits now."""
        if usd > self._unused() + _EPSILON_USD:
            spent, doubtful = self._committed()
            limit = f"{self.max_cost_usd:.9f}".rstrip("0").rstrip(".")
            maybe = f" (and maybe ${doubtful:.6f} more)" if doubtful else ""
            raise LimitExceededError(
                raw_message=(
                    f"{self.name}: a request that may cost ${usd:.6f} does not fit into "
                    f"${limit}, of which ${spent:.6f}{maybe} is spent"
                ),
                limit=self.name,
                hint="Ask for less output (max_tokens of Params, --params max_tokens=…), "
                "send less, or raise the limit.",
            )
        return usd <= self._room() + _EPSILON_USD

    def _hold(self, usd: float) -> Reservation:
        reservation = Reservation(usd, os.getpid())
        self._open[reservation] = usd
        return reservation

    def _raise(self, reservation: Reservation, usd: float) -> None:
        if reservation in self._open:
            self._open[reservation] = max(usd, self._open[reservation])
            self._changed()


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount that is set aside in several budgets at once."""

    budgets: tuple[Budget, ...] = ()
    reservations: tuple[Reservation, ...] = ()

    @property
    def usd(self) -> float:
        """The amount, US dollars."""
        return self.reservations[0].usd if self.reservations else 0.0

    def raise_to(self, usd: float) -> Budget | None:
        """Set a larger amount aside, in all of the budgets or in none.

        Returns:
            A budget that has not so much left; None: it is set aside.
        """
        held = tuple(zip(self.budgets, self.reservations, strict=True))
        with _lock:
            for budget, reservation in held:
                more = usd - budget._open.get(reservation, usd)
                if more > max(budget._room(), 0.0):
                    return budget
            for budget, reservation in held:
                budget._raise(reservation, usd)
        return None

    def settle(self, usd: float, at_most: float = 0.0) -> None:
        """Book what the request has cost, in every budget; see `Budget.settle`."""
        for budget, reservation in zip(self.budgets, self.reservations, strict=True):
            budget.settle(reservation, usd, at_most)


def try_reserve(budgets: Sequence[Budget], usd: float) -> Hold | None:
    """Set an amount aside in all of the budgets or in none.

    Returns:
        None: it does not fit now, but may when open reservations have settled.

    Raises:
        LimitExceededError: It can never fit into one of them.
    """
    with _lock:
        # Each is asked: that it can never fit into one is told even if another is only busy.
        full = [budget for budget in budgets if not budget._fits(usd)]
        for budget in full:
            budget._changed()
        if full:
            return None
        return Hold(tuple(budgets), tuple(budget._hold(usd) for budget in budgets))


async def reserve(budgets: Sequence[Budget], usd: float) -> Hold:
    """Set an amount aside in all of the budgets; waits for open reservations, holding nothing.

    Raises:
        LimitExceededError: It can never fit into one of them.
    """
    loop, settled = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # it was closed: nobody waits there any more
            loop.call_soon_threadsafe(settled.set)

    # Before the first try, or a reservation that settles in between would go unnoticed.
    removers = [budget.add_waiter(wake, usd) for budget in budgets]
    try:
        while (hold := try_reserve(budgets, usd)) is None:
            await settled.wait()
            settled.clear()
        return hold
    finally:
        for remove in removers:
            remove()
