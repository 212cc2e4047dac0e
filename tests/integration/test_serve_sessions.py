"""Sessions on warm servers: kept and continued, taken over by other servers and processes, gone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, ServerError, Simulator
from tests.patience import PROCESS_SECONDS

STEP = {"tool": "bash", "arguments": {"command": "echo well > file; cat file", "description": "d"}}
SCRIPT = json.dumps({"steps": [STEP]})
HISTORY = [
    {"role": "user", "content": "before"},
    {"role": "assistant", "content": "well"},
]
TURNS = 20

pytestmark = pytest.mark.timeout(600)

OTHER_PROCESS = """
import sys
from chutes_opencode import ChutesOpenCodeLLM

if __name__ == "__main__":
    text, session_id = sys.argv[1], sys.argv[2] or None
    with ChutesOpenCodeLLM("sim/echo", engine="serve", builtin_tools=False, retries=1) as llm:
        print(llm.prompt(text, session_id=session_id, keep_session=True).session_id)
"""

Make = Callable[..., ChutesOpenCodeLLM]


@pytest.fixture
def make(temp_folder: Path) -> Iterator[Make]:
    """Make instances on warm servers; they are closed at the end."""
    with ExitStack() as stack:

        def make(model: str = "sim/echo", **options: Any) -> ChutesOpenCodeLLM:
            chosen: dict[str, Any] = {
                "engine": "serve",
                "builtin_tools": False,
                "retries": 1,
            } | options
            return stack.enter_context(ChutesOpenCodeLLM(model, **chosen))

        yield make


@pytest.fixture
def sessions(package_home: Path) -> Path:
    """The folder of kept sessions."""
    return package_home / "sessions"


def left(sessions: Path) -> list[str]:
    return [path.name for path in sessions.glob("*") if path.suffix != ".lock"]


def conversations(simulator: Simulator) -> list[list[dict[str, Any]]]:
    """Return the messages of each model request, the system message left out."""
    bodies = [json.loads(request.body) for request in simulator.requests if request.body]
    return [
        [message for message in body["messages"] if message["role"] != "system"] for body in bodies
    ]


def texts(simulator: Simulator) -> list[list[str]]:
    """Return what was said in each model request."""
    return [
        [
            message["content"]
            if isinstance(message["content"], str)
            else "".join(part["text"] for part in message["content"])
            for message in conversation
        ]
        for conversation in conversations(simulator)
    ]


def test_a_session_is_continued_call_after_call_and_gone_in_the_end(
    start_simulator: Callable[..., Simulator], make: Make, sessions: Path
) -> None:
    # The third request dies: its prompt is tried again, on the session as it was.
    rule = {"model": "sim/echo", "fault": "stream-bare-end", "skip": 2, "times": 1}
    simulator = start_simulator({"rules": [rule]})
    llm = make(retries=2)

    session = llm.prompt("one", keep_session=True).session_id
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda text: llm.prompt(text, session_id=session, keep_session=True),
                ["two", "three"],
            )
        )
    last = llm.prompt("four", session_id=session)

    assert {result.session_id for result in (*both, last)} == {session}
    assert {result.result for result in both} == {"two", "three"}
    assert all(len(result.transcript.turns) == 1 for result in (*both, last)), "no history in it"
    said = texts(simulator)
    a, b = (said[1][-1], said[-2][-1])
    assert {a, b} == {"two", "three"}
    assert said[-2] == ["one", "one", a, a, b]
    assert said[-1] == ["one", "one", a, a, b, b, "four"], "no message is there twice"
    assert left(sessions) == []
    with pytest.raises(ConfigurationError, match="not kept"):
        llm.prompt("five", session_id=session)


def test_the_model_is_sent_what_opencode_run_would_send(simulator: Simulator, make: Make) -> None:
    def converse(
        llm: ChutesOpenCodeLLM, between: Callable[[], object] = lambda: None
    ) -> list[list[dict[str, Any]]]:
        before = len(conversations(simulator))
        session = None
        for text in ("one", SCRIPT, "three"):
            session = llm.prompt(text, session_id=session, keep_session=True).session_id
        between()
        assert session is not None
        llm.prompt("last", session_id=session)
        return _without_call_ids(conversations(simulator)[before:])

    warm = make("sim/script", builtin_tools=True)

    cold = converse(make("sim/script", engine="run", builtin_tools=True))

    assert converse(warm) == cold
    assert converse(warm, between=warm.close) == cold, "another server"


def _without_call_ids(told: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Tool calls have ids by chance; what belongs together still does."""
    for conversation in told:
        known: list[str] = []
        for message in conversation:
            for call in message.get("tool_calls", ()):
                known.append(call["id"])
                call["id"] = known.index(call["id"])
            if "tool_call_id" in message:
                message["tool_call_id"] = known.index(message["tool_call_id"])
    return told


def test_processes_take_turns_on_a_session(
    simulator: Simulator,
    make: Make,
    sessions: Path,
    run_python: Callable[..., subprocess.Popen[str]],
) -> None:
    def elsewhere(text: str, session_id: str = "") -> str:
        process = run_python(OTHER_PROCESS, text, session_id)
        out, complaint = process.communicate(timeout=PROCESS_SECONDS)
        assert process.returncode == 0, complaint
        return out.strip()

    session = elsewhere("one")
    llm = make()
    llm.prompt("two", session_id=session, keep_session=True)
    assert elsewhere("three", session) == session
    last = llm.prompt("four", session_id=session)

    assert last.session_id == session
    assert texts(simulator)[-1] == ["one", "one", "two", "two", "three", "three", "four"]
    assert left(sessions) == []


