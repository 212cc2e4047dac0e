"""A lease: the throw-away key that an opencode gets instead of the real one, and whom it serves.

A key says which process asks; the session says which prompt. A request that belongs to no prompt
that is open is refused: whoever runs as the agent's tool has the lease key too.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Self

from chutes_opencode.errors import ServerError
from chutes_opencode.relay.booking import Booking, Observer
from chutes_opencode.relay.terms import Terms

STOPPED = "relay"


class Lease:
    """A key for one opencode process; made by `Relay.lease`, ended by `close`.

    Attributes:
        key: What opencode sends as its API key.
        refused: Requests that belonged to no open prompt.
    """

    def __init__(self, give_back: Callable[[Lease], object] | None = None) -> None:
        """Make a new key.

        Args:
            give_back: Called when the lease is closed.
        """
        self.key = secrets.token_urlsafe(24)
        self.refused = 0
        self._give_back = give_back
        self._lock = threading.Lock()
        self._bookings: list[Booking] = []
        self._stopped = False

    def __repr__(self) -> str:
        """How many prompts are open; the key is left out."""
        return f"Lease({len(self._bookings)} open)"

    def __enter__(self) -> Self:
        """Return the lease."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    @property
    def bookings(self) -> tuple[Booking, ...]:
        """The prompts that are open."""
        with self._lock:
            return tuple(self._bookings)

    def open(
        self, terms: Terms, session_id: str | None = None, observe: Observer | None = None
    ) -> Booking:
        """Open a prompt; `Booking.close` ends it.

        Args:
            terms: What it may do.
            session_id: opencode's session; None: the first one that asks and has no parent.
            observe: Told `Waiting`, `Retrying`, `StepRestarted` and the deltas of the main
                session, on the relay's thread: it must be quick.

        Raises:
            ConfigurationError: A dollar limit, and a model whose price is unknown.
        """
        booking = Booking(terms, session_id, observe)
        with self._lock:
            stopped = self._stopped
            self._bookings = [open for open in self._bookings if not open.closed]
            self._bookings.append(booking)
        if stopped:
            booking.end(STOPPED, relay_stopped())
        return booking

    def find(self, session_id: str | None, parent: str | None) -> Booking | None:
        """Return the open prompt that a request belongs to; None, and count it: there is none.

        Args:
            session_id: The request's session.
            parent: The session that started it, if it is a sub-agent's.
        """
        with self._lock:
            found = self._known(session_id) or self._known(parent)
            candidates = [found] if found else [open for open in self._bookings if not open.closed]
            for booking in candidates:
                if booking.ledger.admit(session_id, parent):
                    return booking
            self.refused += 1
            return None

    def models(self) -> tuple[str, ...]:
        """Return the models that its open prompts may ask."""
        names = (name for booking in self.bookings for name in booking.prices)
        return tuple(dict.fromkeys(names))

    def stop(self) -> None:
        """End every prompt, because the relay stops."""
        with self._lock:
            self._stopped = True
        for booking in self.bookings:
            booking.end(STOPPED, relay_stopped())

    def close(self) -> None:
        """Close every prompt; the key is worth nothing from now on."""
        if self._give_back is not None:
            self._give_back(self)
        for booking in self.bookings:
            booking.close()

    def _known(self, session_id: str | None) -> Booking | None:
        """Return the newest open prompt that has the session."""
        if not session_id:
            return None
        opened = reversed(self._bookings)
        return next((b for b in opened if not b.closed and b.ledger.knows(session_id)), None)


def relay_stopped() -> ServerError:
    """Return the error of a prompt whose relay has stopped."""
    return ServerError(
        raw_message="the relay stopped while the prompt ran",
        hint="Try again: another relay starts by itself.",
    )
