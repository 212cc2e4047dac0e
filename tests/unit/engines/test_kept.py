"""KeptSessions on a fake `opencode serve`: what begins, what is kept, what is gone in the end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chutes_opencode.engines import kept as kept_module
from chutes_opencode.engines.kept import KeptSessions
from chutes_opencode.engines.seat import Seat
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.request import ChatMessage, PromptRequest
from tests.unit.engines.kept_room import FakeOpenCode, Room

HISTORY = (ChatMessage("user", "before"), ChatMessage("assistant", "well"))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await steps()

    asyncio.run(main())


def folders(room: Room) -> list[Path]:
    root = room.default / "sessions"
    return [path for path in root.glob("*") if path.is_dir()] if root.exists() else []


def in_another_process(room: Room) -> KeptSessions:
    """Return what another process has: it knows of no copy of this one's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_module.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
        return KeptSessions(SessionStore(room.default / "sessions"))


# --- a session of one prompt ----------------------------------------------------------------------


def test_a_session_has_the_folder_and_the_rules_of_its_prompt(room: Room) -> None:
    async def steps() -> None:
        copy = await room.turn(permission={"bash": "deny"})

        assert room.opencode.directories[copy.session_id] == str(room.default)
        rules = room.opencode.rules[copy.session_id]
        assert {"permission": "bash", "pattern": "*", "action": "deny"} in rules
        assert rules[0] == {"permission": "*", "pattern": "*", "action": "allow"}
        assert (copy.public_id, copy.before, copy.history) == (copy.session_id, 0, ())

    run(steps)


@pytest.mark.parametrize("accept", [True, False])
def test_a_session_that_is_not_kept_is_deleted(room: Room, accept: bool) -> None:
    async def steps() -> None:
        await room.turn(accept=accept)

        assert room.opencode.sessions == {}
        assert folders(room) == []

    run(steps)


def test_a_history_is_left_to_the_relay(room: Room) -> None:
    async def steps() -> None:
        copy = await room.turn(history=HISTORY)

        assert (copy.before, copy.history) == (0, HISTORY)
        assert "POST /sync" not in room.opencode.calls

    run(steps)


def test_without_the_relay_a_history_becomes_messages(room: Room) -> None:
    async def steps() -> None:
        server = room.serve(room.opencode, lease=None)
        seen: list[str] = []
        copy = await room.turn(
            history=HISTORY,
            server=server,
            look=lambda copy: seen.extend(room.opencode.texts(copy.session_id)),
        )

        assert seen == ["before", "well"]
        assert (copy.before, copy.history) == (2, ())

    run(steps)


# --- keeping and continuing -----------------------------------------------------------------------


