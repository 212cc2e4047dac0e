"""Neither prompt nor key where others could read them."""

from __future__ import annotations

import json
import pickle
import threading
import traceback
import uuid
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


# Everything that an agent's shell can lay its hands on, copied out of the workspace.
LOOT = r"""
mkdir -p loot && cd loot
env > env
process=$PPID  # opencode; then its supervisor, whose parent is the caller
for name in opencode supervisor; do
    for kind in environ cmdline; do tr '\0' '\n' < /proc/$process/$kind > $name.$kind; done
    process=$(sed 's/.*) //' /proc/$process/stat | cut -d ' ' -f 2)
done
ps axww -o pid,args e > ps
workspace=$(sed -n 's/^CHUTES_OPENCODE_WORKSPACE=//p' opencode.environ)
cp -r "$workspace" workspace 2> copy.errors
cp -r "$HOME" home
find . -type f | wc -l
"""
# What the agent needs to speak to the relay as opencode does, and what it may try with it.
FORGE = r"""
lease=$(sed -n 's/^CHUTES_OPENCODE_LEASE=//p' loot/opencode.environ)
test -n "$lease" || exit 1
config=$(sed -n 's/^OPENCODE_CONFIG=//p' loot/opencode.environ)
url=$(grep -o 'http://127.0.0.1:[0-9]*/v1' "$config")
body='{"model": "sim/script", "messages": [{"role": "user", "content": "forged"}]}'
ask() {
    curl -s -m 100 -o loot/answer -w "%{http_code} " "$url/chat/completions" -d "$body" "$@"
    cat loot/answer; echo
}
ask -H "authorization: Bearer $lease" -H 'x-session-id: ses_forged'
ask -H "authorization: Bearer $lease" -H 'x-session-id: ses_forged' \
    -H 'x-parent-session-id: ses_unknown'
ask -H "authorization: Bearer $lease"
ask -H 'authorization: Bearer forged' -H 'x-session-id: ses_forged'
ask -H "authorization: Bearer $lease" -H 'host: evil.example:80'
"""


def test_an_agent_s_shell_finds_no_key_and_a_forged_session_is_refused(
    start_simulator: Callable[..., Simulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keys of this test alone: `ps` shows what others run on the machine, too.
    key, other = f"cpk_{uuid.uuid4().hex}", f"sk-{uuid.uuid4().hex}"
    simulator = start_simulator({"extra_api_tokens": [key]})
    monkeypatch.setenv("CHUTES_API_TOKEN", key)
    monkeypatch.setenv("OPENAI_API_KEY", other)
    work = tmp_path / "home"
    llm = ChutesOpenCodeLLM("sim/script", work_dir=work, retries=1)

    result = llm.prompt(json.dumps({"steps": [bash(LOOT), bash(FORGE), {"text": "done"}]}))

    looted, forged = (call.output for call in result.transcript.tool_calls)
    loot = work / "loot"
    assert result.result == "done"
    assert int(looted) > 20
    names = {path.name for path in loot.rglob("*")}
    assert {"opencode.db", "opencode.json", "supervisor.cmdline"} <= names, names
    assert b"CHUTES_OPENCODE_LEASE" in (loot / "opencode.environ").read_bytes()
    assert b"opencode\n" in (loot / "opencode.cmdline").read_bytes()
    for secret in (key, other, simulator.base_url):
        assert files_that_hold(secret, loot) == []
        assert secret not in repr(result)
    assert [line.split(" ")[0] for line in forged.splitlines()] == ["422"] * 3 + ["401", "403"]
    assert "belongs to no prompt" in forged
    posts = [request for request in simulator.requests if request.method == "POST"]
    assert {request.session_id for request in posts} == {result.session_id}
    assert len(posts) == result.usage.num_requests == 3
    assert {request.headers["authorization"] for request in posts} == {f"Bearer {key}"}


def test_neither_prompt_nor_key_can_be_read_while_an_agent_works(
    simulator: Simulator,
    temp_folder: Path,
    tmp_path: Path,
    wait_until: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    work, key = tmp_path / "home", simulator.api_token
    steps = [
        bash("echo own: $OWN; echo HOME=$HOME"),
        bash("touch ready; while [ ! -e go ]; do sleep 0.1; done"),
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
    assert f"HOME={temp_folder}" in first
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
