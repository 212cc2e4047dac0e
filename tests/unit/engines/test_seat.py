"""Where an attempt works: the folder, the kept session, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.seat import Seat, settle, take_seat
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Transcript

SESSION = "ses_1"
SEEN = Evidence(Transcript(SESSION))


def asked(**fields: Any) -> PromptRequest:
    return PromptRequest(**{"prompt": "hi", "model": "m"} | fields)


class Room:
    """A workspace and a store of sessions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = SessionStore(root / "sessions")
        self.workspace = self._workspace("one")

    def _workspace(self, name: str) -> Workspace:
        workspace = Workspace(self.root / name)
        workspace.work.mkdir(parents=True)
        return workspace

    def fresh_workspace(self) -> None:
        self.workspace = self._workspace("two")

    def taking(self, *, version: str = "1.0", **fields: Any) -> AbstractAsyncContextManager[Seat]:
        request = asked(**fields)
        return take_seat(request, self.workspace.work, self.sessions, engine="run", version=version)

    def take(self, look: Callable[[Seat], Any] = lambda seat: seat, **fields: Any) -> Any:
        """Take a seat and look at it while it is taken."""

        async def main() -> Any:
            async with self.taking(**fields) as seat:
                return look(seat)

        return asyncio.run(main())

    def write_database(self, text: str) -> None:
        self.workspace.data.mkdir(parents=True, exist_ok=True)
        (self.workspace.data / "opencode.db").write_text(text)

    def settle(self, seat: Seat, evidence: Evidence = SEEN, *, accepted: bool, **f: Any) -> None:
        assert seat.card is not None
        settle(asked(**f), self.workspace, self.sessions, seat.card, evidence, accepted=accepted)

    def keep(self) -> Seat:
        """Run a first turn whose session is kept."""
        self.write_database("first")
        seat: Seat = self.take(keep_session=True)
        self.settle(seat, accepted=True, keep_session=True)
        self.fresh_workspace()
        return seat

    def database(self) -> str:
        card = self.sessions.find(SESSION, engine="run", version="1.0")
        return (card.data / "opencode.db").read_text()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


# --- taking it ------------------------------------------------------------------------------------


def test_a_prompt_of_its_own_works_in_its_workspace(room: Room) -> None:
    assert room.take() == Seat(room.workspace.work)


def test_a_callers_folder_is_used(room: Room, tmp_path: Path) -> None:
    assert room.take(work_dir=tmp_path) == Seat(tmp_path)


def test_a_folder_is_named_without_links(room: Room, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert room.take(work_dir=tmp_path / "link") == Seat(tmp_path / "real")


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_that_is_not_there_is_refused(room: Room, tmp_path: Path, keep: bool) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        room.take(work_dir=tmp_path / "none", keep_session=keep)

    assert list(tmp_path.glob("sessions/*")) == []


def test_a_session_that_is_kept_has_a_folder_of_its_own(room: Room) -> None:
    seat: Seat = room.take(keep_session=True)

    assert seat.session_id is None
    assert seat.card is not None
    assert seat.work_dir == Path(seat.card.work_dir)


def test_a_first_turn_that_breaks_off_leaves_nothing(room: Room, tmp_path: Path) -> None:
    def break_off(_seat: Seat) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        room.take(break_off, keep_session=tmp_path / "mine")

    assert list((tmp_path / "mine").iterdir()) == []


def test_a_kept_session_is_continued_in_its_folder(room: Room) -> None:
    first = room.keep()

    seat: Seat = room.take(session_id=SESSION)

    assert (seat.session_id, seat.card, seat.work_dir) == (SESSION, first.card, first.work_dir)


def test_only_one_call_at_a_time_has_a_session(room: Room) -> None:
    room.keep()

    async def main() -> PromptTimeoutError:
        async with room.taking(session_id=SESSION):
            with pytest.raises(PromptTimeoutError) as caught:
                async with room.taking(session_id=SESSION, timeout_seconds=0.01):
                    pytest.fail("it was taken twice")
        return caught.value

    assert asyncio.run(main()).raw_message == "session ses_1 was in use for 0.01 s"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"session_id": "ses_none"}, "is not kept here"),
        ({"session_id": "../x"}, "is no session id"),
        ({"session_id": SESSION, "version": "2.0"}, "is bound to opencode version 1.0, not 2.0"),
        ({"session_id": SESSION, "keep_session": Path("/other")}, "is kept in"),
    ],
)
def test_a_session_that_cannot_be_continued_is_refused(
    room: Room, fields: dict[str, Any], message: str
) -> None:
    room.keep()

    with pytest.raises(ConfigurationError, match=message):
        room.take(**fields)

    assert room.database() == "first"


# --- what becomes of it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "keep", "evidence", "kept"),
    [
        pytest.param(True, True, SEEN, True, id="kept"),
        pytest.param(False, True, SEEN, False, id="a failed attempt"),
        pytest.param(True, True, Evidence(), False, id="no session came to be"),
    ],
)
def test_a_new_session_is_kept_or_leaves_nothing(
    room: Room, accepted: bool, keep: bool, evidence: Evidence, kept: bool
) -> None:
    room.write_database("first")
    seat: Seat = room.take(keep_session=keep)

    room.settle(seat, evidence, accepted=accepted, keep_session=keep)

    assert seat.card is not None
    assert Path(seat.card.folder).exists() is kept


@pytest.mark.parametrize(
    ("accepted", "keep", "database"),
    [
        pytest.param(True, True, "second", id="kept"),
        pytest.param(False, True, "first", id="a failed attempt"),
        pytest.param(False, False, "first", id="a failed last attempt"),
    ],
)
def test_a_continued_session_is_replaced_or_as_it_was(
    room: Room, accepted: bool, keep: bool, database: str
) -> None:
    room.keep()
    seat: Seat = room.take(session_id=SESSION)
    room.write_database("second")

    room.settle(seat, accepted=accepted, session_id=SESSION, keep_session=keep)

    assert room.database() == database


def test_a_continued_session_that_is_not_to_be_kept_is_forgotten(room: Room) -> None:
    room.keep()
    seat: Seat = room.take(session_id=SESSION)

    room.settle(seat, accepted=True, session_id=SESSION)

    with pytest.raises(ConfigurationError, match="is not kept here"):
        room.database()
