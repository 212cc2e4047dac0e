"""Messages as opencode takes them over, so that the model sees real turns. Pure.

`opencode import` reads a document; a running server is told the events that led to the messages.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chutes_opencode.catalog.providers import Provider
from chutes_opencode.request import ChatMessage, PromptRequest

_ALPHABET = string.digits + string.ascii_letters
_ID_BITS = 48


def import_document(
    request: PromptRequest, provider: Provider, directory: Path, *, now_ms: int | None = None
) -> dict[str, Any]:
    """Build what `opencode import` reads: a session that holds the request's history.

    Args:
        request: Its `history` becomes the session's messages.
        provider: Of the model.
        directory: The session's folder.
        now_ms: Milliseconds since the epoch; the messages are dated just before it.

    Returns:
        A document in the shape of `opencode export`.
    """
    now = int(time.time() * 1000) if now_ms is None else now_ms
    start = now - len(request.history) - 1
    session_id = f"ses_{_identifier(start, descending=True)}"
    messages: list[dict[str, Any]] = []
    for offset, message in enumerate(request.history):
        parent = messages[-1]["info"]["id"] if messages else None
        messages.append(
            _message(message, request, provider, directory, session_id, start + offset, parent)
        )
    info = {
        "id": session_id,
        "slug": "history",
        "projectID": "global",
        "directory": str(directory),
        "path": str(directory).lstrip("/"),
        "title": "prompt",
        "version": "1.0.0",
        "time": {"created": start, "updated": now},
    }
    return {"info": info, "messages": messages}


def replay_events(
    session_id: str, messages: Sequence[Mapping[str, Any]], *, now_ms: int | None = None
) -> list[dict[str, Any]]:
    """Write messages as the events by which a running server takes them into an empty session.

    All ids are new: a message whose id the server has seen before would go to the session that has
    it (seen). They are dated just before now, so that later messages come after them; when the
    messages were written stays as it is.

    Args:
        session_id: The session; nothing but its making has happened to it.
        messages: As the server returns them, `{"info": …, "parts": […]}` each.
        now_ms: Milliseconds since the epoch.

    Returns:
        The `events` of `POST /sync/replay`.
    """
    now = int(time.time() * 1000) if now_ms is None else now_ms
    old = [entry["id"] for message in messages for entry in (message["info"], *message["parts"])]
    start = now - len(old)
    names = {name: f"{name[:4]}{_identifier(start + n)}" for n, name in enumerate(old)}
    told: list[tuple[str, dict[str, Any]]] = []
    for message in messages:
        info = _renamed(message["info"], names) | {"sessionID": session_id}
        told.append(("message.updated.1", {"info": info}))
        for part in message["parts"]:
            moved = _renamed(part, names) | {"sessionID": session_id}
            told.append(("message.part.updated.1", {"part": moved, "time": now}))
    return [
        {
            "id": f"evt_{_identifier(now)}",
            "aggregateID": session_id,
            "seq": number,  # 0 is the session's making
            "type": kind,
            "data": {"sessionID": session_id} | data,
        }
        for number, (kind, data) in enumerate(told, start=1)
    ]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a copy in which each string that is an old id is the new one."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {key: _renamed(entry, names) for key, entry in value.items()}
    return [_renamed(entry, names) for entry in value] if isinstance(value, list) else value


def _message(
    message: ChatMessage,
    request: PromptRequest,
    provider: Provider,
    directory: Path,
    session_id: str,
    at_ms: int,
    parent: str | None,
) -> dict[str, Any]:
    message_id = f"msg_{_identifier(at_ms)}"
    common = {"id": message_id, "sessionID": session_id, "agent": request.agent_name}
    if message.role == "user":
        model = {"providerID": provider.id, "modelID": request.model}
        info: dict[str, Any] = common | {
            "role": "user",
            "time": {"created": at_ms},
            "model": model,
        }
    else:
        info = common | {
            "role": "assistant",
            "parentID": parent or message_id,
            "mode": request.agent_name,
            "path": {"cwd": str(directory), "root": "/"},
            "cost": 0,
            "tokens": {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}},
            "providerID": provider.id,
            "modelID": request.model,
            "finish": "stop",
            "time": {"created": at_ms, "completed": at_ms},
        }
    part = {
        "id": f"prt_{_identifier(at_ms)}",
        "messageID": message_id,
        "sessionID": session_id,
        "type": "text",
        "text": message.text,
    }
    return {"info": info, "parts": [part]}


def _identifier(at_ms: int, *, descending: bool = False) -> str:
    """Make an id in opencode's order: 48 bits of time, complemented for sessions, and chance."""
    value = (at_ms << 12) + 1
    bits = (~value if descending else value) & ((1 << _ID_BITS) - 1)
    return f"{bits:012x}" + "".join(secrets.choice(_ALPHABET) for _ in range(14))
