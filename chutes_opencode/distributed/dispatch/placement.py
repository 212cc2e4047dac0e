"""On which nodes of a cluster a worker is missing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that is alive.

    Attributes:
        id: Ray's.
        resources: All that it has, taken or not, by Ray's names.
    """

    id: str
    resources: Mapping[str, float] = field(default_factory=dict)


def alive(rows: Iterable[Mapping[str, object]]) -> tuple[NodeView, ...]:
    """Return the nodes of `ray.nodes()` that are alive."""
    return tuple(
        NodeView(str(row["NodeID"]), dict(row.get("Resources") or {}))  # type: ignore[call-overload]
        for row in rows
        if row.get("Alive")
    )


def room(node: NodeView, needs: Mapping[str, float]) -> int:
    """Return how many workers a node can hold if it holds nothing else."""
    counts = [
        int(node.resources.get(name, 0.0) / amount + _EPSILON)
        for name, amount in needs.items()
        if amount > 0
    ]
    return min(counts, default=1)


def missing(
    nodes: Sequence[NodeView],
    needs: Mapping[str, float],
    held: Mapping[str, int],
    count: int | None,
) -> list[str]:
    """Return the nodes on which a worker is to be started, one entry for each worker.

    Args:
        nodes: Those that may take one.
        needs: What a worker needs, by Ray's names.
        held: How many workers each node has, those that are starting included.
        count: How many there are to be in all; None: one on every node that can hold one.
    """
    rooms = {node.id: room(node, needs) for node in nodes}
    if count is None:
        return [node.id for node in nodes if rooms[node.id] and not held.get(node.id)]
    have = {node.id: held.get(node.id, 0) for node in nodes}
    wanted = []
    for _ in range(count - sum(held.values())):
        free = [node_id for node_id, space in rooms.items() if have[node_id] < space]
        if not free:
            break
        chosen = min(free, key=lambda node_id: have[node_id])
        have[chosen] += 1
        wanted.append(chosen)
    return wanted


def shortage(nodes: Sequence[NodeView], needs: Mapping[str, float]) -> str:
    """Say in words what no node has enough of; "": at least one node can hold a worker."""
    if any(room(node, needs) for node in nodes):
        return ""
    most = {name: max((n.resources.get(name, 0.0) for n in nodes), default=0.0) for name in needs}
    has = ", ".join(f"{name} {_amount(name, amount)}" for name, amount in most.items())
    if not nodes:
        return "the cluster has no node that is alive"
    return f"a worker needs {_in_words(needs)}; no node has that (the most there is: {has})"


def shortfall(nodes: Sequence[NodeView], needs: Mapping[str, float], count: int | None) -> str:
    """Say how many of the workers that were asked for have no room; "": all have, or none has.

    Args:
        nodes: Those that are alive.
        needs: What a worker needs, by Ray's names.
        count: How many there are to be in all; None: one on every node that can hold one.
    """
    rooms = sum(room(node, needs) for node in nodes)
    if count is None or not 0 < rooms < count:
        return ""
    words = f"{count} workers were asked for, and the cluster has room for {rooms}"
    return f"{words}: each needs {_in_words(needs)}; the others start when nodes come"


def _in_words(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_amount(name, need)}" for name, need in needs.items() if need)


def _amount(name: str, value: float) -> str:
    return f"{value / (1 << 30):.1f} GiB" if name == "memory" else f"{value:g}"