def test_a_long_conversation_holds_each_message_once(simulator: Simulator, make: Make) -> None:
    llm = make()

    session = llm.prompt("0", keep_session=True).session_id
    for number in range(1, TURNS):
        llm.prompt(str(number), session_id=session, keep_session=True)
    llm.close()
    llm.prompt("end", session_id=session)

    assert texts(simulator)[-1] == [str(n) for n in range(TURNS) for _ in "ab"] + ["end"]


@pytest.mark.parametrize("first", [True, False], ids=["the first turn", "a later turn"])
def test_a_call_that_failed_leaves_the_session_as_it_was(
    start_simulator: Callable[..., Simulator], make: Make, sessions: Path, first: bool
) -> None:
    skip = 0 if first else 1
    rule = {"model": "sim/echo", "fault": "500-exhausted", "skip": skip, "times": 1}
    simulator = start_simulator({"rules": [rule]})
    llm = make()
    session = None if first else llm.prompt("one", keep_session=True).session_id
    kept = _documents(sessions)

    with pytest.raises(ServerError):
        llm.prompt("bad", session_id=session, keep_session=True)

    assert _documents(sessions) == kept
    if session is None:
        assert left(sessions) == []
    else:
        llm.prompt("two", session_id=session)
        assert texts(simulator)[-1] == ["one", "one", "two"]


def _documents(sessions: Path) -> list[str]:
    return [path.read_text() for path in sorted(sessions.rglob("session.json"))]


def test_a_history_stays_before_the_session(simulator: Simulator, make: Make) -> None:
    llm = make()

    messages = [*HISTORY, {"role": "user", "content": "one"}]
    session = llm.prompt(messages=messages, keep_session=True).session_id
    llm.prompt("two", session_id=session, keep_session=True)
    llm.close()
    llm.prompt("three", session_id=session)

    past = ["before", "well", "one", "one", "two"]
    assert texts(simulator) == [past[:3], past, [*past, "two", "three"]]


def test_a_session_and_its_work_are_kept_in_a_folder_of_the_caller(
    simulator: Simulator, make: Make, sessions: Path, tmp_path: Path
) -> None:
    llm = make("sim/script", builtin_tools=True)
    folder = tmp_path / "home" / "kept"
    folder.mkdir()
    (folder / "mine").touch()
    read = {"tool": "bash", "arguments": {"command": "cat file", "description": "d"}}

    made = llm.prompt(SCRIPT, keep_session=folder)
    llm.close()
    read_back = llm.prompt(json.dumps({"steps": [read]}), session_id=made.session_id)

    assert made.work_dir is not None
    assert made.work_dir.is_relative_to(folder)
    assert read_back.transcript.tool_calls[0].output.strip() == "well"
    assert [path.name for path in folder.iterdir()] == ["mine"], "a session not kept on is gone"
    assert left(sessions) == []


def test_a_session_whose_folder_was_moved_is_not_found(
    simulator: Simulator, make: Make, sessions: Path, tmp_path: Path
) -> None:
    llm = make()
    (tmp_path / "home" / "kept").mkdir()
    session = llm.prompt("one", keep_session=tmp_path / "home" / "kept").session_id
    assert session is not None
    (tmp_path / "home" / "kept").rename(tmp_path / "home" / "moved")

    with pytest.raises(ConfigurationError, match="is not kept here"):
        llm.prompt("two", session_id=session)

    (sessions / f"{session}.json").unlink()


@pytest.mark.parametrize(
    ("name", "value"), [("version", "1.0.0"), ("engine", "direct"), ("host", "elsewhere")]
)
def test_a_session_of_another_engine_host_or_version_is_refused(
    simulator: Simulator, make: Make, sessions: Path, name: str, value: str
) -> None:
    llm = make()
    session = llm.prompt("one", keep_session=True).session_id
    entry = sessions / f"{session}.json"
    mine = entry.read_text()
    entry.write_text(json.dumps(json.loads(mine) | {name: value}))

    with pytest.raises(ConfigurationError, match=value) as raised:
        llm.prompt("two", session_id=session)

    assert raised.value.hint
    entry.write_text(mine)
    llm.prompt("two", session_id=session)
    assert texts(simulator) == [["one"], ["one", "one", "two"]]


@pytest.mark.parametrize("keeper", ["run", "serve"])
def test_the_automatic_choice_follows_the_session(
    simulator: Simulator,
    make: Make,
    sessions: Path,
    keeper: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHUTES_OPENCODE_ENGINE", "auto")
    other = {"run": "serve", "serve": "run"}[keeper]
    session = make(engine=keeper).prompt("one", keep_session=True).session_id
    automatic = make(engine="auto")

    with pytest.raises(ConfigurationError, match=f"bound to engine {keeper}, not {other}"):
        make(engine=other).prompt("two", session_id=session)
    for text in ("two", "three"):
        automatic.prompt(text, session_id=session, keep_session=True)
    automatic.prompt("four", session_id=session)

    assert texts(simulator)[-1] == ["one", "one", "two", "two", "three", "three", "four"]
    assert left(sessions) == []
