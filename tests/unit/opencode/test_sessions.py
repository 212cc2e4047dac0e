"""Sessions that outlive their prompt: kept, found, bound, used by one call at a time."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode import sessions as sessions_module
from chutes_opencode.opencode.sessions import SessionCard, SessionStore
from tests.patience import WAIT_SECONDS

SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "today.log").write_text("chatter")
    (folder / "opencode.db").write_text("one")
    return folder


def place(store: SessionStore, keep: Path | None = None) -> SessionCard:
    return store.place(keep, engine="run", version="1.18.33")


def find(store: SessionStore, *, engine: str = "run", version: str = "1.18.33") -> SessionCard:
    return store.find(SESSION, engine=engine, version=version)


def keep(store: SessionStore, data: Path, folder: Path | None = None) -> SessionCard:
    card = place(store, folder)
    store.keep(SESSION, card, data)
    return card


def test_a_kept_session_is_found_with_all_that_it_is_bound_to(
    store: SessionStore, data: Path
) -> None:
    card = keep(store, data)

    assert find(store) == card
    assert (card.engine, card.host, card.version) == ("run", socket.gethostname(), "1.18.33")
    assert (card.data / "opencode.db").read_text() == "one"
    assert Path(card.work_dir).is_dir()


def test_the_log_is_not_kept(store: SessionStore, data: Path) -> None:
    assert [path.name for path in keep(store, data).data.iterdir()] == ["opencode.db"]


def test_a_later_turn_replaces_the_database(store: SessionStore, data: Path) -> None:
    card = keep(store, data)
    (data / "opencode.db").write_text("two")

    store.keep(SESSION, card, data)

    assert (find(store).data / "opencode.db").read_text() == "two"
    assert {path.name for path in Path(card.folder).iterdir()} == {"data", "work"}


def test_another_store_on_the_same_folder_finds_it_too(
    store: SessionStore, data: Path, tmp_path: Path
) -> None:
    card = keep(store, data)

    assert find(SessionStore(tmp_path / "sessions")) == card


def test_a_callers_folder_holds_the_session_in_a_folder_of_its_own(
    store: SessionStore, data: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")

    card = keep(store, data, mine)
    store.forget(SESSION)

    assert Path(card.folder).parent == mine
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_folder_that_holds_a_session_is_not_used_again(
    store: SessionStore, tmp_path: Path
) -> None:
    place(store, tmp_path)

    with pytest.raises(ConfigurationError, match="already holds a kept session"):
        place(store, tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(store: SessionStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="cannot be made"):
        place(store, tmp_path / "file")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"engine": "serve"}, "bound to engine run, not serve"),
        ({"version": "1.19.0"}, "bound to opencode version 1.18.33, not 1.19.0"),
    ],
)
def test_a_session_is_bound_to_engine_and_version(
    store: SessionStore, data: Path, wanted: dict[str, str], message: str
) -> None:
    keep(store, data)

    with pytest.raises(ConfigurationError, match=message):
        find(store, **wanted)


def test_a_session_is_bound_to_its_host(
    store: SessionStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module.socket, "gethostname", lambda: "elsewhere")  # type: ignore[attr-defined]
    keep(store, data)
    monkeypatch.undo()

    with pytest.raises(ConfigurationError, match="bound to host elsewhere"):
        find(store)


def test_an_unknown_session_is_not_kept_here(store: SessionStore) -> None:
    with pytest.raises(ConfigurationError, match=f"session '{SESSION}' is not kept here"):
        find(store)


@pytest.mark.parametrize("card", ["", "{", "[]", "{}", '{"engine": "run"}', "null"])
def test_a_damaged_card_is_no_session(store: SessionStore, data: Path, card: str) -> None:
    folder = Path(keep(store, data).folder)
    (folder.parent / f"{SESSION}.json").write_text(card)

    with pytest.raises(ConfigurationError, match="is not kept here"):
        find(store)


def test_a_session_whose_folder_is_gone_is_not_kept(store: SessionStore, data: Path) -> None:
    store.discard(keep(store, data))

    with pytest.raises(ConfigurationError, match="is not kept here"):
        find(store)


@pytest.mark.parametrize(
    "session_id", ["", "ses_", "x", "ses_../../etc", "ses_a/b", "ses_a\n", "ses_" + "a" * 65]
)
def test_what_is_no_session_id_never_becomes_a_path(store: SessionStore, session_id: str) -> None:
    with pytest.raises(ConfigurationError, match="is no session id"):
        store.find(session_id, engine="run", version="1")
    with pytest.raises(ConfigurationError, match="is no session id"):
        store.forget(session_id)
    with pytest.raises(ConfigurationError, match="is no session id"):
        asyncio.run(take_turn(store, session_id))


async def take_turn(store: SessionStore, session_id: str) -> None:
    async with store.turn(session_id):
        pass


def test_a_forgotten_session_leaves_nothing(store: SessionStore, data: Path) -> None:
    card = keep(store, data)
    asyncio.run(take_turn(store, SESSION))

    store.forget(SESSION)
    store.forget(SESSION)

    assert not Path(card.folder).exists()
    assert list(Path(card.folder).parent.iterdir()) == []


def test_the_card_says_everything_in_plain_json(store: SessionStore, data: Path) -> None:
    card = keep(store, data)

    written = json.loads((Path(card.folder).parent / f"{SESSION}.json").read_text())

    assert written == {
        "engine": "run",
        "host": card.host,
        "version": "1.18.33",
        "folder": card.folder,
        "work_dir": card.work_dir,
    }


# --- a document of its messages -------------------------------------------------------------------


def keep_document(store: SessionStore, text: str) -> SessionCard:
    card = store.place(None, engine="serve", version="1.18.33")
    store.keep_document(SESSION, card, text)
    return card


def test_a_document_is_kept_and_found(store: SessionStore) -> None:
    card = keep_document(store, "one")

    assert find(store, engine="serve") == card
    assert card.document.read_text() == "one"


def test_a_later_document_replaces_the_one_before(store: SessionStore) -> None:
    card = keep_document(store, "one")

    store.keep_document(SESSION, card, "two")

    assert card.document.read_text() == "two"
    assert [path.name for path in card.data.iterdir()] == [card.document.name]


def test_a_document_that_cannot_be_written_leaves_the_one_before(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = keep_document(store, "one")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            store.keep_document(SESSION, card, "two")

    assert card.document.read_text() == "one"


def test_it_can_be_asked_which_engine_a_session_is_bound_to(
    store: SessionStore, data: Path
) -> None:
    assert store.engine_of(SESSION) is None
    keep(store, data)
    assert store.engine_of(SESSION) == "run"
    store.forget(SESSION)
    keep_document(store, "one")
    assert store.engine_of(SESSION) == "serve"
    with pytest.raises(ConfigurationError, match="is no session id"):
        store.engine_of("../x")


# --- one call at a time ------------------------------------------------------------------------


def test_calls_on_one_session_take_turns(store: SessionStore, tmp_path: Path) -> None:
    """Also those of another process: each has a store of its own here."""
    order: list[str] = []

    async def call(name: str) -> None:
        async with SessionStore(tmp_path / "sessions").turn(SESSION):
            order.append(f"{name} begins")
            for _ in range(3):
                await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def main() -> None:
        await asyncio.gather(call("one"), call("two"))

    asyncio.run(main())

    assert order == ["one begins", "one ends", "two begins", "two ends"]


def test_another_session_does_not_wait(store: SessionStore) -> None:
    async def main() -> None:
        async with store.turn("ses_a"), store.turn("ses_b"):
            pass

    asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))


def test_a_cancelled_wait_takes_no_turn_with_it(store: SessionStore) -> None:
    async def main() -> None:
        async with store.turn(SESSION):
            waiting = asyncio.create_task(take_turn(store, SESSION))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await asyncio.wait_for(take_turn(store, SESSION), WAIT_SECONDS)

    asyncio.run(main())


def test_a_call_that_failed_gives_its_turn_back(store: SessionStore) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="ours"):
            async with store.turn(SESSION):
                raise ValueError("ours")
        await asyncio.wait_for(take_turn(store, SESSION), WAIT_SECONDS)

    asyncio.run(main())
