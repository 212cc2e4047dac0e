"""The catalogue for callers without an event loop, and the look-up that a process shares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chutes_opencode import background
from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.comparison import Changes
from chutes_opencode.catalog.listing import Difference, Listing, Source
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider, find_provider
from chutes_opencode.catalog.selection import Selection, select
from chutes_opencode.catalog.sync import Log
from chutes_opencode.catalog.totals import LookupStats
from chutes_opencode.logs import make_logger
from chutes_opencode.settings import Settings, load_settings

__all__ = ["Catalog", "Changes", "Difference", "Listing", "LookupStats", "Source", "shared_lookup"]

LOG_NAME = "chutes_opencode"

_lookups: dict[tuple[object, ...], tuple[Provider, ModelLookup]] = {}


class Catalog:
    """Which models a provider has, always current.

    The list is kept on disk for all processes, fetched again when it is old, and used on when it
    cannot be. For any thread; in a coroutine it blocks for a look-up's time, mostly well below a
    millisecond.

    Example::

        catalog = Catalog()
        for model in catalog.models():
            print(model.id, model.context_length, model.price)
    """

    def __init__(
        self, provider: str | Provider = "chutes", *, settings: Settings | None = None
    ) -> None:
        """Name the provider; nothing is read or fetched yet.

        Args:
            provider: Registry id, or an entry.
            settings: What `load_settings` returns; None: made now.

        Raises:
            ConfigurationError: There is no such provider, or it has no URL.
        """
        settings = settings or load_settings()
        if isinstance(provider, str):
            provider = find_provider(provider, files=settings.provider_files())
        self.provider = provider
        self.settings = settings.for_provider(provider)

    def models(self, selection: Selection | Sequence[str] | None = None) -> Listing:
        """Return the models that there are; trouble is told in the answer's `problems`.

        Args:
            selection: What they must be like, or wildcards of their ids; None: all that the
                setting `model_filter` lets through.
        """
        listing = background.Job(self._lookup.listing()).result()
        if selection is None:
            return listing
        if not isinstance(selection, Selection):
            selection = Selection(wildcards=tuple(selection))
        return replace(listing, models=select(listing, selection, self.provider.id))

    def refresh(self) -> Listing:
        """Fetch now, however fresh the list is; `changes` tells what is different."""
        return background.Job(self._lookup.refresh()).result()

    def resolve(self, model_id: str) -> Model:
        """Return the model that a string names, with or without the provider's prefix.

        Args:
            model_id: Also with a routing suffix, a list of ids, or an old name.

        Returns:
            The model; its `id` is what is sent.

        Raises:
            ModelNotFoundError: There is none; `suggestions` names the nearest.
        """
        return background.Job(self._lookup.resolve(model_id)).result()

    def diff(self) -> Difference:
        """Compare what the provider lists now with its last list that was different.

        It fetches and keeps nothing: asked again, the answer is the same.
        """
        return background.Job(self._lookup.diff()).result()

    def clear(self) -> bool:
        """Forget the list, in memory and on disk; return whether there was one.

        Raises:
            ConfigurationError: It cannot be removed.
        """
        return self._lookup.clear()

    @property
    def stats(self) -> LookupStats:
        """The counts of look-ups and fetches of this process."""
        return self._lookup.stats

    @property
    def totals(self) -> LookupStats:
        """The counts of all processes since the list was last cleared."""
        return self._lookup.totals

    def __repr__(self) -> str:
        """Name provider and URL."""
        return f"Catalog({self.provider.id!r}, base_url={self.settings.base_url!r})"

    @property
    def _lookup(self) -> ModelLookup:
        return shared_lookup(self.provider, self.settings)


def shared_lookup(provider: Provider, settings: Settings) -> ModelLookup:
    """Return this process's look-up of a provider; equal settings share one.

    Args:
        provider: Whose models.
        settings: Those of `Settings.for_provider(provider)`.
    """
    choice = (settings.model_filter, settings.extra_models)
    times = (settings.auto_refresh, settings.refresh_interval)
    address = (provider.id, settings.base_url, settings.home, settings.api_token)
    # A forked child starts anew: the parent's tasks are not there.
    key = (os.getpid(), *address, *times, *choice)
    if key not in _lookups or _lookups[key][0] != provider:
        _lookups[key] = (provider, _made(provider, settings))
    return _lookups[key][1]


def _made(provider: Provider, settings: Settings) -> ModelLookup:
    def key() -> str | None:
        token = settings.with_fresh_token().api_token
        return token.get_secret_value() if token else None

    return ModelLookup(
        provider,
        settings.base_url,
        cache=Cache(settings.home, provider.id, settings.base_url),
        key=key,
        refresh_interval=settings.refresh_interval,
        auto_refresh=settings.auto_refresh,
        model_filter=settings.model_filter,
        extra_models=settings.extra_models,
        log=_log(settings),
    )


def _log(settings: Settings) -> Log:
    """Return what writes a line as `settings` want it."""

    def write(level: str, event: str, **fields: Any) -> None:
        # Making a logger imports what nobody may need.
        if level != "info" or settings.log_level in ("debug", "info"):
            log = make_logger(LOG_NAME, settings.log_level, settings.log_format)
            getattr(log, level)(event, **fields)

    return write
