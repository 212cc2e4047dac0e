"""How a cluster's dollars are shared out: the books behind the actor, pure.

Each holder (the budget of one worker) is handed dollars in blocks and reserves in its own block
without asking. It counts what it has spent and what it has given back in sums that only grow, and
the books count what they have handed out in the same way, so a report that is lost, comes twice or
comes late does no harm, and a holder's claim is never taken for less than it may spend:

    claim = max(handed - returned, spent + doubtful + reserved)
    limit - spent before - claims of all, dead or alive = what may be handed out

Who is short is served in the order in which they asked, one after the other, and while the first
of them cannot be served, all others are told to give back what they do not need. Of a dead holder,
what it held and did not tell to be spent is doubtful: it may have been reserved and spent after
its last report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

# What a sum of floating-point dollars may be off by.
EPSILON_USD = 1e-9
# A holder that says nothing for so long is dead, until it speaks again; whoever holds unspent
# dollars speaks more often than that.
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a holder says of itself; US dollars.

    Attributes:
        holder: Its name, of its own.
        node: The worker's name; it may have had other holders before.
        number: Counts its reports; an older one than the last changes nothing.
        handed: What it knows it was handed, in all.
        returned: What it has given back, in all.
        spent: What its settled requests have cost.
        doubtful: What they may have cost beyond that.
        reserved: What is set aside for its requests under way.
        need: What it is short of for the next request that waits; 0: none does.
        wish: What it would use if it had it, `need` included.
    """

    holder: str
    node: str = ""
    number: int = 0
    handed: float = 0.0
    returned: float = 0.0
    spent: float = 0.0
    doubtful: float = 0.0
    reserved: float = 0.0
    need: float = 0.0
    wish: float = 0.0

    @property
    def claim(self) -> float:
        """Dollars of the limit that it has used or may use."""
        return max(self.handed - self.returned, self.spent + self.doubtful + self.reserved)

    @property
    def untold(self) -> float:
        """What it may spend, or have spent, without having told."""
        return self.claim - self.spent - self.doubtful


@dataclass(frozen=True, slots=True)
class Answer:
    """What a holder is told; US dollars.

    Attributes:
        handed: What it was handed, in all.
        spent: What others have spent, the run before this budget included.
        doubtful: What others may have spent besides.
        recall: Whether to give back all that it does not need: another is short.
    """

    handed: float
    spent: float
    doubtful: float
    recall: bool


class BudgetView(NamedTuple):
    """A budget at one moment; US dollars.

    Attributes:
        spent: What settled requests have cost.
        reserved: What is set aside for requests under way.
        doubtful: What requests whose end nobody told may have cost.
    """

    spent: float
    reserved: float
    doubtful: float


@dataclass(slots=True)
class _Holder:
    """A holder.

    Attributes:
        last: Its last report, with what it was handed since.
        heard: When that came.
        gone: Whether it is taken for dead.
        recalled: Whether it was told to give back what it does not need; it does so at once, from
            then on, until it is told otherwise.
    """

    last: Report
    heard: float
    gone: bool = False
    recalled: bool = False


