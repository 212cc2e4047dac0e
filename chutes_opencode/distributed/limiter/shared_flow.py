"""Who on a cluster may send when: one flow for all members, pure, with the time as an argument.

Permits go out in blocks: at most one second of the account's rate, 100, and a fair part of the room
there is. Urgent requests go first, then the nodes take turns, and on a node its processes.

What a member holds comes back when it says so, when it is silent for too long, or when its node is
forgotten. A flow that takes over from one that died is told by the members what they hold and what
was learnt; it lets nothing in for a moment, and waits longer for those who are known to hold some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chutes_opencode.distributed.limiter.protocol import (
    MAX_BLOCK,
    MAX_BLOCKS,
    SILENT_SECONDS,
    Ended,
    Grant,
    HandOver,
    Report,
    View,
    node_of,
)
from chutes_opencode.relay.flow import Flow, Outcome, Pace, Sent
from chutes_opencode.relay.lessons import Lessons
from chutes_opencode.relay.limiter import LimiterStats

HEARING_SECONDS = 1.0
"""For so long a flow that takes over lets nothing in.

Where a member is missing that held permits, it lets nothing in until that one counts as silent.
"""


@dataclass(slots=True, eq=False)
class Member:
    """One process of the cluster.

    Attributes:
        node: Where it is.
        heard_at: When it said its last word.
        urgent: Running prompts' next steps that wait there, as far as they were given nothing.
        ordinary: New prompts that do.
        blocks: What it holds, by number.
        served: The turn at which it was given permits last.
        given: Permits that it was given so far.
    """

    node: str
    heard_at: float
    urgent: int = 0
    ordinary: int = 0
    blocks: dict[int, Sent] = field(default_factory=dict)
    served: int = 0
    given: int = 0

    @property
    def is_wanting(self) -> bool:
        """Whether anybody waits there."""
        return self.urgent + self.ordinary > 0

    @property
    def is_busy(self) -> bool:
        """Whether it holds anything, or wants to."""
        return self.is_wanting or bool(self.blocks)


class SharedFlow:
    """What one account lets through, and what the members of a cluster hold of it."""

    def __init__(
        self,
        pace: Pace,
        random01: Callable[[], float],
        *,
        now: float,
        is_successor: bool = False,
    ) -> None:
        """Start with nothing learnt.

        Args:
            pace: What to start from.
            random01: Random numbers from 0 to 1.
            now: The time.
            is_successor: Whether another flow of the account is known to have died.
        """
        self._flow = Flow(pace, random01)
        self._members: dict[str, Member] = {}
        self._served_nodes: dict[str, int] = {}
        self._turn = 0
        self._last_taken = -math.inf
        self._inherited: Lessons | None = None
        self._since: dict[int, tuple[float, int]] = {}  # blocks given after those lessons
        self._missing: set[str] = set()  # members that held permits of the flow that died
        self._took_over_at = now if is_successor else -math.inf

    # Members

    def knows(self, member: str) -> bool:
        """Whether a member has handed over what it holds."""
        return member in self._members

    def join(self, report: Report, now: float) -> None:
        """Take in a member that holds nothing."""
        self._members[report.member] = Member(report.node, now, given=report.received)

    def hand_over(self, told: HandOver, now: float, *, is_ours: bool) -> None:
        """Take a member in, with what it holds.

        Args:
            told: What it knows.
            now: The time.
            is_ours: Whether it knows that from this flow.
        """
        self.forget(told.member, now)
        if not is_ours:
            self._inherit(told, now)
        self._missing.discard(told.member)
        member = self._members[told.member] = Member(told.node, now, given=told.received)
        for held in told.holdings:
            sent = Sent(held.number, now - held.age_s, count=held.count, taken=held.taken)
            self._flow.adopt(sent)
            member.blocks[held.number] = sent

    def hear(self, report: Report, now: float) -> tuple[bool, ...]:
        """Take in what happened at a member, and how many wait there now.

        Returns:
            Of each refusal, in order, whether it was collateral.
        """
        member, news = self._members[report.member], report.news
        member.heard_at = now
        coming = max(0, member.given - report.received)  # to those who wait there
        member.urgent = max(0, report.urgent - coming)
        member.ordinary = max(0, report.ordinary - max(0, coming - report.urgent))
        for number, count in news.taken:
            self._last_taken = now
            self._flow.taken(member.blocks[number], now, count)
        for number, count in news.unused:
            self._flow.unused(member.blocks[number], now, count)
        is_wanted = any(each.is_wanting for each in self._members.values())
        told = [self._ended(member, ended, now, is_wanted) for ended in news.ended]
        member.blocks = {number: sent for number, sent in member.blocks.items() if sent.count}
        return tuple(verdict for verdict in told if verdict is not None)

    def _ended(self, member: Member, ended: Ended, now: float, is_wanted: bool) -> bool | None:
        hint = ended.hint_s if ended.hint_s is not None and ended.hint_s > 0 else None
        collateral = self._flow.ended(
            member.blocks[ended.number],
            ended.outcome,
            now,
            hint=None if hint is None else now + hint,
            is_wanted=is_wanted,
            count=ended.count,
            taken=ended.count if ended.taken else 0,
        )
        return collateral if ended.outcome in self._flow.refusals else None

    def forget(self, name: str, now: float) -> None:
        """Take back what a member holds; its requests may have been sent."""
        member = self._members.pop(name, None)
        for sent in member.blocks.values() if member is not None else ():
            self._flow.ended(
                sent,
                Outcome.CANCELLED,
                now,
                hint=None,
                is_wanted=False,
                count=sent.count,
                taken=sent.taken,
            )

    def forget_node(self, node: str, now: float) -> None:
        """Take back what all members on a node hold."""
        for name in [name for name, each in self._members.items() if each.node == node]:
            self.forget(name, now)
        self._served_nodes.pop(node, None)
        self._missing = {name for name in self._missing if node_of(name) != node}

    def forget_silent(self, now: float) -> None:
        """Take back what is held by members that have not said a word for too long."""
        for name, member in tuple(self._members.items()):
            if now - member.heard_at >= SILENT_SECONDS:
                self.forget(name, now)

    def is_busy(self, member: str) -> bool:
        """Whether a member holds anything, or wants to."""
        return self._members[member].is_busy

    def is_wanting(self, member: str) -> bool:
        """Whether anybody waits at a member."""
        return self._members[member].is_wanting

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody to serve."""
        return not self._members

    # Letting in

    def allot(self, names: Iterable[str], now: float) -> dict[str, list[Grant]]:
        """Give permits to members, block by block in turn, as far as it goes now.

        Args:
            names: The members that wait for an answer.
            now: The time.
        """
        asking = {name: self._members[name] for name in names if self._members[name].is_wanting}
        given: dict[str, list[Grant]] = {}
        nodes = {member.node for member in asking.values()}
        share = self._flow.room(now) // max(1, len(nodes))
        while asking and self.opens_at(now) <= now:
            name = self._next(asking)
            grants = given.setdefault(name, [])
            grants.append(self._grant(asking[name], share, now))
            if len(grants) == MAX_BLOCKS or not asking[name].is_wanting:
                del asking[name]
        return given

    def opens_at(self, now: float) -> float:
        """When the next request may go; inf: not before somebody tells something."""
        hearing = SILENT_SECONDS if self._missing else HEARING_SECONDS
        return max(self._flow.opens_at(now), self._took_over_at + hearing)

    def _next(self, asking: dict[str, Member]) -> str:
        """Tell whose turn it is: the urgent first, then by node, then by process."""

        def order(name: str) -> tuple[bool, int, int]:
            member = asking[name]
            return not member.urgent, self._served_nodes.get(member.node, 0), member.served

        return min(asking, key=order)

    def _grant(self, member: Member, share: int, now: float) -> Grant:
        """Give a member a block: its share of the room there was, as far as there is any left."""
        wanted = member.urgent or member.ordinary
        count = min(wanted, share, self._flow.room(now), self._most())
        sent = self._flow.let_in(now, max(1, count))  # 1: maybe a test, or a probe
        member.blocks[sent.number] = sent
        if member.urgent:
            member.urgent -= sent.count
        else:
            member.ordinary -= sent.count
        member.given += sent.count
        self._turn += 1
        self._served_nodes[member.node] = member.served = self._turn
        return Grant(sent.number, sent.count)

    def _most(self) -> int:
        """How many permits a block has at most: a second of the account's rate."""
        per_minute = self._flow.minute.value
        return MAX_BLOCK if per_minute >= 60 * MAX_BLOCK else max(1, int(per_minute / 60))

    # Telling

    def view(self, now: float) -> View:
        """Tell what is known of the account."""
        flow = self._flow
        return View(
            limit=int(flow.flights.value),
            members=sum(member.is_busy for member in self._members.values()),
            ceiling=None if math.isinf(flow.minute.value) else int(flow.minute.value),
            paused_s=None if flow.paused_until is None else flow.paused_until - now,
            taken_s=now - self._last_taken,
            rate_limited=flow.refusals[Outcome.RATE_LIMITED],
            capacity=flow.refusals[Outcome.CAPACITY],
            refused_in_a_row=flow.refused_in_a_row,
        )

    def lessons(self, now: float) -> Lessons:
        """Tell what the account has taught, for a flow that has to take over."""
        return self._flow.lessons(now)

    def stats(self, now: float) -> LimiterStats:
        """Tell what is known of the account, and what the whole cluster does with it."""
        view = self.view(now)
        members = self._members.values()
        return LimiterStats(
            limit=view.limit,
            in_flight=self._flow.in_flight,
            waiting=sum(member.urgent + member.ordinary for member in members),
            paused_until=self._flow.paused_until,
            ceiling=view.ceiling,
            permits=self._flow.count,
            rate_limited=view.rate_limited,
            capacity=view.capacity,
            refused_in_a_row=view.refused_in_a_row,
        )

    def holders(self) -> tuple[str, ...]:
        """Tell which members hold permits."""
        return tuple(name for name, member in self._members.items() if member.blocks)

    def held(self) -> dict[str, int]:
        """Tell how many permits each node holds."""
        nodes: dict[str, int] = {}
        for member in self._members.values():
            count = sum(sent.count for sent in member.blocks.values())
            nodes[member.node] = nodes.get(member.node, 0) + count
        return nodes

    # Taking over

    def _inherit(self, told: HandOver, now: float) -> None:
        """Learn what the newest of the members' lessons tell, and what was sent after them."""
        known = self._inherited
        if told.lessons is not None:
            if known is None:
                self._took_over_at = now
            self._missing |= set(told.holders) - self._members.keys()
            if known is None or told.lessons.count > known.count:
                self._inherited = known = told.lessons
                self._flow.learn(known, now)
                for number, (at, count) in self._since.items():
                    self._count_sent(number, at, count, now)
        for number, age_s, count in told.since:
            if number not in self._since:
                self._since[number] = now - age_s, count
                self._count_sent(number, now - age_s, count, now)

    def _count_sent(self, number: int, at: float, count: int, now: float) -> None:
        if self._inherited is None or number > self._inherited.count:
            self._flow.count_sent(number, now - at, count, now)
