"""Follow a run while it runs: tell what is written, and say when to end it."""

from __future__ import annotations

import codecs
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from chutes_opencode.engines.base import Observe
from chutes_opencode.events import Event, RequestStarted, StepEnd
from chutes_opencode.masking import mask
from chutes_opencode.opencode.transcript import event_records, json_lines, parse_log_line

# The guard answers in the provider's stead at the second failure in a row; the log shows that
# answer as a third error. More than that means that the guard did not see the failure.
TOLERATED_ERRORS = 3


# Between two steps of an agent opencode takes longer.
DENSE_SECONDS = 0.01


class Tail:
    """The complete lines that a growing file has got since the last look."""

    def __init__(self, path: Path) -> None:
        """Begin at the file's start."""
        self._path = path
        self._offset = 0
        self._rest = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def lines(self) -> list[str]:
        """Return the lines that are complete by now and were not returned before."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + self._decode(data)).split("\n")
        return lines


class InOrder:
    """Tells what the relay hears, after what opencode has written of the steps before.

    The relay hears a step's text sooner than we read of the tool that the step follows (seen), and
    on a busy machine opencode writes of that later still (seen): then the text waits for it.

    Attributes:
        observe: Who is told in the end.
        look: Takes in what opencode has written.
    """

    def __init__(self, observe: Observe, clock: Callable[[], float] = time.monotonic) -> None:
        """Look nowhere at first; `clock` gives seconds."""
        self.observe = observe
        self._clock = clock
        self.look: Callable[[], object] = lambda: None
        self._last = -math.inf
        self._steps: float = 0
        self._later: deque[Event] = deque()

    def __call__(self, event: Event) -> None:
        """Tell an event of the relay's; in a dense stream there is nothing to look for."""
        now = self._clock()
        if now - self._last > DENSE_SECONDS:
            self.look()
        self._last = now
        self._later.append(event)
        self._tell()

    def written(self, event: Event) -> None:
        """Tell an event that opencode has written."""
        self.observe(event)
        if isinstance(event, StepEnd):
            self._steps += 1
            self._tell()

    def end(self) -> None:
        """Tell what still waits: opencode writes nothing more."""
        self._steps = math.inf
        self._tell()

    def _tell(self) -> None:
        """Tell what comes before a step whose predecessor opencode has not written of."""
        while self._later:
            first = self._later[0]
            if isinstance(first, RequestStarted) and first.step > self._steps + 1:
                return
            self.observe(self._later.popleft())


class Watch:
    """What a run has shown so far.

    Attributes:
        stop: Why it must be ended now; None: let it run.
        log_errors: The errors of its log.
    """

    def __init__(
        self, stdout: Path, stderr: Path, observe: Observe, *, relayed: bool = False
    ) -> None:
        """Follow the two files that the run writes.

        Args:
            stdout: The run's events.
            stderr: The run's log.
            observe: Is told what the run writes.
            relayed: Whether the relay counts the failures, however many it allows.
        """
        self.stop: str | None = None
        self.log_errors: list[str] = []
        self._stdout = Tail(stdout)
        self._stderr = Tail(stderr)
        self._observe = observe
        self._relayed = relayed
        self._errors_in_a_row = 0

    def look(self) -> None:
        """Take in what has been written since the last look."""
        for line in self._stdout.lines():
            self._event_line(mask(line))
        for line in self._stderr.lines():
            self._stderr_line(line)

    def end(self, reason: str) -> None:
        """Have the run ended; the first reason stays."""
        self.stop = self.stop or reason

    def _event_line(self, line: str) -> None:
        for event in json_lines(line):
            if event.get("type") == "step_finish":
                self._errors_in_a_row = 0
            for record in event_records(event):
                self._observe(record)

    def _stderr_line(self, line: str) -> None:
        fields = parse_log_line(line)
        if not fields:
            # opencode goes on with its default agent, all tools allowed.
            if "Falling back to default agent" in line:
                self.end("agent")
            return
        if fields.get("level") == "ERROR" and fields.get("message") == "stream error":
            self.log_errors.append(fields.get("error.error", ""))
            self._errors_in_a_row += 1
            if self._errors_in_a_row > TOLERATED_ERRORS and not self._relayed:
                self.end("failing")
