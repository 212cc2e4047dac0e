"""A provider's list kept in step with the provider: what is there now, and who fetches when.

One process of all fetches, the others wait for it or use what is there. A failed fetch is told to
all, so that each need not find out for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from chutes_opencode.catalog.cache import Cache, Failure, Record, Rows
from chutes_opencode.catalog.comparison import compare_listings
from chutes_opencode.catalog.discovery import Fetched, fetch_models
from chutes_opencode.catalog.models import Model, parse_models
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.catalog.selection import matches
from chutes_opencode.catalog.totals import Counter, LookupStats
from chutes_opencode.errors import OpenCodeError

RETRY_SECONDS = 30.0
"""How long nobody asks again after a failed fetch."""
LOCK_SECONDS = 15.0
"""How long a process waits for the one that fetches; longer than a fetch can take."""

Log = Callable[..., None]
"""`log(level, event, **fields)`; the level is "info" or "warning"."""

Settled = Callable[[Record | None], bool]
"""Tells, from the record before, whether nothing is left to fetch."""


class Fetch(Protocol):
    """How to get a list: `discovery.fetch_models`, or what a test puts in its place."""

    async def __call__(
        self, provider: Provider, base_url: str, key: str | None = None, *, etag: str | None = None
    ) -> Fetched:
        """Return the list, or what kept it from coming; bounded in time, never raises."""
        ...


class SyncedList:
    """The list of one provider at one base URL, as it is in the cache.

    For one event loop at a time; any number of instances and processes share the cache.
    """

    def __init__(
        self,
        provider: Provider,
        base_url: str,
        *,
        cache: Cache,
        key: Callable[[], str | None] = lambda: None,
        refresh_interval: float = 3600.0,
        model_filter: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        fetch: Fetch = fetch_models,
        log: Log = lambda *_args, **_fields: None,
    ) -> None:
        """Remember where to look; nothing is read or fetched yet.

        Args:
            provider: The registry's entry.
            base_url: The provider's root, without a slash at its end.
            cache: Where the list is kept.
            key: Read anew for each fetch; None: there is no key.
            refresh_interval: Seconds for which a list is fresh.
            model_filter: Wildcards of the ids to offer; empty: all.
            clock: Seconds since 1970.
            fetch: How to get a list.
            log: Is told of each fetch and of what is odd.
        """
        self.provider = provider
        self.base_url = base_url
        self.cache = cache
        self.clock = clock
        self.counter = Counter(cache.totals)
        self.models: tuple[Model, ...] = ()
        self.offered: tuple[Model, ...] = ()
        self.problems: tuple[str, ...] = ()
        self._key = key
        self._refresh_interval = refresh_interval
        self._model_filter = tuple(model_filter)
        self._fetch = fetch
        self._log = log
        self._warned: set[str] = set()
        self._parsed: Record | None = None
        self._running: asyncio.Task[bool] | None = None

    def read(self) -> Record | None:
        """Return the record that there is now, None if there is no model in it.

        Its models are then in `models`, those that `model_filter` lets through in `offered`.
        """
        record = self.cache.read()
        if record is not self._parsed:
            self.models = () if record is None else self._models(record.rows)
            self.offered = self.offer(self.models)
            self._parsed = record
        return record if self.models else None

    def earlier(self, record: Record) -> tuple[tuple[Model, ...], float] | None:
        """Return the models offered by the last list that was different, and its time."""
        if record.previous is None:
            return None
        rows, fetched_at = record.previous
        return self.offer(self._models(rows)), fetched_at

    def offer(self, models: Sequence[Model]) -> tuple[Model, ...]:
        """Return the models that `model_filter` lets through."""
        return tuple(m for m in models if matches(m.id, self._model_filter, self.provider.id))

    def is_fresh(self, record: Record | None) -> bool:
        """Tell whether a list need not be fetched again."""
        # What is from the future says nothing about its age.
        return record is not None and (
            0 <= self.clock() - record.fetched_at < self._refresh_interval
        )

    def is_paused(self) -> bool:
        """Tell whether a fetch has just failed."""
        failure = self.cache.read_failure()
        return failure is not None and 0 <= self.clock() - failure.failed_at < RETRY_SECONDS

    def start(self, *, however_fresh: bool = False) -> asyncio.Task[bool]:
        """Return the running fetch, begun if there is none; it goes on when nobody waits.

        Args:
            however_fresh: Fetch though the list need not be.
        """

        def settled(seen: Record | None) -> bool:
            record = self.read()
            changed = record is not None and record is not seen
            return changed or self.is_paused() or (not however_fresh and self.is_fresh(record))

        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self.sync(settled))
        return self._running

    async def sync(self, settled: Settled = lambda _seen: False) -> bool:
        """Fetch and keep the list; return whether one came.

        Args:
            settled: Asked while another process fetches: whether that one's result will do.
        """
        seen = self.read()
        async with self.cache.lock(LOCK_SECONDS, lambda: settled(seen)) as needed:
            return needed and self._keep(await self.ask(seen))

    async def ask(self, record: Record | None = None) -> Fetched:
        """Fetch without keeping.

        Args:
            record: The list that there is already: the answer may be that it has not changed.
        """
        try:
            key = self._key()
        except OpenCodeError as error:
            return Fetched(problems=(f"the key cannot be read: {error.raw_message}",))
        etag = record.etag if record else None
        return await self._fetch(self.provider, self.base_url, key, etag=etag)

    def clear(self) -> bool:
        """Forget the list, in memory and on disk; return whether there was one.

        Raises:
            ConfigurationError: It cannot be removed.
        """
        self.problems = ()
        self.counter.reset()
        return self.cache.clear()

    def warn_once(self, text: str) -> None:
        """Log a warning that this instance has not logged yet."""
        if text not in self._warned:
            self._warned.add(text)
            self._log("warning", text, provider=self.provider.id)

    def _models(self, rows: Rows) -> tuple[Model, ...]:
        return parse_models(list(rows), quirks=self.provider.quirks).models

    def _keep(self, fetched: Fetched) -> bool:
        """Write down what a fetch brought; return whether that is a list."""
        old, now = self.read(), self.clock()
        record = None
        if fetched.models:
            record = Record(
                rows=fetched.rows,
                fetched_at=now,
                expires_at=now + self._refresh_interval,
                etag=fetched.etag,
                problems=fetched.row_problems,
                previous=self._previous(old, fetched.models),
            )
        elif fetched.not_modified and old is not None:
            record = replace(old, fetched_at=now, expires_at=now + self._refresh_interval)
        if record is None:
            self.cache.write_failure(Failure(now, fetched.problems))
        else:
            self.cache.write(record)
        self.problems = fetched.problems
        self.counter.add(LookupStats(syncs=int(bool(record)), failed_syncs=int(not record)))
        self._tell(fetched, came=record is not None)
        return record is not None

    def _previous(self, old: Record | None, models: Sequence[Model]) -> tuple[Rows, float] | None:
        if old is None:
            return None
        changed = compare_listings(self.models, models)
        return (old.rows, old.fetched_at) if changed else old.previous

    def _tell(self, fetched: Fetched, *, came: bool) -> None:
        kept = self.read()
        rate = self.counter.stats.hit_rate
        self._log(
            "warning" if fetched.problems else "info",
            "model list fetched" if came else "model list not fetched",
            provider=self.provider.id,
            source="api" if came else ("cache" if kept else "fallback"),
            count=len(self.models),
            seconds=round(fetched.seconds, 3),
            hit_rate=None if rate is None else round(rate, 3),
            **({"problems": "; ".join(fetched.problems)} if fetched.problems else {}),
        )
        if self.cache.problem:
            self.warn_once(self.cache.problem)