def test_a_kept_session_goes_on_where_it_is(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        second = await room.turn("two", session_id=first.public_id, keep_session=True)

        assert second.session_id == first.session_id, "nothing was copied"
        assert (second.public_id, second.before) == (first.public_id, 2)
        assert room.opencode.calls.count("POST /session") == 1

    run(steps)


def test_another_process_takes_it_over_from_disk(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        elsewhere = FakeOpenCode("b")
        other = in_another_process(room)
        seen, copy = await room.past(
            first.public_id, server=room.serve(elsewhere), kept=other, keep_session=True
        )

        assert seen == ["one", "re: one"]
        assert copy.session_id.startswith("ses_b")
        assert (copy.public_id, copy.before) == (first.public_id, 2)

    run(steps)


def test_what_another_process_has_added_is_seen(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        other = in_another_process(room)
        again: dict[str, Any] = {"session_id": first.public_id, "keep_session": True}
        await room.turn("two", server=room.serve(FakeOpenCode("b")), kept=other, **again)
        seen, copy = await room.past(first.public_id, keep_session=True)

        assert seen == ["one", "re: one", "two", "re: two"]
        assert copy.session_id != first.session_id
        assert first.session_id not in room.opencode.sessions, "the old copy is deleted"

    run(steps)


@pytest.mark.parametrize("fields", [{"permission": "deny"}, {"work_dir": True}, {"dead": True}])
def test_a_turn_with_other_rules_folder_or_server_gets_a_copy_of_its_own(
    room: Room, fields: dict[str, Any], tmp_path: Path
) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        asked = dict(fields)
        if asked.pop("dead", False):
            room.server.alive = False
            asked["server"] = room.serve(FakeOpenCode("b"))
        if "work_dir" in asked:
            (tmp_path / "other").mkdir()
            asked["work_dir"] = tmp_path / "other"
        seen, copy = await room.past(first.public_id, keep_session=True, **asked)

        assert seen == ["one", "re: one"]
        assert copy.session_id != first.session_id

    run(steps)


@pytest.mark.parametrize("keep", [True, False])
def test_a_failed_attempt_leaves_a_session_as_it_was(room: Room, keep: bool) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        before = room.document(first.public_id)
        await room.turn("bad", session_id=first.public_id, keep_session=keep, accept=False)

        assert room.document(first.public_id) == before
        assert (await room.past(first.public_id))[0] == ["one", "re: one"]
        assert room.opencode.sessions == {}, "what failed is deleted"

    run(steps)


def test_a_failed_first_attempt_leaves_nothing(room: Room, tmp_path: Path) -> None:
    async def steps() -> None:
        await room.turn(keep_session=True, accept=False)
        await room.turn(keep_session=tmp_path / "mine", accept=False)

        assert folders(room) == []
        assert list((tmp_path / "mine").iterdir()) == []
        assert room.opencode.sessions == {}

    run(steps)


def test_a_last_turn_ends_the_session(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        await room.turn("two", session_id=first.public_id)

        assert folders(room) == []
        assert room.opencode.sessions == {}
        with pytest.raises(ConfigurationError, match="is not kept here"):
            await room.turn("three", session_id=first.public_id)

    run(steps)


def test_forgetting_removes_it_everywhere(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        await room.kept.forget(first.public_id)
        await room.kept.forget(first.public_id)

        assert folders(room) == []
        assert room.opencode.sessions == {}

    run(steps)


def test_a_history_goes_on_with_its_session(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", history=HISTORY, keep_session=True)
        here = await room.turn("two", session_id=first.public_id, keep_session=True)
        seen, there = await room.past(
            first.public_id, server=room.serve(FakeOpenCode("b")), keep_session=True
        )
        bare = room.serve(FakeOpenCode("c"), lease=None)
        all_of_it, unrelayed = await room.past(first.public_id, server=bare, keep_session=True)

        assert here.history == there.history == HISTORY
        assert seen == ["one", "re: one", "two", "re: two"]
        assert all_of_it == ["before", "well", *seen]
        assert (unrelayed.before, unrelayed.history) == (6, ())

    run(steps)


def test_a_long_conversation_goes_on_from_server_to_server(room: Room) -> None:
    async def steps() -> None:
        session_id = (await room.turn("0", keep_session=True)).public_id
        for number in range(1, 20):
            fresh = room.server if number % 3 else room.serve(FakeOpenCode(f"n{number}x"))
            again: dict[str, Any] = {"session_id": session_id, "keep_session": True}
            await room.turn(str(number), server=fresh, **again)
        seen, _ = await room.past(session_id)

        assert seen == [text for n in range(20) for text in (str(n), f"re: {n}")]

    run(steps)


def test_a_session_kept_in_a_folder_of_the_callers(room: Room, tmp_path: Path) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=tmp_path / "mine")

        assert room.document(first.public_id)["messages"]
        assert list((tmp_path / "mine").rglob("session.json"))
        (tmp_path / "mine").rename(tmp_path / "moved")
        with pytest.raises(ConfigurationError, match="is not kept here"):
            await room.turn("two", session_id=first.public_id)

    run(steps)


def test_only_so_many_copies_wait_on_servers(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MAX_RESIDENTS", 1)

    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        second = await room.turn("two", keep_session=True)

        assert list(room.opencode.sessions) == [second.session_id]
        assert (await room.past(first.public_id))[0] == ["one", "re: one"]

    run(steps)


def test_copies_on_servers_that_are_gone_are_not_remembered(room: Room) -> None:
    async def steps() -> None:
        gone = room.serve(FakeOpenCode("b"))
        reference = weakref.ref(gone)
        await room.turn("one", keep_session=True, server=gone)
        gone.alive = False
        del gone
        await room.turn("two", keep_session=True)
        gc.collect()

        assert reference() is None

    run(steps)


# --- what goes wrong ------------------------------------------------------------------------------


def test_messages_that_a_server_does_not_take_are_a_clear_error(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        other = FakeOpenCode("b")
        other.breaks["POST /sync"] = 500
        with pytest.raises(UnknownOpenCodeError, match="refused the session's messages") as caught:
            await room.turn("two", session_id=first.public_id, server=room.serve(other))

        assert caught.value.status == 500
        assert other.sessions == {}, "half a session is none"
        assert (await room.past(first.public_id))[0] == ["one", "re: one"]

    run(steps)


@pytest.mark.parametrize(
    ("breaks", "error"), [(httpx.ConnectError("gone"), ServerGoneError), (500, ApiError)]
)
def test_a_session_whose_messages_cannot_be_read_is_as_it_was(
    room: Room, breaks: int | Exception, error: type[Exception]
) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        room.opencode.breaks["GET /session/ID/message"] = breaks
        with pytest.raises(error):
            await room.turn("two", session_id=first.public_id, keep_session=True)
        with pytest.raises(error):
            await room.turn("new", keep_session=True)
        room.opencode.breaks.clear()

        assert (await room.past(first.public_id))[0] == ["one", "re: one"]
        assert len(folders(room)) == 1, "of the new one nothing is left"

    run(steps)


def test_a_document_that_cannot_be_written_leaves_all_as_it_was(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        monkeypatch.setattr(room.store, "keep_document", full)
        with pytest.raises(OSError, match="No space"):
            await room.turn("two", session_id=first.public_id, keep_session=True)

        assert (await room.past(first.public_id))[0] == ["one", "re: one"]
        assert room.opencode.sessions == {}

    run(steps)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"revision": "1", "history": [{}]}'])
def test_a_damaged_document_is_a_clear_error(room: Room, text: str) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        card = room.store.find(first.public_id, engine="serve", version="1.0")
        card.document.write_text(text)
        with pytest.raises(ConfigurationError, match=r"cannot be read: .*session\.json") as caught:
            await room.turn("two", session_id=first.public_id)

        assert caught.value.hint

    run(steps)


@pytest.mark.parametrize("breaks", [httpx.ConnectError("gone"), 500])
def test_a_server_that_deletes_nothing_stops_nobody(room: Room, breaks: int | Exception) -> None:
    async def steps() -> None:
        room.opencode.breaks["DELETE /session/ID"] = breaks
        await room.turn()

        assert room.opencode.calls[-1] == "DELETE /session/ID"

    run(steps)


def test_a_dead_server_is_asked_for_nothing(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        room.server.alive = False
        calls = list(room.opencode.calls)
        await room.kept.forget(first.public_id)

        assert room.opencode.calls == calls

    run(steps)


def test_a_seat_without_a_card_begins_anew(room: Room) -> None:
    async def steps() -> None:
        request = PromptRequest("hello", "m")
        copy = await room.kept.begin(request, room.server, Seat(room.default), room.default)

        assert copy.public_id == copy.session_id

    run(steps)
