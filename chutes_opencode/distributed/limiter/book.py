"""What one process holds of an account's permits, and what it has yet to tell of them: pure.

A desk that has died has told nobody what it had heard. So what was told counts as heard only when
the answer has come; until then the permits count as held, and are told again to the next desk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from chutes_opencode.distributed.limiter.protocol import Ended, Grant, HandOver, Holding, News
from chutes_opencode.relay.flow import Outcome
from chutes_opencode.relay.lessons import Lessons


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """A request that was refused.

    Attributes:
        number: The block's.
        outcome: How.
        taken: Whether the server had been told to have taken it.
        until: When the server said that it may be tried again, on this process's clock; None: it
            did not.
        judge: Told whether it was collateral.
    """

    number: int
    outcome: Outcome
    taken: bool
    until: float | None
    judge: Callable[[bool], object]


@dataclass(slots=True, eq=False)
class Events:
    """What happened to permits, for one call.

    Attributes:
        taken: Requests that the server took, by the number of the block.
        unused: Permits that nobody waited for any more, by the number of the block.
        ended: How other requests ended: by block, outcome, and whether the server took them.
        refused: The refusals.
    """

    taken: Counter[int] = field(default_factory=Counter)
    unused: Counter[int] = field(default_factory=Counter)
    ended: Counter[tuple[int, Outcome, bool]] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.taken or self.unused or self.ended or self.refused)

    def news(self, now: float) -> News:
        """Return what is to be told."""
        ended = [Ended(n, out, count, took) for (n, out, took), count in self.ended.items()]
        for each in self.refused:
            hint = None if each.until is None else each.until - now
            ended.append(Ended(each.number, each.outcome, 1, each.taken, hint))
        return News(tuple(self.taken.items()), tuple(ended), tuple(self.unused.items()))

    def add(self, later: Events) -> None:
        """Take in what happened later."""
        self.taken += later.taken
        self.unused += later.unused
        self.ended += later.ended
        self.refused += later.refused


@dataclass(slots=True)
class _Block:
    """What the desk knows to be held of a block."""

    count: int
    taken: int
    at: float


class Book:
    """The permits of one process.

    Attributes:
        events: What is to be told with the next call.
        received: Permits that were given so far.
    """

    def __init__(self) -> None:
        """Start with nothing held."""
        self.events = Events()
        self.received = 0
        self._told: list[Events] = []  # not heard yet, for all that is known; the oldest first
        self._blocks: dict[int, _Block] = {}
        self._lessons: Lessons | None = None
        self._lessons_at = 0.0
        self._holders: tuple[str, ...] = ()
        self._since: dict[int, tuple[float, int]] = {}  # blocks given after those lessons

    @property
    def holds(self) -> int:
        """Permits that the desk knows, or may know, to be held here."""
        return sum(block.count for block in self._blocks.values())

    def granted(self, grant: Grant, now: float) -> None:
        """Take a block in."""
        self.received += grant.count
        self._blocks[grant.number] = _Block(grant.count, 0, now)
        self._since[grant.number] = now, grant.count

    def taught(self, lessons: Lessons, holders: tuple[str, ...], now: float) -> None:
        """Keep the newest lessons, and who held permits then."""
        self._lessons, self._lessons_at, self._holders = lessons, now, holders
        self._since = {n: block for n, block in self._since.items() if n > lessons.count}

    def tell(self) -> Events:
        """Return what is to be told now; `heard` or `lost` follows."""
        told, self.events = self.events, Events()
        self._told.append(told)
        return told

    def heard(self, verdicts: tuple[bool, ...]) -> None:
        """The oldest call was answered.

        Args:
            verdicts: Of its refusals, in order, whether they were collateral.
        """
        told = self._told.pop(0)
        for number, count in told.taken.items():
            self._blocks[number].taken += count
        for number, count in told.unused.items():
            self._blocks[number].count -= count
        for (number, _, taken), count in told.ended.items():
            self._leave(number, count, taken)
        for refusal, verdict in zip(told.refused, verdicts, strict=True):
            self._leave(refusal.number, 1, refusal.taken)
            refusal.judge(verdict)
        self._blocks = {n: block for n, block in self._blocks.items() if block.count}

    def _leave(self, number: int, count: int, taken: bool) -> None:
        block = self._blocks[number]
        block.count -= count
        block.taken -= count * taken

    def lost(self) -> None:
        """No open call will be answered: all that they told is to be told again."""
        again = Events()
        for told in (*self._told, self.events):
            again.add(told)
        self.events, self._told = again, []

    def hand_over(self, member: str, node: str, epoch: str, now: float) -> HandOver:
        """Return all that a desk has to know which does not know this process.

        Args:
            member: This process's name.
            node: Where it is.
            epoch: The desk that it talked to before.
            now: The time.
        """
        lessons = self._lessons
        return HandOver(
            member,
            node,
            epoch,
            holdings=tuple(
                Holding(number, block.count, block.taken, now - block.at)
                for number, block in self._blocks.items()
            ),
            lessons=None if lessons is None else lessons.aged(now - self._lessons_at),
            holders=self._holders,
            since=tuple((number, now - at, count) for number, (at, count) in self._since.items()),
            received=self.received,
        )
