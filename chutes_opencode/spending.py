"""What a prompt may spend, and where: the relay's terms, made of options and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.errors import ConfigurationError, LimitExceededError
from chutes_opencode.limits import Budget, cost_bound
from chutes_opencode.options import Options
from chutes_opencode.relay.terms import (
    ReplayKey,
    Terms,
    Upstream,
)
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.settings import Settings

# A single request is cheaper to repeat than a prompt, so the first wait is shorter.
REQUEST_WAIT_S = 0.5
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")

_of_process: dict[tuple[int, float], Budget] = {}


def process_budget(settings: Settings) -> tuple[Budget, ...]:
    """Return this process's budget, shared by all its instances; () if there is none."""
    usd = settings.max_process_cost_usd
    if usd is None:
        return ()
    # No lock, which a forked child might find held: `setdefault` is one step.
    return (_of_process.setdefault((os.getpid(), usd), Budget("max_process_cost_usd", usd)),)


def make_terms(
    options: Options,
    settings: Settings,
    models: tuple[Model, ...],
    *,
    budgets: tuple[Budget, ...],
    own_budget: Budget | None = None,
    inherited: Mapping[str, str],
    sample_index: int = 0,
) -> Terms | None:
    """Make the terms of one prompt; what its attempts have used by then is taken off later.

    Args:
        options: The instance's.
        settings: Those of the provider.
        models: The model asked for, then the fallbacks, resolved.
        budgets: Dollars that the instance's prompts share.
        own_budget: Dollars that this prompt shares with some besides.
        inherited: The environment that opencode gets, for the caller's certificates.
        sample_index: Tells equal prompts apart in the cache.

    Returns:
        None: the prompt goes without the relay.

    Raises:
        ConfigurationError: It goes without, and there is a limit in dollars.
    """
    if not options.relay:
        _refuse_limits(settings, own_budget)
        return None
    shared = (*budgets, *(() if own_budget is None else (own_budget,)))
    prices: dict[str, Price | None] = {model.id: model.price for model in models}
    limits = options.limits
    # A model on one's own machine may read a long prompt for many minutes before its first word.
    slow = settings.timeout_seconds if options.provider.local else 0.0
    return Terms(
        upstream=Upstream(
            options.provider.id,
            settings.base_url,
            key=lambda: settings.with_fresh_token().key_or_none(),
            auth=options.provider.auth,
            patterns=options.provider.patterns,
            ca_files=tuple(inherited[name] for name in CA_VARIABLES if inherited.get(name)),
            headers_seconds=max(settings.first_byte_seconds, slow),
        ),
        prices=prices,
        model=models[0].id,
        fallback_models=tuple(model.id for model in models[1:]),
        policy=replace(RetryPolicy(retries=settings.retries), base_wait_s=REQUEST_WAIT_S),
        tries_left=settings.retries,
        max_requests=limits.max_requests,
        max_tokens=limits.max_tokens,
        max_cost_usd=limits.max_cost_usd,
        budgets=tuple(dict.fromkeys(shared)),  # each is drawn on once
        idle_seconds=max(settings.idle_seconds, slow),
        replay=None if options.cache is None else ReplayKey(Path(options.cache), sample_index),
    )


def _refuse_limits(settings: Settings, own_budget: Budget | None) -> None:
    """Refuse a limit that nobody would keep, rather than ignore it."""
    if own_budget is not None:
        raise ConfigurationError(
            raw_message="budget= needs the relay",
            hint="Leave relay=False (--no-relay) out, or the budget.",
        )
    if settings.max_process_cost_usd is not None:
        raise ConfigurationError(
            raw_message="max_process_cost_usd needs the relay",
            hint="Leave relay=False out, or the setting unset.",
        )


def check_means(terms: Terms, prompt: str) -> None:
    """Refuse a prompt that nothing is left for, before an opencode is started for it.

    Raises:
        LimitExceededError: Its tokens are used up, or the dollars do not even pay for its text.
    """
    if terms.max_tokens is not None and terms.max_tokens < 1:
        raise LimitExceededError(raw_message="all tokens are used", limit="max_tokens")
    known = [price for price in terms.prices.values() if price is not None]
    least = min((cost_bound(price, len(prompt.encode()), 1) for price in known), default=0.0)
    own = terms.max_cost_usd
    for budget in (*(() if own is None else (Budget("max_cost_usd", own),)), *terms.budgets):
        budget.require(least)
