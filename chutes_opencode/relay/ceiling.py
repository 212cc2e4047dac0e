"""A ceiling that refusals teach and single requests test; and the count of the last minute."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable

from chutes_opencode.relay.lessons import CeilingLessons


class Ceiling:
    """How much of something a server allows, as far as its refusals have told.

    Refusals lower the ceiling. From then on, whenever it is reached and its wait is over, one
    request more than it allows may test it. Passed: the ceiling rises by 1, after the next test by
    2, then by 4 …, and each follows after the first wait. Failed, or lowered again: the wait has
    doubled; two passes in a row make it short again (one may be luck: a place had just become
    free). So a true ceiling costs ever fewer refusals, and a false one is soon left behind.
    """

    def __init__(self, value: float, most: float, *, wait_s: float, longest_wait_s: float) -> None:
        """Allow `value` at first.

        Args:
            value: How much is allowed before anything is learnt; `math.inf`: anything.
            most: What no test may pass.
            wait_s: Seconds from a lesson to the first test.
            longest_wait_s: What the waits double up to.
        """
        self.value = value
        self.most = most
        self._first_wait_s = wait_s
        self._longest_wait_s = longest_wait_s
        self._wait_s = 0.0
        self._test_at = math.inf  # nothing is learnt that could be tested
        self._testing = False
        self._step = 1

    def opens_at(self, level: int, now: float) -> float:
        """When one more than `level` may be let in: now, when a test is due, or never by itself."""
        if level < self.value:
            return now
        if self._testing or level >= self.most:
            return math.inf
        return max(now, self._test_at)

    def enter(self, level: int) -> bool:
        """Let one more in than `level`; tell whether it is a test."""
        is_test = level >= self.value
        self._testing = self._testing or is_test
        return is_test

    def grow(self, count: int = 1) -> None:
        """Allow so many more, as long as no refusal has taught anything."""
        if math.isinf(self._test_at):
            self.value = min(self.value + count, self.most)

    def stop_growing(self, now: float) -> None:
        """Leave further growth to tests."""
        if math.isinf(self._test_at):
            self._wait(now)

    def lower(self, value: float) -> None:
        """Allow no more than `value`."""
        self.value = min(self.value, value)

    def lift(self, value: float) -> None:
        """Allow at least `value`: so much was seen to fit."""
        self.value = max(self.value, min(value, self.most))

    def learn(self, value: float, now: float) -> None:
        """A refusal that was not expected: allow no more than `value`."""
        self.lower(value)
        self._testing = False  # a running test was begun before this was known
        self._wait(now)

    def passed(self, now: float) -> None:
        """A test was let in by the server."""
        self._testing = False
        if self._step > 1:
            self._wait_s = self._first_wait_s
        self.value = min(self.value + self._step, self.most)
        self._step *= 2
        self._test_at = now + self._first_wait_s

    def failed(self, now: float) -> None:
        """A test was refused by the server."""
        self._testing = False
        self._wait(now)

    def untold(self) -> None:
        """A test ended without an answer: the next request may repeat it."""
        self._testing = False

    def lessons(self, now: float) -> CeilingLessons:
        """Tell what was learnt; a test that runs is not part of it."""
        return CeilingLessons(self.value, self._wait_s, self._test_at - now, self._step)

    def adopt(self, lessons: CeilingLessons, now: float) -> None:
        """Go on from what another one had learnt."""
        self.value = min(lessons.value, self.most)
        self._wait_s, self._step = lessons.wait_s, lessons.step
        self._test_at = now + lessons.test_in_s
        self._testing = False

    def _wait(self, now: float) -> None:
        doubled = max(self._wait_s * 2, self._first_wait_s)
        self._wait_s = min(doubled, self._longest_wait_s)
        self._test_at = now + self._wait_s
        self._step = 1


class RecentCount:
    """How many requests were let in during the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        """Start with none."""
        self._window_s = window_s
        self._counts: OrderedDict[float, int] = OrderedDict()  # by time, the oldest first
        self._by_second: Counter[int] = Counter()  # the same, summed up
        self._total = 0

    def add(self, now: float, count: int = 1) -> None:
        """Count so many."""
        self._counts[now] = self._counts.get(now, 0) + count
        self._by_second[math.floor(now)] += count
        self._total += count

    def forget(self, at: float, count: int = 1) -> None:
        """Take back what was counted at the time `at`."""
        known = min(count, self._counts.get(at, 0))
        if known:
            self._counts[at] -= known
            self._leave(at, known)

    def level(self, now: float) -> int:
        """The count."""
        # Written like `below_at`, so that both round alike: at that time the request has left.
        while self._counts and (oldest := next(iter(self._counts))) + self._window_s <= now:
            self._leave(oldest, self._counts.pop(oldest))
        return self._total

    def below_at(self, bound: float, now: float) -> float:
        """When the count is below `bound` (at least 1) if none is added."""
        level = self.level(now)
        times = iter(self._counts.items())
        until = now
        while level >= bound:
            at, count = next(times)
            level -= count
            until = at + self._window_s
        return until

    def ages(self, now: float) -> tuple[tuple[float, int], ...]:
        """How many, by how long ago it was at least, in steps of a second; the oldest first."""
        self.level(now)
        return tuple(
            (max(0.0, now - second - 1), count) for second, count in sorted(self._by_second.items())
        )

    def adopt(self, ages: Iterable[tuple[float, int]], now: float) -> None:
        """Count, beside what is counted, what another one had."""
        for age, count in ages:
            self.add(now - age, count)
        self._counts = OrderedDict(sorted(self._counts.items()))

    def _leave(self, at: float, count: int) -> None:
        second = math.floor(at)
        self._total -= count
        self._by_second[second] -= count
        if not self._by_second[second]:
            del self._by_second[second]
