"""How a worker's process gets ready; Ray itself is a stand-in here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chutes_opencode import node
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup import worker_setup as module
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, enter
from chutes_opencode.errors import ConfigurationError


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fresh process; return the nodes for which limiters are shared."""
    nodes: list[str] = []
    context = SimpleNamespace(runtime_env={}, get_node_id=lambda: "node-7")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(module, "_share_limiters", lambda: nodes.append("node-7"))
    monkeypatch.setattr(module, "distribution_version", lambda _name: "1")
    monkeypatch.setattr(module, "_entered", set())
    monkeypatch.setattr(module, "_sharing", set())
    monkeypatch.setattr(node, "_named", [])
    return nodes


def setup(version: str = "1", *, limiter: bool = True) -> WorkerSetup:
    return WorkerSetup(version, needs_opencode=False, limiter=limiter)


@pytest.mark.parametrize(
    "wishes", [(True, True), (False, True), (True, False), (False, True, True)]
)
def test_limiters_are_shared_once_by_the_first_who_wants_it(
    shared: list[str], wishes: tuple[bool, ...]
) -> None:
    for wish in wishes:
        enter(setup(limiter=wish))

    assert shared == ["node-7"]


def test_who_does_not_want_it_keeps_limiters_of_its_own(shared: list[str]) -> None:
    enter(setup(limiter=False))

    assert shared == []
    assert node.node_id() == "node-7"


def test_what_another_version_has_packed_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="this worker has chutes-opencode 1") as caught:
            enter(setup("2"))
        assert "chutes-opencode==2" in caught.value.hint
