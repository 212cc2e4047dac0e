"""Who waits for a permit: the urgent ones first, first come, first served among each."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from chutes_opencode.relay.flow import Outcome


class Released(Protocol):
    """What can be given back."""

    def release(self, outcome: Outcome) -> None:
        """Give it back."""


P = TypeVar("P", bound=Released)


class Waiters(Generic[P]):
    """Those who wait for a permit of one limiter; belongs to one event loop.

    Attributes:
        urgent: The running prompts' next steps, and what is sent again: since when, and with how
            much patience, in seconds.
        ordinary: The new prompts.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with none; `clock` gives seconds, as deadlines count them."""
        self.urgent: OrderedDict[asyncio.Future[P], tuple[float, float]] = OrderedDict()
        self.ordinary: OrderedDict[asyncio.Future[P], tuple[float, float]] = OrderedDict()
        self._clock = clock

    def __len__(self) -> int:
        """How many wait."""
        return len(self.urgent) + len(self.ordinary)

    async def wait(
        self,
        ask: Callable[[], object],
        *,
        priority: bool,
        deadline: float | None,
        patience: float,
        paused_until: float | None,
    ) -> P:
        """Wait for a permit; cancelling the wait loses none.

        Args:
            ask: Called once the waiter stands in its queue.
            priority: Whether it is urgent.
            deadline: When waiting ends; None: it does not.
            patience: Of `end_patience`, seconds.
            paused_until: Until when nobody gets a permit; None: not so.

        Raises:
            TimeoutError: The deadline came, or comes before `paused_until`; or nothing got
                through for too long.
        """
        now = self._clock()
        if deadline is not None and deadline <= max(now, paused_until or now):
            raise TimeoutError("the deadline comes before a permit can")
        queue = self.urgent if priority else self.ordinary
        waiter: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        queue[waiter] = now, patience
        ask()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - now):
                return await waiter
        except BaseException:
            queue.pop(waiter, None)
            given = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            if given:  # just as the wait was ended
                waiter.result().release(Outcome.CANCELLED)
            raise

    def give(self, make: Callable[[], P]) -> bool:
        """Give a permit to the first who waits; False: nobody does any more, none was made."""
        while queue := self.urgent or self.ordinary:
            waiter, _ = queue.popitem(last=False)
            if not waiter.done():
                waiter.set_result(make())
                return True
        return False

    def end_patience(self, last_taken: float) -> None:
        """After a refusal: end the waits of those for whom nothing has got through for too long.

        Args:
            last_taken: When the server last took a request of the account.
        """
        now = self._clock()
        for queue in (self.urgent, self.ordinary):
            for waiter, (since, patience) in tuple(queue.items()):
                if now - max(since, last_taken) >= patience and not waiter.done():
                    del queue[waiter]
                    waiter.set_exception(TimeoutError("the account lets nothing through"))

    def fail(self, error: Exception) -> None:
        """End all waits with an error."""
        for queue in (self.urgent, self.ordinary):
            while queue:
                waiter, _ = queue.popitem()
                if not waiter.done():
                    waiter.set_exception(error)
