"""A ceiling that refusals teach and single requests test; and the count of the last minute."""

from __future__ import annotations

import itertools
import math
from collections import deque


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

    def grow(self) -> None:
        """Allow one more, as long as no refusal has taught anything."""
        if math.isinf(self._test_at):
            self.value = min(self.value + 1, self.most)

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
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        """Count one."""
        self._times.append(now)

    def forget(self, at: float) -> None:
        """Take back one that was counted at the time `at`."""
        if at in self._times:
            self._times.remove(at)

    def level(self, now: float, within_s: float | None = None) -> int:
        """The count; `within_s` takes a shorter time than the window."""
        # Written like `below_at`, so that both round alike: at that time the request has left.
        while self._times and self._times[0] + self._window_s <= now:
            self._times.popleft()
        if within_s is None:
            return len(self._times)
        older = itertools.takewhile(lambda time: time + within_s <= now, self._times)
        return len(self._times) - sum(1 for _ in older)

    def below_at(self, bound: float, now: float) -> float:
        """When the count is below `bound` (at least 1) if none is added."""
        level = self.level(now)
        return now if level < bound else self._times[level - int(bound)] + self._window_s
