"""The look-up: which models a provider has now."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from chutes_opencode.catalog.discovery import Listing, fetch_models
from chutes_opencode.catalog.models import Model, nearest, same_model
from chutes_opencode.errors import ModelNotFoundError

# A list that cannot be had must not hold up every prompt anew.
RETRY_SECONDS = 30.0

Fetch = Callable[[str, str | None], Awaitable[Listing]]


class Catalog:
    """The models of one provider at one URL, fetched once and again when they are old.

    Belongs to one event loop. After a failed fetch it asks again, but not for `RETRY_SECONDS`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        refresh_interval: float = 3600.0,
        fetch: Fetch = fetch_models,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember where to look; nothing is fetched yet.

        Args:
            base_url: The provider's OpenAI-compatible root.
            refresh_interval: Seconds for which a list is good.
            fetch: How to get a list.
            clock: Monotonic seconds.
        """
        self.base_url = base_url
        self.problems: tuple[str, ...] = ()
        self._refresh_interval = refresh_interval
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._models: tuple[Model, ...] = ()
        self._fetched_at: float | None = None
        self._ask_again_at = -math.inf

    @property
    def known(self) -> tuple[Model, ...]:
        """The models of the last look-up, without asking again."""
        return self._models

    async def models(self, api_token: str | None = None) -> tuple[Model, ...]:
        """Return the models that exist; empty when the list cannot be had (see `problems`)."""
        async with self._lock:
            stale = self._fetched_at is None or self._age() > self._refresh_interval
            if stale and self._clock() >= self._ask_again_at:
                await self._load(api_token)
            return self._models

    async def refresh(self, api_token: str | None = None) -> tuple[Model, ...]:
        """Fetch now, however fresh the list is."""
        async with self._lock:
            await self._load(api_token)
            return self._models

    async def resolve(self, asked: str, api_token: str | None = None) -> Model:
        """Return the model that a string names.

        Without a list nothing can be refused: the provider itself will judge the name.

        Raises:
            ModelNotFoundError: The list has no such model; `suggestions` names the nearest.
        """
        models = await self.models(api_token)
        found = same_model(asked, models)
        if found is not None:
            # The caller's spelling goes out: routing suffix and old name are for the server.
            return replace(found, id=asked)
        if not models:
            return Model(asked)
        raise ModelNotFoundError(
            raw_message=f"unknown model {asked!r}",
            suggestions=nearest(asked, models),
            model=asked,
        )

    def _age(self) -> float:
        return self._clock() - (self._fetched_at or 0.0)

    async def _load(self, api_token: str | None) -> None:
        listing = await self._fetch(self.base_url, api_token)
        self.problems = listing.problems
        if not listing.models:
            self._ask_again_at = self._clock() + RETRY_SECONDS
        else:
            self._models, self._fetched_at = listing.models, self._clock()
