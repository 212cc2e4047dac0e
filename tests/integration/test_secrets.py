"""Neither prompt nor key where others could read them."""

from __future__ import annotations

import json
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest

from chutes_opencode import AuthenticationError, ChutesOpenCodeLLM, Event, Simulator

WRONG_KEY = "cpk_wrong_0123456789abcdef0123456789"


@contextmanager
def sampled_arguments() -> Iterator[set[bytes]]:
    """Collect the arguments of every process that runs meanwhile."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    seen.add((process / "cmdline").read_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def bash(command: str) -> dict[str, object]:
    return {"tool": "bash", "arguments": {"command": command, "description": "d"}}


def files_that_hold(secret: str, folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def test_neither_prompt_nor_key_can_be_read_while_an_agent_works(
    simulator: Simulator,
    temp_folder: Path,
    tmp_path: Path,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "sk-other-0123456789")
    work, key = tmp_path / "home", simulator.api_token
    steps = [
        bash("env; echo; tr '\\0' '\\n' < /proc/self/environ; echo own: $OWN"),
        bash("touch ready; while [ ! -e go ]; do sleep 0.1; done"),
        bash("tr '\\0' '\\n' < /proc/$PPID/environ"),  # opencode's first environment has it
        {"text": "done"},
    ]
    prompt = json.dumps({"marker": "a-marker-of-the-prompt", "steps": steps})
    events: list[Event] = []
    llm = ChutesOpenCodeLLM(
        "sim/script",
        "a-marker-of-the-system-message",
        work_dir=work,
        env={"OWN": "variable"},
        log_dir=tmp_path / "logs",
        logging_level="debug",
        on_event=events.append,
        retries=1,
    )

    with sampled_arguments() as arguments, ThreadPoolExecutor(1) as pool:
        future = pool.submit(llm.prompt, prompt)
        wait_until((work / "ready").exists)
        found = files_that_hold(key, temp_folder)
        (work / "go").touch()
        result = future.result()

    first = result.transcript.tool_calls[0].output
    assert found == []
    assert "own: variable" in first
    assert "HOME=" in first
    assert "sk-other" not in first
    assert "cpk_" not in first
    assert any(b"opencode\0run\0" in line for line in arguments)
    for secret in (key, "a-marker-of-the-prompt", "a-marker-of-the-system-message"):
        assert [line for line in arguments if secret.encode() in line] == []
    (log,) = (tmp_path / "logs").iterdir()
    assert "[Tool Call: bash]" in log.read_text()
    for shown in (repr(result), repr(events), log.read_text(), "".join(capfd.readouterr())):
        assert key not in shown
    for value in (result, llm, events, llm.settings):
        assert key.encode() not in pickle.dumps(value)
        assert key.encode() not in cloudpickle.dumps(value)
    assert "CHUTES_OPENCODE_LEASE=[masked]" in result.transcript.tool_calls[2].output
    assert pickle.loads(pickle.dumps(llm)).settings.api_token is None


def test_a_refused_key_is_in_no_error(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", WRONG_KEY)

    with pytest.raises(AuthenticationError) as raised:
        ChutesOpenCodeLLM("sim/echo", logging_level="debug").prompt("hello")

    error = raised.value
    assert error.status == 401
    assert simulator.requests[-1].headers["authorization"] == f"Bearer {WRONG_KEY}"
    shown = [str(error), repr(error), repr(vars(error)), repr(error.result)]
    shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    shown += capfd.readouterr()
    assert [text for text in shown if WRONG_KEY in text] == []
    assert WRONG_KEY.encode() not in pickle.dumps(error)
    assert WRONG_KEY.encode() not in cloudpickle.dumps(error)
    assert pickle.loads(pickle.dumps(error)).status == 401
