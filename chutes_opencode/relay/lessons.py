"""What the flow of an account has learnt, as plain values that outlive it.

Clocks differ from machine to machine, so times are seconds from now, or ago.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CeilingLessons:
    """What a ceiling has learnt, with times that any clock can count from.

    Attributes:
        value: How much is allowed.
        wait_s: The last wait before a test, seconds.
        test_in_s: Seconds until a test may go; `math.inf`: nothing is learnt that could be tested.
        step: By how much the next test that is passed raises the ceiling.
    """

    value: float
    wait_s: float
    test_in_s: float
    step: int


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a flow has learnt, for another one to go on from; times are seconds from now.

    Attributes:
        count: Requests let in so far.
        flights: Of the requests in flight.
        minute: Of the requests in a minute.
        recent: How many were let in how long ago, the oldest first.
        paused_s: Until a probe may go; None: not paused.
        pause_s: How long the next pause without a hint would be.
        last_before_pause: Number of the last request before the last pause.
        last_before_shrink: Number of the last request before the last shrinking.
        shrunk_s: How long ago that was.
        fitting: Requests that were seen to fit since then, and the most that may be believed.
        rate_limited: Refusals for the rate so far.
        capacity: Refusals for want of capacity so far.
        refused_in_a_row: Refusals that were not collateral since the server last took a request.
    """

    count: int
    flights: CeilingLessons
    minute: CeilingLessons
    recent: tuple[tuple[float, int], ...]
    paused_s: float | None
    pause_s: float
    last_before_pause: int
    last_before_shrink: int
    shrunk_s: float
    fitting: tuple[int, int]
    rate_limited: int
    capacity: int
    refused_in_a_row: int

    def aged(self, seconds: float) -> Lessons:
        """Return them as they read some seconds later."""
        return replace(
            self,
            flights=replace(self.flights, test_in_s=self.flights.test_in_s - seconds),
            minute=replace(self.minute, test_in_s=self.minute.test_in_s - seconds),
            recent=tuple((age + seconds, count) for age, count in self.recent),
            paused_s=None if self.paused_s is None else self.paused_s - seconds,
            shrunk_s=self.shrunk_s + seconds,
        )
