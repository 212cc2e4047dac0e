"""The look-up: which models a provider has, from memory, disk or the provider itself.

A list that is fresh is used as it is. One that is old is fetched again: by one process of all, in
the background, and held up for only where this process has not looked before. While the provider
fails the old list goes on being used, whatever its age; where there is none, what the registry
names is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from chutes_opencode.catalog.cache import Cache, Record
from chutes_opencode.catalog.comparison import compare_listings
from chutes_opencode.catalog.discovery import fetch_models
from chutes_opencode.catalog.listing import Difference, Listing, describe_age
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import bare, qualified, renamed, unknown_model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.catalog.resolution import (
    as_sent,
    find_offered,
    saved_alias,
    unlisted_model,
)
from chutes_opencode.catalog.sync import RETRY_SECONDS, Fetch, Log, SyncedList
from chutes_opencode.catalog.totals import LookupStats

HOLD_SECONDS = 2.0
"""How long a look-up waits for the provider when there is a list already."""
HOLD_EMPTY_SECONDS = 10.0
"""How long it waits when there is none."""

Waited = Literal["no", "fetched", "in vain", "too long"]
"""Whether a look-up waited for a fetch, and for what."""


class ModelLookup:
    """The models of one provider at one base URL.

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
        auto_refresh: bool = True,
        model_filter: Sequence[str] = (),
        extra_models: Sequence[str] = (),
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
            auto_refresh: False: only `refresh` fetches.
            model_filter: Wildcards of the ids to offer; empty: all.
            extra_models: Names to accept that are in no list (aliases saved at the provider).
            clock: Seconds since 1970.
            fetch: How to get a list.
            log: Is told of each fetch and of what is odd.
        """
        self._provider = provider
        self._auto_refresh = auto_refresh
        self._extra_models = tuple(extra_models)
        self._list = SyncedList(
            provider,
            base_url,
            cache=cache,
            key=key,
            refresh_interval=refresh_interval,
            model_filter=model_filter,
            clock=clock,
            fetch=fetch,
            log=log,
        )
        self._served = False
        self._known: tuple[Model, ...] = ()
        names = [bare(provider.id, name) for name in self._extra_models]
        self._unlisted = {name: unlisted_model(name) for name in names}

    @property
    def known(self) -> tuple[Model, ...]:
        """The models of the last answer, and what else was resolved, without looking again."""
        return (*self._known, *self._unlisted.values())

    @property
    def stats(self) -> LookupStats:
        """The counts of this instance."""
        return self._list.counter.stats

    @property
    def totals(self) -> LookupStats:
        """The counts of all processes since the cache was cleared, these included."""
        return self._list.counter.totals

    async def listing(self) -> Listing:
        """Return the models that there are; trouble is told in the answer's `problems`.

        It waits for the provider for 2 s at most, for 10 s where there is no list yet.
        """
        began = time.perf_counter()
        record = self._list.read()
        waited: Waited = "no"
        if self._may_fetch() and not self._list.is_fresh(record):
            fetching = self._list.start()
            if not self._served:
                waited = await _wait(fetching, HOLD_SECONDS if record else HOLD_EMPTY_SECONDS)
        if self._has_list:
            hit = waited == "no" and record is not None
            # A short process must leave its first look-up behind.
            self._list.counter.add(LookupStats(1, int(hit)), save=not self._served)
        self._served = True
        return self._answer(began, waited)

    async def refresh(self) -> Listing:
        """Fetch now, however fresh the list is; with what changed in `changes`."""
        began = time.perf_counter()
        before = self._list.offered if self._list.read() else None
        waited: Waited = "no"
        if self._has_list:
            waited = "fetched" if await self._list.sync() else "in vain"
            self._list.counter.save()
        listing = self._answer(began, waited)
        if before is None or waited != "fetched":
            return listing
        return replace(listing, changes=compare_listings(before, listing))

    async def resolve(self, asked: str) -> Model:
        """Return the model that a string names, with or without the provider's prefix.

        Without a list nothing is refused: the provider itself will judge the name.

        Returns:
            The model; its `id` is what to send.

        Raises:
            ModelNotFoundError: The list has no such model, or `model_filter` hides it.
        """
        began = time.perf_counter()
        listing = await self.listing()
        found = find_offered(asked, listing, self._extra_models, self._provider)
        if found is None and (listing.age_s or 0) > RETRY_SECONDS and self._may_fetch():
            # It may be newer than the list; what was waited for that list counts.
            left = max(0.0, HOLD_SECONDS - (time.perf_counter() - began))
            await _wait(self._list.start(however_fresh=True), left)
            listing = self._answer(time.perf_counter(), "no")
            found = find_offered(asked, listing, self._extra_models, self._provider)
        if found is None:
            return self._accepted(asked, listing)
        self._tell_renames(found, listing)
        return found

    async def diff(self) -> Difference:
        """Fetch, without keeping it, and compare with the last list that was different."""
        record = self._list.read()
        before = self._list.offered
        if record is None:
            return Difference(problems=("no list is kept to compare with: refresh first",))
        fetched = await self._list.ask()
        now = self._list.offer(fetched.models) if fetched.models else before
        changes, since = compare_listings(before, now), record.fetched_at
        if not changes and (earlier := self._list.earlier(record)):
            changes, since = compare_listings(earlier[0], now), earlier[1]
        return Difference(changes, since, fetched.problems)

    def clear(self) -> bool:
        """Forget the list, in memory and on disk; return whether there was one.

        Raises:
            ConfigurationError: It cannot be removed.
        """
        self._served = False
        self._known = ()
        return self._list.clear()

    def close(self) -> None:
        """Add this instance's counts to those of all processes."""
        self._list.counter.save()

    @property
    def _has_list(self) -> bool:
        """Whether the provider has a list that can be asked for."""
        return self._provider.discovery_path is not None

    def _may_fetch(self) -> bool:
        return self._has_list and self._auto_refresh and not self._list.is_paused()

    def _tell_renames(self, found: Model, listing: Listing) -> None:
        """Warn of names that are accepted though the list has a newer one."""
        if "tee_renames" not in self._provider.quirks:
            return
        for name in found.id.split(","):
            if new_id := renamed(name, listing):
                self._list.warn_once(
                    f"{name} is now {qualified(self._provider.id, new_id)}: "
                    "the old name is understood for a while only"
                )

    def _accepted(self, asked: str, listing: Listing) -> Model:
        """Return a model that is in no list, where nothing speaks against it."""
        provider, everything = self._provider, self._list.models
        name = as_sent(asked, provider) if listing.source == "fallback" else None
        if name is None and (name := saved_alias(asked, everything, provider)):
            self._list.warn_once(
                f"{name!r} is in no list and is sent as an alias saved in your account; "
                "name it in extra_models to say so"
            )
        if name:
            return self._unlisted.setdefault(name, unlisted_model(name))
        raise unknown_model(
            asked,
            listing,
            provider_id=provider.id,
            quirks=provider.quirks,
            hidden=[model for model in everything if model not in listing],
        )

    def _answer(self, began: float, waited: Waited) -> Listing:
        record = self._list.read()
        if record is None:
            named = (bare(self._provider.id, name) for name in self._extra_models)
            # The registry's are ids, which may begin with the provider's own (`openrouter/auto`).
            ids = dict.fromkeys((*self._provider.default_models, *named))
            listing = Listing(tuple(map(unlisted_model, ids)), problems=self._missing())
        else:
            age = max(0.0, self._list.clock() - record.fetched_at)
            problems = (*record.problems, *self._staleness(record, age, waited))
            listing = Listing(self._list.offered, "cache", age, record.fetched_at, problems)
            if waited == "fetched":
                listing = replace(listing, source="api", problems=self._list.problems)
        self._known = listing.models
        if problem := self._list.cache.problem:
            listing = replace(listing, problems=(*listing.problems, problem))
        return replace(listing, seconds=time.perf_counter() - began)

    def _staleness(self, record: Record, age: float, waited: Waited) -> tuple[str, ...]:
        """Say why an old list is used where a new one was wanted."""
        wanted = waited == "in vain" or not self._list.is_fresh(record)
        failure = self._list.cache.read_failure() if wanted else None
        if failure is None and waited != "too long":
            return ()
        reason = failure.problems if failure else (self._silence,)
        return (*reason, f"the list in use is {describe_age(age)} old")

    def _missing(self) -> tuple[str, ...]:
        """Say why there is no list."""
        if not self._has_list:
            return ()
        if failure := self._list.cache.read_failure():
            return failure.problems
        if self._auto_refresh:
            return (self._silence,)
        problem = "no model list is cached, and auto_refresh is off: only a refresh fetches one"
        self._list.warn_once(problem)
        return (problem,)

    @property
    def _silence(self) -> str:
        return f"{self._list.base_url} has not answered yet"


async def _wait(fetching: asyncio.Task[bool], seconds: float) -> Waited:
    """Wait for a fetch, but not for ever; it goes on."""
    await asyncio.wait({fetching}, timeout=seconds)
    if not fetching.done():
        return "too long"
    return "fetched" if fetching.result() else "in vain"
