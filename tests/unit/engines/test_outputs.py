"""Cut tool outputs: a prompt takes its own with it, and nothing of its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chutes_opencode.engines import outputs
from chutes_opencode.engines.outputs import data_mib, delete_outputs, named_outputs, outputs_folder
from chutes_opencode.opencode.api import ApiError, ServeApi, ServerGoneError
from chutes_opencode.opencode.workspace import Workspace


class FakeServer:
    """A server whose sessions have named outputs; some answer with an error."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.folder = outputs_folder(self.workspace)
        self.named: dict[str, list[Path]] = {}
        self.errors: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.api = SimpleNamespace(messages=self._messages)

    def cut(self, session_id: str, name: str) -> Path:
        """Let a session's tool have a cut output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        path.write_text("x" * 100)
        self.named.setdefault(session_id, []).append(path)
        return path

    def delete(self, *session_ids: str) -> None:
        asyncio.run(delete_outputs(self.workspace, cast(ServeApi, self.api), session_ids))

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    async def _messages(self, session_id: str) -> list[dict[str, Any]]:
        self.asked.append(session_id)
        if session_id in self.errors:
            raise self.errors[session_id]
        return [row(str(path)) for path in self.named.get(session_id, [])]


def row(path: object) -> dict[str, Any]:
    return {"info": {}, "parts": [{"type": "tool", "state": {"metadata": {"outputPath": path}}}]}


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path)


def test_a_prompts_outputs_go_with_it(server: FakeServer) -> None:
    for session_id in ("ses_1", "ses_sub", "ses_other"):
        server.cut(session_id, f"tool_{session_id}")

    server.delete("ses_1", "ses_sub")

    assert server.left == ["tool_ses_other"]


def test_where_nothing_was_cut_nothing_is_asked(server: FakeServer) -> None:
    server.delete("ses_1")
    server.folder.mkdir(parents=True)
    server.delete("ses_1")

    assert server.asked == []


def test_only_outputs_are_deleted_whatever_a_tool_has_named(
    server: FakeServer, tmp_path: Path
) -> None:
    precious = tmp_path / "tool_precious"
    precious.write_text("theirs")
    server.cut("ses_1", "tool_1")
    (server.folder / "notes").write_text("x")
    (server.folder / "tool_folder").mkdir()
    (server.folder / "tool_link").symlink_to(precious)
    names = [precious, "../tool_precious", "..", "", "notes", "tool_folder", "tool_link", "tool_\0"]
    server.named["ses_1"] += cast(list[Path], names)

    server.delete("ses_1")

    assert precious.read_text() == "theirs"
    assert server.left == ["notes", "tool_folder"]


def test_a_session_that_is_gone_stops_nobody(server: FakeServer) -> None:
    server.cut("ses_1", "tool_1")
    server.cut("ses_2", "tool_2")
    server.errors["ses_1"] = ApiError(404, None)

    server.delete("ses_1", "ses_2")

    assert server.left == ["tool_1"]


def test_of_a_dead_server_nothing_more_is_asked(server: FakeServer) -> None:
    server.cut("ses_2", "tool_2")
    server.errors["ses_1"] = ServerGoneError("gone")

    server.delete("ses_1", "ses_2")

    assert server.asked == ["ses_1"]


def test_it_is_bounded(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "READ_SECONDS", 0.01)
    server.cut("ses_1", "tool_1")

    async def never(_session_id: str) -> None:
        await asyncio.Event().wait()

    server.api.messages = never
    server.delete("ses_1")

    assert server.left == ["tool_1"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"parts": [{}]},
        {"parts": [{"state": None}]},
        {"parts": [{"state": {"metadata": None}}]},
        row(None),
        row(5),
    ],
    ids=str,
)
def test_parts_without_an_output_name_none(odd: dict[str, Any]) -> None:
    assert named_outputs([odd]) == set()


def a_database(server: FakeServer) -> None:
    server.workspace.data.mkdir(parents=True)
    (server.workspace.data / "opencode.db").write_bytes(bytes(3 << 20))


def outputs_that_were_cut(server: FakeServer) -> None:
    for number in range(3):
        server.cut("ses_1", f"tool_{number}").write_bytes(bytes(1 << 20))


@pytest.mark.parametrize("fill", [a_database, outputs_that_were_cut])
def test_what_takes_room_on_the_disk(
    server: FakeServer, fill: Callable[[FakeServer], None]
) -> None:
    before = data_mib(server.workspace)

    fill(server)

    assert before == 0.0
    assert data_mib(server.workspace) == pytest.approx(3.0, abs=0.1)
