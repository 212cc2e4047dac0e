"""What the simulator was asked: the latest requests, kept within a bound of memory."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_REQUESTS = 10_000
MAX_BYTES = 128 * 1024 * 1024
_SECRET_HEADERS = ("authorization", "x-api-key")


class Headers(Mapping[str, str]):
    """Header values by name in any case; keys are masked in its repr, not in its values."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Take ASGI header pairs; values of a repeated name are joined by ", "."""
        self._values: dict[str, str] = {}
        for raw_name, raw_value in pairs:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            known = self._values.get(name)
            self._values[name] = value if known is None else f"{known}, {value}"

    def __getitem__(self, name: str) -> str:
        """Value of a header."""
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        """Names, in lower case."""
        return iter(self._values)

    def __len__(self) -> int:
        """Number of different names."""
        return len(self._values)

    def __repr__(self) -> str:
        """Names and values, keys masked."""
        shown = {
            name: "***" if name in _SECRET_HEADERS else value
            for name, value in self._values.items()
        }
        return f"Headers({shown!r})"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One HTTP request as it came in.

    Attributes:
        method: in capitals.
        path: without the query.
        query: after the `?`, raw.
        headers: all of them, the key included.
        body: the bytes.
        model: the `model` of a JSON body, else None.
        session_id: value of `x-session-id`, else None.
        parent_session_id: value of `x-parent-session-id`, else None.
        time: `time.monotonic()` when the body had been read.
    """

    method: str
    path: str
    query: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    model: str | None
    session_id: str | None
    parent_session_id: str | None
    time: float

    @property
    def json(self) -> Any:
        """The body parsed as JSON; None when it is not JSON."""
        return parse_json(self.body)


class Recorder:
    """The latest 10,000 requests, fewer when their bodies exceed 128 MiB. Thread-safe."""

    def __init__(self, *, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque()
        self._bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes

    def add(self, request: RecordedRequest) -> None:
        """Keep a request; the oldest ones go when the bounds are passed."""
        with self._lock:
            self._requests.append(request)
            self._bytes += len(request.body)
            while len(self._requests) > self._max_requests or (
                self._bytes > self._max_bytes and len(self._requests) > 1
            ):
                self._bytes -= len(self._requests.popleft().body)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._requests.clear()
            self._bytes = 0

    def all(self) -> tuple[RecordedRequest, ...]:
        """The requests that are kept, oldest first."""
        with self._lock:
            return tuple(self._requests)


def parse_json(body: bytes) -> Any:
    """Parse a JSON body; None when it is not JSON (or `null`)."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
