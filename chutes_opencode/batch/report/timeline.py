"""What a run did when, in bounded memory: the time axis is that of its sessions, end to end.

A run that was stopped in the evening and resumed in the morning has no night on its axis.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

# Steps of a curve; a session has at most twice as many while it is counted.
POINTS = 240
_FIRST_WIDTH_S = 0.05


@dataclass(slots=True)
class Step:
    """What ended within one step of time."""

    ok: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    cost_usd: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Step) -> None:
        """Count what ended in another step as well."""
        self.ok += other.ok
        self.failed += other.failed
        self.input += other.input
        self.output += other.output
        self.cost_usd += other.cost_usd
        self.errors += other.errors


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run over its own time; lists of equal length, sums from the beginning on.

    Attributes:
        seconds: End of each step, in seconds of running.
        ok: Answers until then.
        failed: Failures until then.
        input: Input tokens until then, cached ones included.
        output: Output tokens until then, reasoning included.
        cost_usd: US dollars until then.
        errors: Failures within each step, by class.
        resumed: Where sessions after the first begin, in seconds of running.
        duration_s: Seconds of running in all.
    """

    seconds: list[float]
    ok: list[int]
    failed: list[int]
    input: list[int]
    output: list[int]
    cost_usd: list[float]
    errors: dict[str, list[int]]
    resumed: list[float]
    duration_s: float


@dataclass(slots=True)
class _Session:
    start: float
    end: float
    width: float = _FIRST_WIDTH_S
    steps: list[Step] = field(default_factory=list)

    def step(self, at: float) -> Step:
        """Return the step of a moment; steps are joined in pairs when they become too many."""
        self.end = max(self.end, at)
        while (place := int(max(at - self.start, 0.0) / self.width)) >= 2 * POINTS:
            self._halve()
        self.steps.extend(Step() for _ in range(place + 1 - len(self.steps)))
        return self.steps[place]

    def _halve(self) -> None:
        self.width *= 2
        for place in range(0, len(self.steps) - 1, 2):
            self.steps[place].add(self.steps[place + 1])
        self.steps = self.steps[::2]


class Clock:
    """Sorts what ended into the sessions of a run."""

    def __init__(self, starts: Sequence[float], seen_at: float | None = None) -> None:
        """Start with nothing.

        Args:
            starts: When the sessions began, seconds since the epoch, ascending.
            seen_at: When the last session was seen alive; None: it ended with its last result.
        """
        self._starts = list(starts)
        self._sessions = [_Session(start, start) for start in starts]
        if self._sessions and seen_at is not None:
            self._sessions[-1].end = max(self._sessions[-1].start, seen_at)

    def add(self, started_at: float, ended_at: float, step: Step) -> None:
        """Count what ended at a moment.

        Args:
            started_at: Seconds since the epoch.
            ended_at: Seconds since the epoch.
            step: What it was.
        """
        if not self._sessions:
            self._starts.append(started_at)
            self._sessions.append(_Session(started_at, started_at))
        place = max(bisect_right(self._starts, ended_at) - 1, 0)
        self._sessions[place].step(ended_at).add(step)

    @property
    def last_end(self) -> float | None:
        """When the last of it ended; None: nothing did."""
        return max((each.end for each in self._sessions if each.steps), default=None)

    def timeline(self) -> Timeline:
        """Return the sessions end to end, in steps of equal width."""
        durations = [each.end - each.start for each in self._sessions]
        begins = list(accumulate(durations, initial=0.0))
        total = begins[-1]
        steps = [Step() for _ in range(POINTS if total else 1)]
        width = total / len(steps) if total else 1.0
        for session, begin in zip(self._sessions, begins, strict=False):
            for number, step in enumerate(session.steps):
                middle = min(begin + (number + 0.5) * session.width, total)
                steps[min(int(middle / width), len(steps) - 1)].add(step)
        return _timeline(steps, width, begins[1:-1], total)


def _timeline(steps: list[Step], width: float, resumed: list[float], total: float) -> Timeline:
    classes = sum((step.errors for step in steps), Counter[str]())
    return Timeline(
        seconds=[width * (number + 1) for number in range(len(steps))],
        ok=list(accumulate(step.ok for step in steps)),
        failed=list(accumulate(step.failed for step in steps)),
        input=list(accumulate(step.input for step in steps)),
        output=list(accumulate(step.output for step in steps)),
        cost_usd=list(accumulate(step.cost_usd for step in steps)),
        errors={name: [step.errors[name] for step in steps] for name, _ in classes.most_common()},
        resumed=resumed,
        duration_s=total,
    )
