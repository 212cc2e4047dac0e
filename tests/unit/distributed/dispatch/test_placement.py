"""On which nodes a worker is missing."""

from __future__ import annotations

import pytest

from chutes_opencode.distributed.dispatch.placement import (
    NodeView,
    alive,
    missing,
    room,
    shortage,
    shortfall,
)

NEEDS = {"CPU": 1.0, "memory": float(1 << 30)}
GIB = float(1 << 30)


def node(name: str, cpus: float = 4, memory: float = 8 * GIB, **more: float) -> NodeView:
    return NodeView(name, {"CPU": cpus, "memory": memory, **more})


NODES = (node("a"), node("b"), node("c"))


@pytest.mark.parametrize(
    ("held", "count", "wanted"),
    [
        pytest.param({}, None, ["a", "b", "c"], id="one-on-each"),
        pytest.param({"a": 1, "b": 1}, None, ["c"], id="a-new-node"),
        pytest.param({"a": 1, "b": 1, "c": 1}, None, [], id="none-is-missing"),
        pytest.param({}, 2, ["a", "b"], id="fewer-than-nodes"),
        pytest.param({}, 5, ["a", "b", "c", "a", "b"], id="more-than-nodes"),
        pytest.param({"a": 1, "b": 1}, 3, ["c"], id="a-lost-one"),
        pytest.param({"a": 2, "b": 1}, 2, [], id="enough"),
        pytest.param({}, 99, ["a", "b", "c"] * 4, id="as-many-as-fit"),
    ],
)
def test_workers_are_spread_over_the_nodes(
    held: dict[str, int], count: int | None, wanted: list[str]
) -> None:
    assert missing(NODES, NEEDS, held, count) == wanted


def test_a_node_that_is_too_small_gets_none() -> None:
    nodes = (node("head", cpus=0), node("thin", memory=GIB / 2), node("good"))

    assert missing(nodes, NEEDS, {}, None) == ["good"]
    assert missing(nodes, NEEDS, {}, 2) == ["good", "good"]


@pytest.mark.parametrize(
    ("needs", "count"),
    [
        ({"CPU": 1.0}, 4),
        ({"CPU": 3.0}, 1),
        ({"CPU": 0.0, "memory": 3 * GIB}, 2),
        ({"gate": 0.01}, 10),
        ({"other": 1.0}, 0),
        ({}, 1),
    ],
)
def test_a_node_holds_as_many_as_its_scarcest_resource_allows(
    needs: dict[str, float], count: int
) -> None:
    assert room(node("a", gate=0.1), needs) == count


def test_what_is_missing_is_said_in_numbers() -> None:
    assert shortage(NODES, NEEDS) == ""
    assert shortage((), NEEDS) == "the cluster has no node that is alive"
    assert shortage(NODES, {"CPU": 64, "memory": 2 * GIB}) == (
        "a worker needs CPU 64, memory 2.0 GiB; no node has that "
        "(the most there is: CPU 4, memory 8.0 GiB)"
    )


def test_more_workers_than_there_is_room_for_are_said_in_numbers() -> None:
    assert shortfall(NODES, {"CPU": 3.0, "memory": 2 * GIB}, 5) == (
        "5 workers were asked for, and the cluster has room for 3: "
        "each needs CPU 3, memory 2.0 GiB; the others start when nodes come"
    )


@pytest.mark.parametrize(
    ("nodes", "count"),
    [
        pytest.param(NODES, None, id="one-on-each"),
        pytest.param(NODES, 12, id="all-have-room"),
        pytest.param((node("thin", cpus=0),), 2, id="none-has-room"),
        pytest.param((), 2, id="no-node"),
    ],
)
def test_without_a_shortfall_nothing_is_said(
    nodes: tuple[NodeView, ...], count: int | None
) -> None:
    assert shortfall(nodes, NEEDS, count) == ""


def test_only_nodes_that_are_alive_count() -> None:
    rows = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}},
        {"NodeID": "b", "Alive": False, "Resources": {}},
    ]

    assert alive(rows) == (NodeView("a", {"CPU": 2.0}),)
