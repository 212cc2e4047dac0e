"""The name of the place where a process works."""

from __future__ import annotations

import socket

import pytest

from chutes_opencode import node
from chutes_opencode.node import name_node, node_id


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_named", [])


def test_a_place_is_called_as_its_machine() -> None:
    assert node_id() == socket.gethostname()


def test_a_place_can_be_given_another_name() -> None:
    name_node("first")
    name_node("second")

    assert node_id() == "second"
