"""What the simulator remembers between requests: counts, limits, warm models, bill, requests."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable

from chutes_opencode.simulator.answers import Fault
from chutes_opencode.simulator.billing import Ledger
from chutes_opencode.simulator.gate import Gate
from chutes_opencode.simulator.messages import Message
from chutes_opencode.simulator.models import ModelTable, Row
from chutes_opencode.simulator.recording import Recorder
from chutes_opencode.simulator.script import Scenario
from chutes_opencode.simulator.tokens import PrefixCache

_MINUTE = 60.0


class SimulatorState:
    """All that changes while the simulator runs. Thread-safe."""

    def __init__(
        self, scenario: Scenario, api_token: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with nothing remembered; `clock` gives seconds for the limit per minute."""
        self.scenario = scenario
        self.table = ModelTable(scenario.models)
        self.api_tokens = frozenset((api_token, *scenario.extra_api_tokens))
        self.recorder = Recorder()
        self.ledger = Ledger()
        self.gate = Gate()
        self._clock = clock
        self._lock = threading.Lock()
        self._prefixes = PrefixCache()
        self._in_flight: Counter[str] = Counter()
        self._forget()

    def reset(self) -> None:
        """Forget requests, bill, counts of faults, warm-ups and limits; requests in flight run on.

        They still count as in flight, and what they cost goes on the new bill.
        """
        self.recorder.clear()
        self.ledger.clear()
        with self._lock:
            self._prefixes.clear()
            self._forget()

    def over_rate(self, key: str) -> bool:
        """Count a chat request of `key`; tell whether it is over the limit per minute."""
        limit = self.scenario.requests_per_minute
        if limit is None:
            return False
        now = self._clock()
        with self._lock:
            times = self._recent[key]
            while times and times[0] <= now - _MINUTE:
                times.popleft()
            if len(times) >= limit:
                return True
            times.append(now)
            return False

    def enter(self, key: str) -> bool:
        """Take a place for a request of `key`; False when all are taken. Pair with `leave`."""
        limit = self.scenario.max_concurrency
        with self._lock:
            if limit is not None and self._in_flight[key] >= limit:
                return False
            self._in_flight[key] += 1
            self._used[key] += 1
            return True

    def leave(self, key: str) -> None:
        """Give a place back."""
        with self._lock:
            self._in_flight[key] -= 1

    def used(self, key: str) -> int:
        """Chat requests of `key` that were let in."""
        with self._lock:
            return self._used[key]

    def fault_is_due(self, counter: Hashable, skip: int, times: int | None) -> bool:
        """Count one request under `counter`; tell whether it is among those that fail."""
        with self._lock:
            number = self._seen[counter]
            self._seen[counter] += 1
        return number >= skip and (times is None or number < skip + times)

    def warm_up(self, row: Row) -> None:
        """Bring up an instance of the model: its `503-cold` fault ends."""
        with self._lock:
            self._warm.add(row.get("id"))

    def is_over(self, fault: Fault, row: Row) -> bool:
        """Tell whether a warm-up has ended this fault of the model."""
        with self._lock:
            return fault.name == "503-cold" and row.get("id") in self._warm

    def cached_tokens(
        self, session: tuple[str, str, str | None], messages: list[Message], tools: list[object]
    ) -> int:
        """Admit a request to its session's cache; see `tokens` for the rule."""
        key, model, session_id = session
        if not session_id:
            return 0
        with self._lock:
            return self._prefixes.admit((key, model, session_id), messages, tools)

    def _forget(self) -> None:
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)
        self._used: Counter[str] = Counter()
        self._seen: Counter[Hashable] = Counter()
        self._warm: set[object] = set()
