"""The name of the place where this process works: its machine's, or what it was told."""

from __future__ import annotations

import socket

_named: list[str] = []


def node_id() -> str:
    """Return what errors of this process name as their `node_id`."""
    return _named[-1] if _named else socket.gethostname()


def name_node(name: str) -> None:
    """Give this process's place another name than its machine's.

    Args:
        name: As errors shall show it.
    """
    _named[:] = [name]
