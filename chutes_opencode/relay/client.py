"""Who asks: a request for a model, and the way back to whoever sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

CHAT = "/chat/completions"
PATHS = (CHAT, "/completions", "/embeddings")


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request for a model.

    Attributes:
        path: Below the base URL: one of `PATHS`.
        body: JSON.
        session_id: Session that it belongs to.
        headers: Lower case; see `PASSED_HEADERS` for those that the provider gets.
    """

    path: str
    body: bytes = field(repr=False)
    session_id: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Client(Protocol):
    """The way back: first `start`, then any number of `write`, then `end`.

    Attributes:
        started: Whether `start` was called: from then on only the body can tell anything.
        ended: Whether `end` was called: from then on nothing can be told.
    """

    started: bool
    ended: bool

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the body; waits where the client reads slowly."""

    async def end(self) -> None:
        """Send the end of the body."""
