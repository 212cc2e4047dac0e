"""When to come back, and who to name it to: what an answer tells besides its class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chutes_opencode.classify import (
    classify_response,
)
from chutes_opencode.errors import (
    BillingError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from chutes_opencode.patterns import (
    BodyPattern,
    ProviderPatterns,
)
from chutes_opencode.retry import RetryPolicy, Wait, decide

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


def chutes(detail: object) -> str:
    return json.dumps({"detail": detail})


def answer(
    status: int, body: str | None, headers: Mapping[str, str] | None = None, **more: Any
) -> OpenCodeError:
    return classify_response(status, body, headers or {}, now=NOW, **more)


def wait_of(error: OpenCodeError) -> float | None:
    """Seconds that the default policy waits after a first failure; None: it does not try again."""
    decision = decide(RetryPolicy(), error, 1, now=NOW, random01=0.5)
    return decision.seconds if isinstance(decision, Wait) else None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"RETRY-AFTER": " 0 "}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "-1"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sat, 21 Nov 2026 18:30:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 19:30:30 +0100"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 18:30:30 -0000"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 18:00:00 GMT"}, 0.0),
        ({"retry-after": "1e300"}, 366 * 86400.0),
    ],
)
def test_a_hint_when_to_come_back_is_honoured(headers: dict[str, str], seconds: float) -> None:
    limited, failed = answer(429, "", headers), answer(503, "", headers)

    assert isinstance(limited, RateLimitError)
    assert isinstance(failed, ServerError)
    assert limited.reset_time == NOW + timedelta(seconds=seconds)
    assert failed.retry_after == seconds


@pytest.mark.parametrize(
    "told", ["", "soon", "nan", "inf", "Sat, 99 Nov 2026 18:30:30 GMT", "1 Jan 0001 00:00:00 +9999"]
)
def test_an_illegible_hint_is_no_hint(told: str) -> None:
    error = answer(429, "", {"retry-after": told})

    assert isinstance(error, RateLimitError)
    assert error.reset_time is None
    assert wait_of(error) == 60.0


@pytest.mark.parametrize(
    ("status", "detail", "headers", "reset_time"),
    [
        (402, {"message": "x", "quota_reset_timestamp": "2026-11-22T00:00:00Z"}, {}, MIDNIGHT),
        (402, {"message": "x", "quota_reset_timestamp": "2026-11-22T00:00:00"}, {}, MIDNIGHT),
        (402, {"message": "x", "quota_reset_timestamp": MIDNIGHT.timestamp()}, {}, MIDNIGHT),
        (402, {"message": "x", "reset_at": "2026-11-22T00:00:00Z"}, {}, MIDNIGHT),
        (402, {"message": "x", "quota_reset_timestamp": "tomorrow"}, {}, None),
        (402, {"message": "x", "quota_reset_timestamp": 1e300}, {}, None),
        (402, {"message": "x", "quota_reset_timestamp": ["x"]}, {}, None),
        (402, "no balance", {}, None),
        (402, "no balance", {"retry-after": "60"}, NOW + timedelta(seconds=60)),
        (429, "Free models limit reached for today", {}, MIDNIGHT),
        (429, "Free models limit reached for today", {"retry-after": "0"}, NOW),
    ],
)
def test_a_used_quota_tells_when_it_is_fresh_again(
    status: int, detail: object, headers: dict[str, str], reset_time: datetime | None
) -> None:
    error = answer(status, chutes(detail), headers)

    assert isinstance(error, BillingError)
    assert error.reset_time == reset_time


def test_a_day_ends_at_midnight_in_utc_wherever_we_are() -> None:
    there = datetime.fromisoformat("2026-11-22T03:00:00+05:00")

    error = classify_response(429, chutes("Free models limit reached for today"), {}, now=there)

    assert isinstance(error, BillingError)
    assert error.reset_time == MIDNIGHT


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"X-Request-ID": "a", "x-chutes-invocationid": "b"}, "a"),
        ({"X-Chutes-InvocationID": "b"}, "b"),
        ({"x-request-id": "", "x-chutes-invocationid": "b"}, "b"),
        ({}, None),
    ],
)
def test_the_providers_id_of_the_request_is_kept(
    headers: dict[str, str], request_id: str | None
) -> None:
    assert answer(500, "", headers).request_id == request_id


def test_another_provider_brings_its_own_words() -> None:
    acme = ProviderPatterns(
        bodies=(BodyPattern((418,), r"^out of tea", BillingError, until_midnight=True),),
        reset_fields=("fresh_at",),
        request_id_headers=("x-acme",),
    )

    error = answer(418, "Out of tea", {"x-acme": "1", "x-request-id": "2"}, patterns=acme)

    assert isinstance(error, BillingError)
    assert (error.reset_time, error.request_id) == (MIDNIGHT, "1")
    assert type(answer(503, chutes("This chute is currently disabled."), patterns=acme)) is (
        ServerError
    )
