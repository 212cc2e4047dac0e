"""What was paid for an attempt whose engine left no evidence, as the relay has booked it."""

from __future__ import annotations

import time

from chutes_opencode.engines.base import Evidence
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.ledger import Ledger


class Booked:
    """The books of one attempt, seen past its engine, which closes them before it ends."""

    def __init__(self) -> None:
        """Begin with an attempt that has no place at the relay yet."""
        self._ledgers: list[Ledger] = []
        self._started = time.monotonic()

    def opened(self, booking: Booking) -> None:
        """Remember where the attempt is booked; for `Terms.opened`."""
        self._ledgers.append(booking.ledger)  # the booking's terms know us: no circle

    def evidence(self) -> Evidence:
        """Return what there is to be seen of an attempt whose engine was cancelled or failed."""
        return Evidence(
            exchanges=tuple(one for ledger in self._ledgers for one in ledger.exchanges()),
            duration_s=time.monotonic() - self._started,
            relayed=True,
        )
