"""Sessions: kept and continued when asked, gone otherwise, used by one call at a time."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, Simulator
from chutes_opencode.opencode.binary import ask_version


@pytest.fixture
def sessions(package_home: Path) -> Path:
    """The folder of kept sessions."""
    return package_home / "sessions"


def kept_folders(sessions: Path) -> list[str]:
    return [path.name for path in sessions.glob("*") if path.suffix != ".lock"]


def turns(simulator: Simulator) -> list[list[str]]:
    """Return the texts of user and assistant in each model request."""
    bodies = [json.loads(request.body) for request in simulator.requests if request.body]
    return [
        [_text(message) for message in body["messages"] if message["role"] in ("user", "assistant")]
        for body in bodies
    ]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def test_a_session_is_continued_call_after_call_and_gone_in_the_end(
    start_simulator: Callable[..., Simulator], sessions: Path
) -> None:
    # The third request dies: its prompt is tried again, on the session as it was.
    rule = {"model": "sim/echo", "fault": "stream-bare-end", "skip": 2, "times": 1}
    simulator = start_simulator({"rules": [rule]})
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=2)

    session = llm.prompt("one", keep_session=True).session_id
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda text: llm.prompt(text, session_id=session, keep_session=True),
                ["two", "three"],
            )
        )
    last = llm.prompt("four", session_id=session, keep_session=False)

    first, second = sorted(both, key=lambda result: len(result.attempts))
    assert [result.session_id for result in (first, second, last)] == [session] * 3
    assert {first.result, second.result} == {"two", "three"}
    assert [len(result.attempts) for result in (first, second, last)] == [1, 2, 1]
    assert len(second.transcript.turns) == 1, "history is no part of a result"
    a, b = first.result, second.result
    assert turns(simulator) == [
        ["one"],
        ["one", "one", a],
        ["one", "one", a, a, b],
        ["one", "one", a, a, b],
        ["one", "one", a, a, b, b, "four"],
    ]
    assert kept_folders(sessions) == []
    with pytest.raises(ConfigurationError, match="not kept"):
        llm.prompt("five", session_id=session)


def test_a_session_and_its_work_are_kept_in_a_folder_of_the_caller(
    simulator: Simulator, sessions: Path, tmp_path: Path
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", retries=1)
    folder = tmp_path / "home" / "kept"
    folder.mkdir()
    (folder / "mine").touch()
    write = {"command": "echo well > file", "description": "d"}
    read = {"command": "cat file", "description": "d"}

    made = llm.prompt(
        json.dumps({"steps": [{"tool": "bash", "arguments": write}]}), keep_session=folder
    )
    read_back = llm.prompt(
        json.dumps({"steps": [{"tool": "bash", "arguments": read}]}), session_id=made.session_id
    )

    assert made.work_dir is not None
    assert made.work_dir.is_relative_to(folder)
    assert read_back.transcript.tool_calls[0].output.strip() == "well"
    assert [path.name for path in folder.iterdir()] == ["mine"], "a session not kept on is gone"
    assert kept_folders(sessions) == []


@pytest.fixture
def card(sessions: Path, opencode: Path) -> Iterator[dict[str, Any]]:
    """The card of a session, as one of this machine would be."""
    folder = sessions / "made-up"
    (folder / "data").mkdir(parents=True)
    yield {
        "engine": "run",
        "host": socket.gethostname(),
        "version": ask_version(opencode, ""),
        "folder": str(folder),
        "work_dir": str(folder),
    }
    shutil.rmtree(sessions)


@pytest.mark.parametrize("name", ["engine", "host", "version"])
def test_a_session_of_another_engine_host_or_version_is_refused(
    card: dict[str, Any], sessions: Path, simulator: Simulator, name: str
) -> None:
    card[name] = "another"
    (sessions / "ses_madeup.json").write_text(json.dumps(card))

    with pytest.raises(ConfigurationError, match=f"{name} another") as raised:
        ChutesOpenCodeLLM("sim/echo").prompt("hello", session_id="ses_madeup")
    assert raised.value.hint
    assert simulator.bill.total.requests == 0


@pytest.mark.parametrize("session_id", ["ses_unknown", "../../etc", "", "ses_a/b"])
def test_a_session_that_is_not_there_is_refused(simulator: Simulator, session_id: str) -> None:
    with pytest.raises(ConfigurationError, match="session"):
        ChutesOpenCodeLLM("sim/echo").prompt("hello", session_id=session_id)
    assert simulator.bill.total.requests == 0
