"""The way into a server: prompts that come together go in one after the other.

opencode works on all that it has at once, in turns, on one core. Of sixteen prompts that come
together each is then ready to ask its model only when all are, and when the answers take alike all
sixteen come back together, too: the server idles while the provider works, and the reverse. One
after the other the first asks its model at once, and the prompts stay apart from then on.

A server that has no idle moment anyway gains nothing by that, and what it could overlap is lost:
there all go in as they come.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PLACES = 2
"""One works while the other's call is on its way."""
STEP_SECONDS = 0.5
"""At most so long a prompt keeps others waiting, whatever it does before it asks its model."""
PROMPT_SECONDS = 0.1
"""What opencode needs of a core for a prompt, rounded up: 0.05 to 0.09 were measured."""
_WEIGHT = 0.2


class Entrance:
    """The way into one server. Loop-bound."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a server of which nothing is known: all go in as they come.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._present = 0
        self._entering = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds = 0.0

    @property
    def in_turn(self) -> bool:
        """Whether prompts go in one after the other: the server has idle moments."""
        return self._seconds > PROMPT_SECONDS * self._present

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Callable[[], None]]:
        """Be a prompt on the server, from its sending to its answer.

        Yields:
            Lets the next one in; to be called when the prompt has asked its model, on the loop.
        """
        self._present += 1
        try:
            await self._turn()
            entry = _Entry(self._next)
            began = self._clock()
            try:
                yield entry.leave
            finally:
                self._note(self._clock() - began)
                entry.leave()
        finally:
            self._present -= 1

    async def _turn(self) -> None:
        """Wait for one's turn; the first to come is the first to go in."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                self._next()
            raise

    def _next(self) -> None:
        self._entering -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and not (self.in_turn and self._entering >= PLACES):
            self._entering += 1
            self._waiting.popleft().set_result(None)

    def _note(self, seconds: float) -> None:
        known = self._seconds or seconds
        self._seconds = known + _WEIGHT * (seconds - known)


class _Entry:
    """A prompt on its way in, until it has asked its model or has had its time."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._late = asyncio.get_running_loop().call_later(STEP_SECONDS, self.leave)
        self._over = False

    def leave(self) -> None:
        """Let the next one in, once."""
        if not self._over:
            self._over = True
            self._late.cancel()
            self._leave()