class Shares:
    """The books. Times are seconds on any clock that does not jump.

    Attributes:
        max_cost_usd: The limit, US dollars.
        rung: Holders that should report, because their next answer tells something new; whoever
            rings them takes them out.
    """

    def __init__(
        self,
        max_cost_usd: float,
        spent_usd: float = 0.0,
        *,
        kept: Iterable[Report] = (),
        now: float = 0.0,
    ) -> None:
        """Begin.

        Args:
            max_cost_usd: The limit, US dollars.
            spent_usd: What of it was spent before.
            kept: What `kept` gave of the holders before the books were lost.
            now: The time.
        """
        self.max_cost_usd = max_cost_usd
        self.rung: set[str] = set()
        self._spent_before = spent_usd
        self._holders = {each.holder: _Holder(each, now) for each in kept}
        self._queue: list[str] = []  # who is short, first come first

    def report(self, told: Report, now: float) -> Answer:
        """Take a report, hand out what there is, and answer."""
        holder = self._holders.get(told.holder)
        if holder is None:
            holder = self._holders[told.holder] = _Holder(told, now)
            self._note_need(told)
        elif told.number > holder.last.number:
            handed = max(told.handed, holder.last.handed)
            changed = (told.spent, told.doubtful) != (holder.last.spent, holder.last.doubtful)
            holder.last = replace(told, handed=handed)
            self._note_need(told)
            if changed or holder.gone:
                self._ring_short()
        holder.heard, holder.gone = now, False
        self._serve()
        self.rung.discard(told.holder)
        return self._answer(holder)

    def forget(self, node: str) -> None:
        """Take the holders of a worker for dead, until one of them reports."""
        self._bury([each for each in self._living() if each.last.node == node])

    def expire(self, now: float) -> None:
        """Take for dead who has said nothing for `SILENCE_S`."""
        self._bury([each for each in self._living() if now - each.heard > SILENCE_S])

    def view(self) -> BudgetView:
        """Sum up all holders."""
        living = [each.last for each in self._holders.values() if not each.gone]
        spent, doubtful = self._used_by_others("")
        return BudgetView(spent, sum(each.reserved for each in living), doubtful)

    def kept(self, holder: str) -> Report:
        """Return what new books must know of a holder; to be stored before it gets its answer."""
        return replace(self._holders[holder].last, need=0.0, wish=0.0)

    @property
    def free(self) -> float:
        """Dollars that may be handed out; below 0 where a bound did not hold."""
        claims = sum(each.last.claim for each in self._holders.values())
        return self.max_cost_usd - self._spent_before - claims

    # --- handing out -----------------------------------------------------------------------------

    def _note_need(self, told: Report) -> None:
        if told.need <= 0:
            self._leave(told.holder)
        elif told.holder not in self._queue:
            self._queue.append(told.holder)

    def _serve(self) -> None:
        """Hand out what is there: to those who are short, then to those who would have more."""
        while self._queue:
            holder = self._holders[self._queue[0]]
            if holder.last.need > self.free + EPSILON_USD:
                self._recall(holder.last.holder)
                return
            self._queue.pop(0)
            self._hand(holder, max(holder.last.need, self._block(holder.last)))
        for holder in self._living():
            if holder.last.wish > 0:
                self._hand(holder, self._block(holder.last))

    def _block(self, told: Report) -> float:
        """Return how much of its wish a holder may have: its part of what is there."""
        return min(told.wish, self.free / len(self._living()))

    def _hand(self, holder: _Holder, usd: float) -> None:
        last = holder.last
        if usd > EPSILON_USD:
            holder.last = replace(last, handed=last.handed + usd, need=0.0, wish=0.0)
            self.rung.add(last.holder)

    def _recall(self, short: str) -> None:
        """Ring those who may have something for one who is short, unless they know it."""
        for holder in self._living():
            last = holder.last
            if last.holder != short and not holder.recalled and last.untold > EPSILON_USD:
                self.rung.add(last.holder)

    # --- who is there ----------------------------------------------------------------------------

    def _bury(self, holders: list[_Holder]) -> None:
        for holder in holders:
            holder.gone = True
            holder.last = replace(holder.last, need=0.0, wish=0.0)
            self._leave(holder.last.holder)
        if holders:
            self._ring_short()
            self._serve()

    def _living(self) -> list[_Holder]:
        return [each for each in self._holders.values() if not each.gone]

    def _leave(self, holder: str) -> None:
        if holder in self._queue:
            self._queue.remove(holder)

    def _ring_short(self) -> None:
        """Ring those who wait: it may have turned out that what they want can never fit."""
        self.rung.update(self._queue)

    def _answer(self, holder: _Holder) -> Answer:
        name = holder.last.holder
        spent, doubtful = self._used_by_others(name)
        holder.recalled = bool(self._queue) and self._queue[0] != name
        return Answer(holder.last.handed, spent, doubtful, holder.recalled)

    def _used_by_others(self, holder: str) -> tuple[float, float]:
        """Return what all but one have spent, and may have spent."""
        others = [each for name, each in self._holders.items() if name != holder]
        spent = sum(each.last.spent for each in others)
        told = sum(each.last.doubtful for each in others)
        untold = sum(each.last.untold for each in others if each.gone)
        return self._spent_before + spent, told + untold
