"""The limiters of a process on a cluster: one for each account, all permits from its actor."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.limiter.limiter_actor import (
    NAMESPACE,
    ActorDesk,
    actor_name,
    limiter_actor,
)
from chutes_opencode.distributed.limiter.member import MemberLimiter
from chutes_opencode.distributed.limiter.protocol import DeskClient
from chutes_opencode.relay.flow import Pace
from chutes_opencode.relay.limiter import LimiterFactory

_PREFIX = actor_name("")


def cluster_limiters(node: str, pace: Pace | None = None) -> LimiterFactory:
    """Return a factory of limiters that share each account with the whole cluster.

    Args:
        node: Where this process is: Ray's id of the node.
        pace: What an account starts from that nobody uses yet; None: the defaults.
    """

    def make(account: str) -> MemberLimiter:
        async def find() -> DeskClient:
            return ActorDesk(await asyncio.to_thread(limiter_actor, account, pace))

        return MemberLimiter(find, node)

    return make


def forget_node(node: str) -> None:
    """Have all accounts take back at once what a node holds that has died."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(_PREFIX):
            with suppress(ValueError):  # it has ended itself
                ray.get_actor(actor["name"], NAMESPACE).forget.remote(node)
