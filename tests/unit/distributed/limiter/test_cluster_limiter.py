"""The limiters of a process that is not on a cluster (with one: tests/distributed)."""

from __future__ import annotations

import asyncio

import pytest

from chutes_opencode.distributed.limiter.cluster_limiter import cluster_limiters
from chutes_opencode.distributed.limiter.limiter_actor import actor_name
from chutes_opencode.errors import ConfigurationError


def test_without_a_connection_to_ray_nobody_waits_and_no_cluster_is_started() -> None:
    limiter = cluster_limiters("node")("https://api#12345678")

    with pytest.raises(ConfigurationError, match="not connected to a Ray cluster"):
        asyncio.run(asyncio.wait_for(limiter.acquire(), 60))


def test_the_name_of_the_actor_holds_the_account() -> None:
    assert actor_name("https://api#12345678") == "limiter:https://api#12345678"
