"""Kept sessions of several instances of a process: they share what waits on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.engines import kept as kept_module
from chutes_opencode.engines.kept import KeptSessions
from chutes_opencode.opencode.sessions import SessionStore
from tests.patience import WAIT_SECONDS
from tests.unit.engines.kept_room import Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await steps()

    asyncio.run(main())


def test_another_instance_of_the_process_goes_on_with_a_copy(room: Room) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        other = KeptSessions(SessionStore(room.default / "sessions"))
        again: dict[str, Any] = {"session_id": first.public_id, "keep_session": True}
        second = await room.turn("two", kept=other, **again)

        assert second.session_id == first.session_id, "nothing was copied"

    run(steps)


@pytest.mark.parametrize("end", ["forget", "last turn"])
def test_what_another_instance_ends_has_no_copy_left(room: Room, end: str) -> None:
    async def steps() -> None:
        first = await room.turn("one", keep_session=True)
        other = KeptSessions(room.store)
        if end == "forget":
            await other.forget(first.public_id)
        else:
            await room.turn("two", kept=other, session_id=first.public_id)

        assert room.opencode.sessions == {}

    run(steps)


def test_an_instance_that_closes_takes_its_own_copies_with_it(room: Room) -> None:
    async def steps() -> None:
        other = KeptSessions(room.store)
        mine = [await room.turn(text, keep_session=True) for text in ("one", "two")]
        theirs = await room.turn("three", kept=other, keep_session=True)
        again: dict[str, Any] = {"session_id": mine[1].public_id, "keep_session": True}
        await room.turn("more", kept=other, **again)
        await room.kept.close()
        await room.kept.close()

        assert set(room.opencode.sessions) == {mine[1].session_id, theirs.session_id}
        seen, _ = await room.past(mine[0].public_id, kept=other)
        assert seen == ["one", "re: one"], "it is kept"
        await other.close()
        assert room.opencode.sessions == {}

    run(steps)


def test_what_is_kept_after_the_close_leaves_no_copy(room: Room) -> None:
    async def steps() -> None:
        await room.kept.close()
        late = await room.turn("one", keep_session=True)

        assert room.opencode.sessions == {}
        assert (await room.past(late.public_id))[0] == ["one", "re: one"]

    run(steps)


def test_a_server_that_does_not_answer_holds_up_no_close(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "CLOSE_SECONDS", 0.01)

    async def never(_session_id: str) -> None:
        await asyncio.Event().wait()

    async def steps() -> None:
        await room.turn("one", keep_session=True)
        monkeypatch.setattr(room.server.api, "delete", never)
        await asyncio.wait_for(room.kept.close(), WAIT_SECONDS)

    run(steps)
