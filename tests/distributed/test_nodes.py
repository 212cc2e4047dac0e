"""The stage itself: three nodes on loopback, each with an environment of its own."""

from __future__ import annotations

import os

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.distributed.nodes import Nodes


@ray.remote(num_cpus=0)
def whereabouts() -> tuple[str, str, bool]:
    has_key = bool(os.environ.get("CHUTES_API_TOKEN"))
    return ray.get_runtime_context().get_node_id(), os.environ["TMPDIR"], has_key


def test_there_are_three_nodes_on_loopback_and_each_has_the_key(nodes: Nodes) -> None:
    told = [
        ray.get(
            whereabouts.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
            ).remote()
        )
        for node_id in nodes.ids
    ]

    assert tuple(node_id for node_id, _, _ in told) == nodes.ids
    assert len({temp for _, temp, _ in told}) == len(told) == 3
    assert all(has_key for _, _, has_key in told)
    told_by_ray = ray.nodes()  # type: ignore[no-untyped-call]
    assert {node["NodeManagerAddress"] for node in told_by_ray} == {"127.0.0.1"}


def test_a_killed_node_is_replaced_before_the_next_test(nodes: Nodes) -> None:
    lost = nodes.ids[-1]

    nodes.kill_raylet(lost)
    nodes.make_whole()

    assert lost not in nodes.ids
    assert len(nodes.ids) == 3
