"""Which worker does what, and which one is the least loaded. Plain bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field

from chutes_opencode.distributed.work.orders import Load


@dataclass(slots=True)
class _Seat:
    """One worker.

    Attributes:
        load: How it does, as it has last told.
        orders: Those it has and that it has not told the end of.
        done: How many it has.
    """

    load: Load
    orders: dict[int, None] = field(default_factory=dict)  # in the order of their coming
    done: int = 0

    @property
    def busy(self) -> int:
        """How many of its places are taken."""
        return max(len(self.orders) - self.load.settling, 0)

    @property
    def free(self) -> int:
        """How many orders it can begin at once now."""
        return 0 if self.load.draining else self.load.places - self.busy


class Board:
    """The workers that take orders, by name, and what each of them has."""

    def __init__(self) -> None:
        """Begin with no worker."""
        self._seats: dict[str, _Seat] = {}

    def join(self, name: str, load: Load) -> None:
        """Add a worker."""
        self._seats[name] = _Seat(load)

    def leave(self, name: str) -> tuple[int, ...]:
        """Take a worker away; return the orders that it had."""
        seat = self._seats.pop(name, None)
        return () if seat is None else tuple(seat.orders)

    def report(self, name: str, load: Load) -> None:
        """Note how a worker does."""
        if name in self._seats:
            self._seats[name].load = load

    def choose(self) -> str | None:
        """Return the worker with the least work for its places; None: none has a free place."""
        free = [name for name, seat in self._seats.items() if seat.free > 0]
        if not free:
            return None
        return min(free, key=lambda name: self._load(name))

    def give(self, name: str, number: int) -> None:
        """Note that a worker has an order."""
        self._seats[name].orders[number] = None

    def end(self, name: str, number: int) -> bool:
        """Note that a worker has told the end of an order; False: it has no such order."""
        seat = self._seats.get(name)
        if seat is None or number not in seat.orders:
            return False
        del seat.orders[number]
        seat.done += 1
        return True

    def in_flight(self, name: str) -> int:
        """Return how many orders a worker has."""
        return len(self._seats[name].orders) if name in self._seats else 0

    def drains(self, name: str) -> bool:
        """Tell whether a worker begins nothing new."""
        return name in self._seats and self._seats[name].load.draining

    def done(self, name: str) -> int:
        """Return how many orders a worker has ended."""
        return self._seats[name].done if name in self._seats else 0

    @property
    def places(self) -> int:
        """How many orders at once are sensible now, those that are being stored included."""
        # A worker that drains keeps what it has: that takes no place of others.
        return sum(
            len(seat.orders)
            if seat.load.draining
            else seat.load.places + min(seat.load.settling, len(seat.orders))
            for seat in self._seats.values()
        )

    @property
    def waiting(self) -> tuple[str, ...]:
        """What the workers' prompts wait for, each text once."""
        return tuple(dict.fromkeys(s.load.waiting for s in self._seats.values() if s.load.waiting))

    def _load(self, name: str) -> tuple[float, int]:
        seat = self._seats[name]
        return seat.busy / max(seat.load.places, 1), seat.done
