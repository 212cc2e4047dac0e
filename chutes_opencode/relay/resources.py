"""What all prompts of a relay share: connections, a limiter for each account, known prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from chutes_opencode.relay.estimate import PrefixMemory
from chutes_opencode.relay.limiter import (
    AdaptiveLimiter,
    Limiter,
    LimiterFactory,
    LimiterStats,
)
from chutes_opencode.relay.terms import Upstream
from chutes_opencode.relay.upstream import UpstreamClient

_DIGEST_CHARS = 8


@dataclass(slots=True)
class _Process:
    """What holds for all relays of this process."""

    make: LimiterFactory


def _adaptive(_account: str) -> Limiter:
    return AdaptiveLimiter()


_process = _Process(_adaptive)


def use_limiters(factory: LimiterFactory | None) -> None:
    """Have this process's relays make their limiters with `factory`; None: adaptive ones.

    Best before the relay starts: an account that a running relay knows keeps its limiter.
    """
    _process.make = factory or _adaptive


class Resources:
    """What all prompts of a relay share; belongs to its event loop.

    Attributes:
        client: Sends requests to providers.
        prefixes: What sessions have sent before, for estimates of cached tokens.
    """

    def __init__(self, make_limiter: LimiterFactory | None = None) -> None:
        """Start with nothing open.

        Args:
            make_limiter: Makes the limiter of an account; None: this process's factory
                (`use_limiters`), asked for each account that is new.
        """
        self.client = UpstreamClient()
        self.prefixes = PrefixMemory()
        self._make_limiter = make_limiter or (lambda account: _process.make(account))
        self._limiters: dict[str, Limiter] = {}

    def limiter(self, upstream: Upstream, key: str | None) -> Limiter:
        """Return the limiter of an account: of a key at a base URL."""
        account = account_name(upstream.base_url, key)
        if account not in self._limiters:
            self._limiters[account] = self._make_limiter(account)
        return self._limiters[account]

    def stats(self) -> Mapping[str, LimiterStats]:
        """Tell what each account's limiter knows, by the account's name; from any thread."""
        return {account: limiter.stats() for account, limiter in list(self._limiters.items())}


def account_name(base_url: str, key: str | None) -> str:
    """Name an account so that it can be shown: the base URL and a few digits of a digest."""
    digest = hashlib.sha256((key or "").encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{base_url}#{digest}"
