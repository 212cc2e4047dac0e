"""What the members of a cluster and the desk of an account's limiter tell each other.

Clocks differ from machine to machine, so every time is a number of seconds from now, or ago.
Permits go out in blocks; a block has the number of its last request, as the flow counts them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Protocol

from chutes_opencode.relay.flow import Outcome
from chutes_opencode.relay.lessons import Lessons

MAX_BLOCK = 100
"""Permits of a block at most; and never more than one second of the account's rate."""
MAX_BLOCKS = 10
"""Blocks of an answer at most."""
PARKED_SECONDS = 2.0
"""How long a call waits for something to tell; the next one is a sign of life."""
SILENT_SECONDS = 5.0
"""After so long without a word, what a member holds returns."""


def member_name(node: str) -> str:
    """Return a name for a process's limiter that nobody else has; the node can be read in it."""
    return f"{node}:{uuid.uuid4().hex}"


def node_of(member: str) -> str:
    """Return where a member is."""
    return member.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Ended:
    """Permits of a block whose requests ended alike; refusals are told one by one.

    Attributes:
        number: The block's.
        outcome: How.
        count: How many.
        taken: Whether the server was told to have taken them.
        hint_s: When the server said that it may be tried again; None: it did not.
    """

    number: int
    outcome: Outcome
    count: int = 1
    taken: bool = False
    hint_s: float | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What happened to a member's permits since it told the last time.

    Attributes:
        taken: Requests that the server took, by the number of the block.
        ended: How requests ended.
        unused: Permits that nobody waits for any more, by the number of the block.
    """

    taken: tuple[tuple[int, int], ...] = ()
    ended: tuple[Ended, ...] = ()
    unused: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A member's call.

    Attributes:
        member: Its name, of one process's limiter (`member_name`).
        node: Where it is.
        epoch: The desk that it believes to talk to.
        news: What happened.
        urgent: Running prompts' next steps that wait.
        ordinary: New prompts that wait.
        holds: Permits that it holds, by its own book.
        received: Permits that it was given so far; so the desk knows how many are on their way.
        refusals: Refusals of the account that it has heard of.
    """

    member: str
    node: str
    epoch: str
    news: News
    urgent: int
    ordinary: int
    holds: int
    received: int
    refusals: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A block of permits.

    Attributes:
        number: The block's: that of its last request.
        count: How many.
    """

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class View:
    """What a member is told of the account.

    Attributes:
        limit: Requests of the cluster that may be in flight.
        members: Members that hold permits or wait for some.
        ceiling: Requests in a minute; None: no bound.
        paused_s: Until a probe may go; None: not paused.
        taken_s: How long ago the server took a request; `math.inf`: never.
        rate_limited: Refusals for the rate so far.
        capacity: Refusals for want of capacity so far.
        refused_in_a_row: Refusals that were not collateral since the server last took a request.
    """

    limit: int
    members: int
    ceiling: int | None
    paused_s: float | None
    taken_s: float
    rate_limited: int
    capacity: int
    refused_in_a_row: int

    @property
    def refusals(self) -> int:
        """Refusals so far."""
        return self.rate_limited + self.capacity


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member is answered.

    Attributes:
        epoch: The desk that answers.
        known: Whether the desk knows the member; if not, it took nothing of the report: the member
            has to hand over what it holds.
        view: Of the account.
        grants: Permits, in blocks.
        verdicts: Of each refusal of the report, in order, whether it was collateral.
        lessons: What the account has taught, now and then.
        holders: With the lessons: the members that hold permits.
    """

    epoch: str
    known: bool
    view: View
    grants: tuple[Grant, ...] = ()
    verdicts: tuple[bool, ...] = ()
    lessons: Lessons | None = None
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What a member holds of a block.

    Attributes:
        number: The block's.
        count: Permits whose end was not told yet.
        taken: How many of those the server was told to have taken.
        age_s: How long ago it was given.
    """

    number: int
    count: int
    taken: int
    age_s: float


@dataclass(frozen=True, slots=True)
class HandOver:
    """All that a member knows, for a desk that does not know it.

    Attributes:
        member: Its name.
        node: Where it is.
        epoch: The desk that it talked to before; "": none.
        holdings: What it holds.
        lessons: The last that it was told; None: none.
        holders: The members that held permits then.
        since: Blocks that it was given after those lessons: number, age in seconds, count.
        received: Permits that it was given so far.
    """

    member: str
    node: str
    epoch: str
    holdings: tuple[Holding, ...] = ()
    lessons: Lessons | None = None
    holders: tuple[str, ...] = ()
    since: tuple[tuple[int, float, int], ...] = ()
    received: int = 0


class DeskLostError(Exception):
    """The desk has died, or cannot be reached; another one may be found."""


class DeskClient(Protocol):
    """A desk as its members see it."""

    async def exchange(self, report: Report) -> Answer:
        """Tell what happened; returns with permits or news, at the latest after a while.

        Raises:
            DeskLostError: Whether it was heard is not known.
        """

    async def hand_over(self, hand_over: HandOver) -> Answer:
        """Tell a desk all that one knows; it forgets what it knew of the member.

        Raises:
            DeskLostError: Whether it was heard is not known.
        """
