"""RunEngine and sessions that outlive their prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.process import Command

SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
VERSION = "1.18.33"

MakeStage = Callable[..., Any]


def kept(made: Any) -> Any:
    return made.sessions.find(SESSION, engine="run", version=VERSION)


def database(made: Any) -> str:
    text: str = (kept(made).data / "opencode.db").read_text()
    return text


def folders(made: Any) -> list[Path]:
    """Everything below the store, but its cards and locks."""
    root = made.sessions._root
    return [path for path in root.glob("*") if path.is_dir()] if root.exists() else []


def test_a_session_is_kept_when_it_was_asked_for(stage: MakeStage) -> None:
    made = stage()

    evidence = made.run(keep_session=True)

    assert database(made) == "a database"
    assert evidence.work_dir == Path(kept(made).work_dir)
    assert made.opencode.commands["run"].cwd == evidence.work_dir


def test_a_session_is_kept_where_the_caller_wants_it(stage: MakeStage, tmp_path: Path) -> None:
    made = stage()

    made.run(keep_session=tmp_path / "mine")

    assert kept(made).data.is_relative_to(tmp_path / "mine")


def test_a_session_that_is_kept_stays_where_it_is(stage: MakeStage, tmp_path: Path) -> None:
    made = stage()
    made.run(keep_session=tmp_path / "mine")
    made.run(session_id=SESSION, keep_session=tmp_path / "mine")

    with pytest.raises(ConfigurationError, match=r"is kept in .*mine.*, not in .*other"):
        made.run(session_id=SESSION, keep_session=tmp_path / "other")

    assert database(made)
    assert not (tmp_path / "other").exists()


def test_a_kept_session_is_continued_on_its_database_in_its_folder(stage: MakeStage) -> None:
    made = stage()
    made.run(keep_session=True)
    (kept(made).data / "opencode.db").write_text("from the first turn")

    made.run(session_id=SESSION, keep_session=True)

    command = made.opencode.commands["run"]
    assert command.argv[command.argv.index("--session") + 1] == SESSION
    assert made.opencode.files["home/.local/share/opencode/opencode.db"] == "from the first turn"
    assert command.cwd == Path(kept(made).work_dir)
    assert database(made) == "a database"


def test_a_continued_session_that_is_not_kept_is_gone(stage: MakeStage) -> None:
    made = stage()
    made.run(keep_session=True)

    made.run(session_id=SESSION)

    assert folders(made) == []
    with pytest.raises(ConfigurationError, match="is not kept here"):
        made.run(session_id=SESSION)


def test_a_failed_attempt_leaves_a_session_as_it_was(stage: MakeStage) -> None:
    made = stage()
    made.run(keep_session=True)
    (kept(made).data / "opencode.db").write_text("before")

    made.run(session_id=SESSION, keep_session=True, accept=False)
    made.run(session_id=SESSION, accept=False)

    assert database(made) == "before"


def test_a_failed_first_attempt_leaves_nothing(stage: MakeStage, tmp_path: Path) -> None:
    made = stage()

    made.run(keep_session=True, accept=False)
    made.run(keep_session=tmp_path / "mine", accept=False)

    assert folders(made) == []
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("error", [PermissionError(13, "no"), asyncio.CancelledError()])
def test_an_attempt_that_breaks_off_leaves_nothing(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    made = stage()

    async def start(_command: Command) -> None:
        raise error

    monkeypatch.setattr(made.opencode, "start", start)
    with pytest.raises((ConfigurationError, asyncio.CancelledError)):
        made.run(keep_session=True)

    assert folders(made) == []


def test_forgetting_removes_a_kept_session(stage: MakeStage) -> None:
    made = stage()
    made.run(keep_session=True)

    asyncio.run(made.engine.forget(SESSION))

    assert folders(made) == []


def test_a_kept_session_may_have_a_work_dir_of_the_callers(
    stage: MakeStage, tmp_path: Path
) -> None:
    made = stage()

    evidence = made.run(keep_session=True, work_dir=tmp_path)

    assert made.opencode.commands["run"].cwd == tmp_path
    assert evidence.work_dir == tmp_path


def test_a_session_goes_on_in_the_folder_that_it_began_in(stage: MakeStage, tmp_path: Path) -> None:
    made = stage()
    made.run(keep_session=True, work_dir=tmp_path)

    made.run(session_id=SESSION, keep_session=True)

    assert made.opencode.commands["run"].cwd == tmp_path


def test_a_session_is_not_continued_in_another_folder(stage: MakeStage, tmp_path: Path) -> None:
    """opencode would answer and then wait for its own end for ever (seen)."""
    made = stage()
    made.run(keep_session=True)

    with pytest.raises(ConfigurationError, match=r"works in .*, not ") as raised:
        made.run(session_id=SESSION, keep_session=True, work_dir=tmp_path)

    assert "work_dir" in raised.value.hint
    assert database(made)


def test_closing_has_nothing_to_end(stage: MakeStage) -> None:
    asyncio.run(stage().engine.close())
