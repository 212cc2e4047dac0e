"""The verdict reads a provider's errors by that provider's own words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.credentials import key_advice
from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import (
    AuthenticationError,
    CapacityError,
    ContextOverflowError,
    OpenCodeError,
    RateLimitError,
)
from chutes_opencode.results import Exchange
from chutes_opencode.verdict import Scene, judge

FULL = "This model's maximum prompt length is 131072 but the request contains 136973 tokens."


def error_of(evidence: Evidence, provider: str) -> OpenCodeError | None:
    entry = find_provider(provider)
    return judge(
        evidence,
        price=None,
        scene=Scene(datetime.now(UTC), entry.patterns),
        timeout_seconds=1,
        key_hint=key_advice(entry),
    ).error


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(exchanges=(Exchange(400, body=FULL),)),
        Evidence(exchanges=(Exchange(200, error=FULL),)),
        Evidence(run_error={"name": "APIError", "data": {"message": FULL, "statusCode": 400}}),
    ],
    ids=["answer", "stream", "opencode"],
)
def test_a_full_context_is_told_by_the_providers_own_words(evidence: Evidence) -> None:
    assert type(error_of(evidence, "grok")) is ContextOverflowError
    assert type(error_of(evidence, "kimi")) is not ContextOverflowError


def test_the_words_of_chutes_mean_nothing_elsewhere() -> None:
    evidence = Evidence(exchanges=(Exchange(429, body="infra_overload"),))

    assert type(error_of(evidence, "chutes")) is CapacityError
    assert type(error_of(evidence, "openrouter")) is RateLimitError


def test_a_refused_key_is_hinted_at_by_its_own_name() -> None:
    evidence = Evidence(exchanges=(Exchange(401, body="no"),))
    chutes, grok = error_of(evidence, "chutes"), error_of(evidence, "grok")

    assert isinstance(chutes, AuthenticationError)
    assert isinstance(grok, AuthenticationError)
    assert chutes.hint == AuthenticationError.default_hint
    assert grok.hint == (
        "Set XAI_API_KEY, or pass api_token= to load_settings(); get a key at "
        "https://console.x.ai (it looks like xai-…)."
    )
