"""A worker's share of a cluster's dollars, as a `Budget`; pure: another carries its reports."""

from __future__ import annotations

import math
import os
import uuid
from dataclasses import replace

from chutes_opencode.distributed.budget.shares import EPSILON_USD, Answer, Report
from chutes_opencode.limits import Budget, Reservation, guard


class ShareBudget(Budget):
    """Dollars that the prompts of all workers share, of which this worker holds a part.

    It reserves in its own part at once. What does not fit there waits, as for any other budget,
    until a reservation settles or `take` brings more; a `LimitExceededError` comes only where all
    that the cluster has not spent yet would not do.

    Attributes:
        holder: Its name in the books.
    """

    def __init__(self, name: str, max_cost_usd: float, node: str) -> None:
        """Hold nothing.

        Args:
            name: What a `LimitExceededError` calls it.
            max_cost_usd: The limit of the whole cluster, US dollars.
            node: The worker's name.

        Raises:
            ConfigurationError: The limit is negative or no number.
        """
        super().__init__(name, max_cost_usd)
        self.holder = f"{node}/{uuid.uuid4().hex}"
        self._node = node
        self._number = 0
        self._handed = 0.0
        self._returned = 0.0
        self._elsewhere = (0.0, 0.0)  # what others have spent, and may have spent
        self._recalled = False
        self._least_room = 0.0  # since idle dollars were last given back
        self._told = Report(self.holder)

    @property
    def held(self) -> float:
        """Dollars of its part that are not spent."""
        with guard():
            return self._held()

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing and nobody waits."""
        with guard():
            return self._held() <= EPSILON_USD and not self._waiters

    # --- what it tells, and is told --------------------------------------------------------------

    def report(self, *, idle: bool = False, last: bool = False) -> Report:
        """Say what it has and needs, and give back what it does not.

        Args:
            idle: Give back what has not been used since this was last said.
            last: Give back all that is not reserved: it is not used any more.
        """
        with guard():
            rest, unfit = self._after_waiters()
            if last or self._recalled:
                rest -= self._give_back(rest)
            elif idle:
                keep = max((usd for usd, _ in self._mine()), default=0.0)
                rest -= self._give_back(min(self._least_room, rest) - keep)
                self._least_room = self._room()
            self._number += 1
            self._told = Report(
                holder=self.holder,
                node=self._node,
                number=self._number,
                handed=self._handed,
                returned=self._returned,
                spent=self._spent,
                doubtful=self._doubtful,
                reserved=self._reserved(),
                need=self._need(rest, unfit),
                wish=self._wish(rest, unfit),
            )
            return self._told

    def take(self, answer: Answer) -> None:
        """Take what was handed out, and let those try again who wait for it."""
        with guard():
            elsewhere = (answer.spent, answer.doubtful)
            news = answer.handed > self._handed or elsewhere != self._elsewhere
            if answer.handed > self._handed:
                self._handed = answer.handed
                self._told = replace(self._told, need=0.0, wish=0.0)  # that was for these
            self._elsewhere, self._recalled = elsewhere, answer.recall
        if news:
            self._wake_waiters()

    def is_urgent(self) -> bool:
        """Tell whether it should report at once: it is short, or others are."""
        with guard():
            rest, unfit = self._after_waiters()
            need, wish = self._need(rest, unfit), self._wish(rest, unfit)
            recalled = self._recalled and rest > EPSILON_USD
            more = wish > self._told.wish + EPSILON_USD
            return recalled or need != self._told.need or more

    def has_news(self) -> bool:
        """Tell whether it should report soon: it has spent, or may have dollars to give back."""
        with guard():
            spent = (self._spent, self._doubtful) != (self._told.spent, self._told.doubtful)
            return spent or self._room() > EPSILON_USD

    # --- with the lock held ----------------------------------------------------------------------

    def _committed(self) -> tuple[float, float]:
        spent, doubtful = self._elsewhere
        return self._spent + spent, self._doubtful + doubtful

    def _room(self) -> float:
        return self._held() - self._reserved()

    def _held(self) -> float:
        return self._handed - self._returned - self._spent - self._doubtful

    def _hold(self, usd: float) -> Reservation:
        reservation = super()._hold(usd)
        self._least_room = min(self._least_room, self._room())
        return reservation

    def _raise(self, reservation: Reservation, usd: float) -> None:
        super()._raise(reservation, usd)
        self._least_room = min(self._least_room, self._room())

    def _give_back(self, usd: float) -> float:
        given = max(usd, 0.0)
        self._returned += given
        return given

    def _after_waiters(self) -> tuple[float, list[float]]:
        """Return what is left when all have taken theirs who can, and what the others wait for.

        Who can was woken and will: what it is about to take is not given back.
        """
        rest, unfit, most = self._room(), [], self._unused() + EPSILON_USD
        for waiter in self._waiters.values():
            if waiter.usd <= rest + EPSILON_USD:
                rest -= waiter.usd
            elif waiter.usd <= most:  # else it is about to be refused
                unfit.append(waiter.usd)
        return rest, unfit

    def _need(self, rest: float, unfit: list[float]) -> float:
        return unfit[0] - rest if unfit else 0.0

    def _wish(self, rest: float, unfit: list[float]) -> float:
        """Return what would do for all that wait and one more; else, what overruns may take."""
        if unfit:
            return math.fsum(unfit) - rest + unfit[0]
        # Where answers have gone on beyond their bounds, they may take as much again.
        over = math.fsum(usd - bound for usd, bound in self._mine())
        return max(over - rest, 0.0)

    def _mine(self) -> list[tuple[float, float]]:
        """Return what is set aside in this process, each with what it began with."""
        here = os.getpid()
        return [(usd, held.usd) for held, usd in self._open.items() if held.process == here]
