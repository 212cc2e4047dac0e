"""How far a batch is: what is counted, and what people are shown of it. Pure: the clock is given.

Rates are those of the last half minute; what they say of the rest (time left, projected cost) is
therefore a guess from the present, and None as long as there is nothing to guess from.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from chutes_opencode.batch.record import FAILED, OK, Record

WINDOW_S = 30.0

RUNNING, STOPPING, FINISHED, STOPPED = "running", "stopping", "finished", "stopped"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A batch at one moment.

    Attributes:
        total: Tasks of the batch.
        done: Finished well in this session, durably.
        failed: Failures that stand: of this session, and of earlier ones if not tried again.
        skipped: Finished well in an earlier session.
        in_flight: Run now.
        waiting: What is waited for, in words for people; "": nothing.
        prompts_per_s: Tasks that finished in a second, lately.
        tokens_per_s: Their tokens in a second.
        spent_usd: US dollars of the whole run, earlier sessions and tries in vain included.
        projected_usd: US dollars of the whole run at its end, if what is left costs what this
            session's tasks did on average; None: nothing to guess from.
        eta_s: Seconds that what is left takes at the present rate; None: nothing to guess from.
        errors: Failures of this session by the class of their error.
        started_at: Seconds since the epoch.
        updated_at: Seconds since the epoch.
        state: "running", "stopping" (what runs is finished, nothing new begun), "finished" (all
            tasks have a result) or "stopped".
        stopped_by: Why it stops or stopped; "": it does not.
        workers: Workers of a cluster; 0: it runs in this process alone.
        resent: About how many prompts of the whole run were sent again because what ran them was
            lost: a worker, or the process of an earlier session. Rather too many than too few: what
            was still to be sent counts, too.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    in_flight: int = 0
    waiting: str = ""
    prompts_per_s: float = 0.0
    tokens_per_s: float = 0.0
    spent_usd: float = 0.0
    projected_usd: float | None = None
    eta_s: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    started_at: float = 0.0
    updated_at: float = 0.0
    state: str = RUNNING
    stopped_by: str = ""
    workers: int = 0
    resent: int = 0

    @property
    def left(self) -> int:
        """Tasks without a result."""
        return self.total - self.done - self.failed - self.skipped


def sent_in_vain(last: Snapshot | None, left: int | None = None) -> int:
    """Return how many prompts of a run were sent in vain, given what its last session told.

    Args:
        last: None: there was none. What ran when a process was killed has to be sent again.
        left: What a killed process left in its `.in_flight`; None: nothing. It says nothing where
            the last session, maybe on another machine, ended in good order.
    """
    if last is None:
        return left or 0
    if last.state not in (RUNNING, STOPPING):
        return last.resent
    return last.resent + last.in_flight if left is None else left


@dataclass(slots=True)
class _Second:
    """What finished within one second."""

    number: int
    prompts: int = 0
    tokens: int = 0


class Meter:
    """Counts what has finished. Used on one thread.

    Attributes:
        total: Tasks of the batch.
        started_at: Seconds since the epoch.
        done: Answers of this session.
        failed: Failures of this session.
        failed_before: Failures of earlier sessions that are not tried again.
        skipped: Answers of earlier sessions.
        spent_usd: US dollars of the whole run.
        errors: Failures of this session by the class of their error.
        resent_before: Prompts that were sent again before, or have to be now because the last
            session was broken off.
    """

    def __init__(self, total: int, *, now: float, spent_usd: float = 0.0) -> None:
        """Start with nothing done.

        Args:
            total: Tasks of the batch.
            now: Seconds since the epoch.
            spent_usd: US dollars that earlier sessions of the run have cost.
        """
        self.total = total
        self.started_at = now
        self.done = 0
        self.failed = 0
        self.failed_before = 0
        self.skipped = 0
        self.spent_usd = spent_usd
        self.errors: Counter[str] = Counter()
        self.resent_before = 0
        self._finished_usd = 0.0
        self._finished = 0
        self._seconds: deque[_Second] = deque()

    @property
    def left(self) -> int:
        """Tasks without a result."""
        return self.total - self.done - self.failed - self.failed_before - self.skipped

    def add(self, record: Record, now: float) -> None:
        """Count a record that is durable; one that was cut adds to the costs alone.

        Args:
            record: Of a task, or of a try that does not count.
            now: Seconds since the epoch.
        """
        cost = record.cost_usd or 0.0
        self.spent_usd += cost
        self._finished_usd += cost
        if record.status == OK:
            self.done += 1
        elif record.status == FAILED:
            self.failed += 1
            self.errors[record.error.type if record.error else ""] += 1
        else:
            return
        self._finished += 1
        second = self._second(now)
        second.prompts += 1
        second.tokens += record.usage.total

    def snapshot(
        self,
        now: float,
        *,
        in_flight: int = 0,
        waiting: str = "",
        state: str = RUNNING,
        stopped_by: str = "",
        workers: int = 0,
        resent: int = 0,
    ) -> Snapshot:
        """Return how far the batch is.

        Args:
            now: Seconds since the epoch.
            in_flight: Tasks that run.
            waiting: What is waited for.
            state: See `Snapshot`.
            stopped_by: See `Snapshot`.
            workers: See `Snapshot`.
            resent: Prompts that were sent again in this session.
        """
        self._forget(now)
        span = min(WINDOW_S, max(now - self.started_at, 1.0))
        rate = sum(second.prompts for second in self._seconds) / span
        mean = self._finished_usd / self._finished if self._finished else None
        return Snapshot(
            total=self.total,
            done=self.done,
            failed=self.failed + self.failed_before,
            skipped=self.skipped,
            in_flight=in_flight,
            waiting=waiting,
            prompts_per_s=rate,
            tokens_per_s=sum(second.tokens for second in self._seconds) / span,
            spent_usd=self.spent_usd,
            projected_usd=None if mean is None else self.spent_usd + mean * self.left,
            eta_s=self.left / rate if rate else None,
            errors=dict(self.errors),
            started_at=self.started_at,
            updated_at=now,
            state=state,
            stopped_by=stopped_by,
            workers=workers,
            resent=self.resent_before + resent,
        )

    def _second(self, now: float) -> _Second:
        """Return the present second; a clock that was set back counts in the last one."""
        number = int(now)
        if not self._seconds or self._seconds[-1].number < number:
            self._seconds.append(_Second(number))
            self._forget(now)
        return self._seconds[-1]

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0].number <= now - WINDOW_S:
            self._seconds.popleft()
