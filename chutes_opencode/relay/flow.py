"""What an account lets through, learnt from its answers: pure, with the time as an argument.

No limit is known beforehand; refusals teach them, tests raise them again (`ceiling.py`):

In flight     starts at 16 and doubles with each round of successes while somebody waits, until the
              first refusal. One for want of capacity takes a quarter off, or goes down to what the
              server is known to have taken; once for all requests that were in flight then.
In a minute   unbounded unless configured. A 429 teaches it: as many as were let in during the
              last minute, without those that were refused for the rate. A probe (below) that is
              refused although the ceiling leaves room takes it down to a quarter of that.
Pause         A 429 pauses the account until the time that it tells, else for 2 s; so does a
              refusal for want of capacity that leaves nothing of ours in flight. Then one request
              at a time goes as a probe. Taken: the pause is over. Refused: the pause doubles (4,
              8 … 30 s, with jitter) and lasts at least until the minute has room again.

Whose fault is a refusal? It counts as an attempt of its prompt only if nobody could expect it.
Expected, so collateral, are the refusals of requests that were sent before the last lesson, of
tests above a ceiling, and for 2 s after a lesson while others of ours are in flight. No ceiling
below 5 a minute is believed; so a prompt that meets nothing but refusals has them all counted.

Requests may go in blocks: what is let in at once as a block costs no more than a single request,
and its successes are told as numbers. Tests, probes and refusals stay single.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from chutes_opencode.relay.ceiling import Ceiling, RecentCount
from chutes_opencode.relay.lessons import Lessons

_KEPT_PART = 0.75  # of what was in flight, rounded up: 5 become 4, 100 become 75
# A server counts arrivals, we count starts, and the way between them varies: what was sent within
# 59 s is surely in the server's minute, what was sent 61 s ago surely is not.
_LEAST_WINDOW_S = 59.0
_WINDOW_S = 61.0
_LEAST_CEILING = 5  # requests a minute; no provider allows fewer


class Outcome(enum.Enum):
    """How a request ended.

    Attributes:
        OK: The server took it: an answer of any status but those below, be it 400 or 404.
        RATE_LIMITED: 429 of the account.
        CAPACITY: 429 because all instances of the model, or all places of the account, are taken.
        ERROR: 5xx, connection trouble, a broken stream: nothing to learn for the flow.
        CANCELLED: Given up by us, or never sent.
    """

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    CAPACITY = "capacity"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Pace:
    """What a flow starts from; the defaults need no change for Chutes.

    Attributes:
        start: Requests in flight at first.
        max_in_flight: Never more in flight.
        requests_per_minute: Never more in a minute; None: no bound but a learnt one.
        pause_s: First pause after a refusal without a hint, and first wait before a test, seconds.
        max_pause_s: What pauses double up to, and how long a probe may go unanswered, seconds.
        max_test_wait_s: What waits before a test double up to, seconds.
        max_hint_s: The longest pause that a server may ask for, seconds.
        jitter: Part of a pause that is random: 0.25 spreads it over -25 % … +25 %.
    """

    start: int = 16
    max_in_flight: int = 1024
    requests_per_minute: int | None = None
    pause_s: float = 2.0
    max_pause_s: float = 30.0
    max_test_wait_s: float = 60.0
    max_hint_s: float = 3600.0
    jitter: float = 0.25


@dataclass(slots=True)
class Sent:
    """A request that was let in, or a block of them that were let in at once.

    Attributes:
        number: Counts requests from 1; of a block, that of the last one.
        at: When it was let in, seconds.
        tests_flights: Whether it was let in above the ceiling of requests in flight.
        tests_minute: Whether it was let in above the ceiling of requests in a minute.
        count: How many of it are in flight.
        taken: How many of those the server is known to have taken.
    """

    number: int
    at: float
    tests_flights: bool = False
    tests_minute: bool = False
    count: int = 1
    taken: int = 0


class Flow:
    """What one account lets through, as far as its answers have told."""

    def __init__(self, pace: Pace, random01: Callable[[], float]) -> None:
        """Start with nothing learnt; `random01` gives random numbers from 0 to 1."""
        self._pace = pace
        self._random01 = random01
        waits = {"wait_s": pace.pause_s, "longest_wait_s": pace.max_test_wait_s}
        start = min(pace.start, pace.max_in_flight)
        self.flights = Ceiling(start, pace.max_in_flight, **waits)
        per_minute = pace.requests_per_minute or math.inf
        self.minute = Ceiling(per_minute, per_minute, **waits)
        self.in_flight = 0
        self.count = 0
        self.paused_until: float | None = None
        self.refusals = {Outcome.RATE_LIMITED: 0, Outcome.CAPACITY: 0}
        self.refused_in_a_row = 0
        self._recent = RecentCount(_WINDOW_S)
        self._surely = RecentCount(_LEAST_WINDOW_S)
        self._pause_s = pace.pause_s
        self._probe: Sent | None = None
        # Requests up to these numbers were sent before the last lesson of the kind.
        self._last_before_pause = 0
        self._last_before_shrink = 0
        self._shrunk_at = -math.inf
        self._taken = 0  # requests in flight that the server is known to have taken
        self._fitting = 0  # those at the last shrinking, and the older ones taken since then
        self._most_fitting = 0

    # Letting in

    def opens_at(self, now: float) -> float:
        """When the next request may go: now, later, or not before another one's answer (inf)."""
        if self.paused_until is None:
            return max(self.flights.opens_at(self.in_flight, now), self._minute_opens_at(now))
        if self.in_flight >= self.flights.value:
            return math.inf
        probed = now if self._probe is None else self._probe.at + self._pace.max_pause_s
        return max(now, self.paused_until, probed, self._recent.below_at(self.minute.most, now))

    def _minute_opens_at(self, now: float) -> float:
        room_at = self._recent.below_at(self.minute.value, now)
        surely = self._surely.level(now)
        if surely < self.minute.value:  # there is room, or soon will be: a test would tell nothing
            return room_at
        return min(room_at, self.minute.opens_at(surely, now))

    def room(self, now: float) -> int:
        """How many may go at once as a block: now, and as neither tests nor probes."""
        if self.paused_until is not None:
            return 0
        minute = self.minute.value - self._recent.level(now)
        return max(0, int(min(self.flights.value - self.in_flight, minute)))

    def let_in(self, now: float, count: int = 1) -> Sent:
        """Count a request as sent: `opens_at` must have said now; or a block: `room` its size."""
        self.count += count
        sent = Sent(
            self.count,
            now,
            tests_flights=self.flights.enter(self.in_flight),
            tests_minute=self.minute.enter(self._surely.level(now)),
            count=count,
        )
        self.in_flight += count
        self._recent.add(now, count)
        self._surely.add(now, count)
        if self.paused_until is not None:
            self._probe = sent
        return sent

    def unused(self, sent: Sent, now: float, count: int = 1) -> None:
        """So many of what was let in were never sent, and never will be."""
        self._leave(sent, count, 0)
        self._recent.forget(sent.at, count)
        self._surely.forget(sent.at, count)
        self._settle_tests(sent, Outcome.CANCELLED, now)
        self._end_probe(sent)

    # Learning

    def taken(self, sent: Sent, now: float, count: int = 1) -> None:
        """The server took the request (once for each), or so many of a block."""
        sent.taken += count
        self._taken += count
        self.refused_in_a_row = 0
        if sent.number <= self._last_before_shrink:
            self._fitting += count
            self.flights.lift(min(self._fitting, self._most_fitting))
        elif sent.tests_flights:
            self.flights.passed(now)
        if sent.number <= self._last_before_pause:  # proves nothing any more
            self.minute.untold()
            return
        if sent.tests_minute:
            self.minute.passed(now)
        self.paused_until = self._probe = None
        self._pause_s = self._pace.pause_s

    def ended(
        self,
        sent: Sent,
        outcome: Outcome,
        now: float,
        *,
        hint: float | None,
        is_wanted: bool,
        count: int = 1,
        taken: int | None = None,
    ) -> bool:
        """The request ended (once for each), or so many of a block.

        Args:
            sent: Which.
            outcome: How; of a block, refusals are told one by one.
            now: The time.
            hint: When the server said that it may be tried again; None: it did not.
            is_wanted: Whether another request waits.
            count: How many of a block.
            taken: How many of those the server had taken; None: as many as it can be.

        Returns:
            Whether it was refused and that could be expected.
        """
        known = min(count, sent.taken) if taken is None else taken
        self._leave(sent, count, known)
        collateral = False
        if outcome is Outcome.RATE_LIMITED:
            collateral = self._rate_limited(sent, now, hint)
        elif outcome is Outcome.CAPACITY:
            collateral = self._full(sent, now, hint)
        elif outcome is Outcome.OK and is_wanted:
            self.flights.grow(count)
        if outcome in self.refusals:
            self.refusals[outcome] += 1
            self.refused_in_a_row += not collateral
        if not known:
            self._settle_tests(sent, outcome, now)
        self._end_probe(sent)
        return collateral

    def _leave(self, sent: Sent, count: int, taken: int) -> None:
        self.in_flight -= count
        sent.count -= count
        sent.taken -= taken
        self._taken -= taken

    def _end_probe(self, sent: Sent) -> None:
        if sent is self._probe:
            self._probe = None

    # Handing over

    def lessons(self, now: float) -> Lessons:
        """Tell what was learnt, for another flow of the account."""
        return Lessons(
            count=self.count,
            flights=self.flights.lessons(now),
            minute=self.minute.lessons(now),
            recent=self._recent.ages(now),
            paused_s=None if self.paused_until is None else self.paused_until - now,
            pause_s=self._pause_s,
            last_before_pause=self._last_before_pause,
            last_before_shrink=self._last_before_shrink,
            shrunk_s=now - self._shrunk_at,
            fitting=(self._fitting, self._most_fitting),
            rate_limited=self.refusals[Outcome.RATE_LIMITED],
            capacity=self.refusals[Outcome.CAPACITY],
            refused_in_a_row=self.refused_in_a_row,
        )

    def learn(self, lessons: Lessons, now: float) -> None:
        """Go on from what another flow of the account had learnt."""
        self.count = max(self.count, lessons.count)
        self.flights.adopt(lessons.flights, now)
        self.minute.adopt(lessons.minute, now)
        self._recent = RecentCount(_WINDOW_S)
        self._surely = RecentCount(_LEAST_WINDOW_S)
        self._adopt_recent(lessons.recent, now)
        self.paused_until = None if lessons.paused_s is None else now + lessons.paused_s
        self._pause_s = lessons.pause_s
        self._last_before_pause = lessons.last_before_pause
        self._last_before_shrink = lessons.last_before_shrink
        self._shrunk_at = now - lessons.shrunk_s
        self._fitting, self._most_fitting = lessons.fitting
        self.refusals[Outcome.RATE_LIMITED] = lessons.rate_limited
        self.refusals[Outcome.CAPACITY] = lessons.capacity
        self.refused_in_a_row = lessons.refused_in_a_row

    def count_sent(self, number: int, age_s: float, count: int, now: float) -> None:
        """Count a block that another flow let in after its last lessons."""
        self.count = max(self.count, number)
        self._adopt_recent(((age_s, count),), now)

    def adopt(self, sent: Sent) -> None:
        """Count as in flight what another flow let in, and has counted as sent."""
        self.count = max(self.count, sent.number)
        self.in_flight += sent.count
        self._taken += sent.taken

    def _adopt_recent(self, ages: tuple[tuple[float, int], ...], now: float) -> None:
        self._recent.adopt(ages, now)
        self._surely.adopt(ages, now)

    def _rate_limited(self, sent: Sent, now: float, hint: float | None) -> bool:
        self._recent.forget(sent.at)
        self._surely.forget(sent.at)
        is_late = sent.number <= self._last_before_pause
        is_expected = is_late or sent.tests_minute
        is_probe = self.paused_until is not None and not is_late
        accepted = self._surely.level(now)
        if is_late:
            self.minute.lower(max(_LEAST_CEILING, accepted))
        elif is_probe and not is_expected:  # refused where there should be room: far too high
            self.minute.lower(max(_LEAST_CEILING, accepted // 4))
        elif not is_expected:
            self.minute.learn(max(_LEAST_CEILING, accepted), now)
            self.flights.stop_growing(now)
        if hint is not None or is_probe or not is_expected:
            self._pause(now, hint, is_probe=is_probe)
        return is_expected

    def _full(self, sent: Sent, now: float, hint: float | None) -> bool:
        is_expected = sent.number <= self._last_before_shrink or sent.tests_flights
        is_alone = self.in_flight == 0
        is_learning = not is_alone and now < self._shrunk_at + self._pace.pause_s
        if not is_expected:
            self._most_fitting = math.ceil((self.in_flight + 1) * _KEPT_PART)
            self._fitting = self._taken
            self.flights.learn(max(1, min(self._fitting, self._most_fitting)), now)
            self._last_before_shrink = self.count
            self._shrunk_at = now
        is_probe = self.paused_until is not None and sent.number > self._last_before_pause
        if hint is not None or (is_alone and (is_probe or self.paused_until is None)):
            self._pause(now, hint, is_probe=is_probe)
        return is_expected or is_learning

    def _pause(self, now: float, hint: float | None, *, is_probe: bool) -> None:
        if hint is not None:
            until = min(hint, now + self._pace.max_hint_s)
        else:
            until = now + self._pause_s * (1 + self._pace.jitter * (2 * self._random01() - 1))
            self._pause_s = min(self._pause_s * 2, self._pace.max_pause_s)
            if is_probe:  # the first pause is not so long: the ceiling may be a misunderstanding
                until = max(until, self._recent.below_at(self.minute.value, now))
        self.paused_until = until if self.paused_until is None else max(until, self.paused_until)
        self._last_before_pause = self.count

    def _settle_tests(self, sent: Sent, outcome: Outcome, now: float) -> None:
        for is_test, ceiling, refusal in (
            (sent.tests_flights, self.flights, Outcome.CAPACITY),
            (sent.tests_minute, self.minute, Outcome.RATE_LIMITED),
        ):
            if is_test and outcome is refusal:
                ceiling.failed(now)
            elif is_test:
                ceiling.untold()
