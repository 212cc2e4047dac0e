"""The bill: what each accepted request costs, and totals per key, model and session.

A completion is billed once its status line is out: its input tokens and whatever output was sent,
so a stream that dies, stalls or is abandoned by the client costs what it had got to. Refusals
(error statuses, HTML or an error on status 200) cost nothing. With prices in USD per million
tokens:

    cost = ((input - cached) * prompt + cached * input_cache_read + output * completion) / 1e6

Input tokens include the cached ones, output tokens include reasoning.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

MAX_ENTRIES = 100_000

Outcome = Literal["complete", "died", "aborted"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of a request."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def cost_usd(self, prices: tuple[float, float, float]) -> float:
        """Cost at `prices` (input, cached input, output; USD for a million tokens)."""
        prompt, cached, completion = prices
        fresh = self.input - self.cached
        return (fresh * prompt + self.cached * cached + self.output * completion) / 1e6


@dataclass(frozen=True, slots=True)
class BillEntry:
    """One billed request; `outcome` tells whether its answer was whole.

    `died`: the simulator broke the stream. `aborted`: the client or the simulator's stop did.
    """

    key: str
    model: str
    session_id: str | None
    parent_session_id: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BillTotal:
    """Sums over billed requests."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0

    def plus(self, entry: BillEntry) -> BillTotal:
        """These sums with one more request."""
        return BillTotal(
            self.requests + 1,
            self.input_tokens + entry.input_tokens,
            self.cached_tokens + entry.cached_tokens,
            self.output_tokens + entry.output_tokens,
            self.reasoning_tokens + entry.reasoning_tokens,
            self.cost_usd + entry.cost_usd,
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """The state of the account at one moment.

    `total`, `by_key` and `by_model` cover everything since the start (or `reset`); `entries` and
    `by_session` the latest 100,000 requests and sessions. Keys are named by `key_label`; requests
    without a session are under "".
    """

    entries: tuple[BillEntry, ...]
    total: BillTotal
    by_key: dict[str, BillTotal]
    by_model: dict[str, BillTotal]
    by_session: dict[str, BillTotal]


class Ledger:
    """Collects bill entries. Thread-safe."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES) -> None:
        """Start with nothing owed."""
        self._lock = threading.Lock()
        self._max_entries = max_entries
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries: deque[BillEntry] = deque(maxlen=self._max_entries)
            self._total = BillTotal()
            self._by_key: OrderedDict[str, BillTotal] = OrderedDict()
            self._by_model: OrderedDict[str, BillTotal] = OrderedDict()
            self._by_session: OrderedDict[str, BillTotal] = OrderedDict()

    def add(self, entry: BillEntry) -> None:
        """Book one request."""
        with self._lock:
            self._entries.append(entry)
            self._total = self._total.plus(entry)
            _book(self._by_key, entry.key, entry)
            _book(self._by_model, entry.model, entry)
            _book(self._by_session, entry.session_id or "", entry)
            if len(self._by_session) > self._max_entries:
                self._by_session.popitem(last=False)

    def bill(self) -> Bill:
        """The bill as it stands."""
        with self._lock:
            return Bill(
                tuple(self._entries),
                self._total,
                dict(self._by_key),
                dict(self._by_model),
                dict(self._by_session),
            )


def key_label(token: str) -> str:
    """Name of a key on the bill, from which the key cannot be told: `cpk_…cdef/1a2b3c4d`."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{token[:4]}…{token[-4:]}/{digest[:8]}"


def _book(totals: OrderedDict[str, BillTotal], name: str, entry: BillEntry) -> None:
    totals[name] = totals.pop(name, BillTotal()).plus(entry)
