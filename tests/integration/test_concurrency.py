"""Many prompts at once, from threads, event loops, processes and forks: none sees another's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Done, Event, QueryResult, Simulator
from tests.patience import PROCESS_SECONDS

# 200 are asked for in the issue; each takes three seconds of two cores.
PROMPTS = int(os.environ.get("CHUTES_OPENCODE_TEST_PROMPTS", "24"))

ONE = """
import sys
from chutes_opencode import ChutesOpenCodeLLM
print(ChutesOpenCodeLLM("sim/echo", retries=1).prompt(sys.argv[1]).result)
"""

FORK = """
import os
from chutes_opencode import ChutesOpenCodeLLM
llm = ChutesOpenCodeLLM("sim/echo", retries=1)
print(llm.prompt("before").result, flush=True)
pid = os.fork()
print(llm.prompt("child" if pid == 0 else "parent").result, flush=True)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""

NOTEBOOK = """
import asyncio
from chutes_opencode import ChutesOpenCodeLLM
async def cell():
    llm = ChutesOpenCodeLLM("sim/echo", retries=1)
    print(llm.prompt("sync").result)
    print((await llm.aprompt("async")).result)
asyncio.run(cell())
"""


def test_eight_fresh_processes_at_once_in_an_empty_home(
    simulator: Simulator,
    run_python: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CHUTES_OPENCODE_HOME")
    (tmp_path / "empty").mkdir()

    running = [run_python(ONE, f"marker-{n}", HOME=str(tmp_path / "empty")) for n in range(8)]
    said = [process.communicate(timeout=PROCESS_SECONDS) for process in running]

    assert [out for out, _ in said] == [f"marker-{n}\n" for n in range(8)], said
    assert [process.returncode for process in running] == [0] * 8
    data = tmp_path / "empty" / ".local" / "share" / "chutes-opencode"
    assert [path for path in (tmp_path / "empty").rglob("*") if not path.is_relative_to(data)] == [
        data.parent.parent,
        data.parent,
    ]
    assert {path.name for path in data.iterdir()} <= {"opencode", "catalog"}


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(FORK, ["before", "child", "parent"]), (NOTEBOOK, ["async", "sync"])],
    ids=["fork", "notebook"],
)
def test_a_fork_and_a_running_event_loop_are_fine(
    simulator: Simulator,
    run_python: Callable[..., subprocess.Popen[str]],
    code: str,
    wanted: list[str],
) -> None:
    process = run_python(code)

    said, complaint = process.communicate(timeout=PROCESS_SECONDS)

    assert sorted(said.split()) == wanted, complaint
    assert process.returncode == 0


class Instance:
    """An instance with what it was heard to do."""

    def __init__(self, name: str, folder: Path) -> None:
        self.events: list[Event] = []
        self.logs = folder / name
        self.llm = ChutesOpenCodeLLM(
            "sim/echo", log_dir=self.logs, on_event=self.events.append, builtin_tools=False
        )

    @property
    def log(self) -> str:
        (file,) = self.logs.iterdir()
        return file.read_text()


@pytest.mark.timeout(600 + 60 * PROMPTS)
def test_every_prompt_has_its_own_result_usage_log_and_session(
    simulator: Simulator, tmp_path: Path
) -> None:
    markers = [f"marker-{number:03}-{'x' * number}." for number in range(PROMPTS)]
    groups = {name: markers[n::3] for n, name in enumerate(("threads", "tasks", "batch"))}
    instances = {name: Instance(name, tmp_path / "logs") for name in groups}

    async def ask(places: asyncio.Semaphore, marker: str) -> QueryResult:
        async with places:
            return await instances["tasks"].llm.aprompt(marker)

    async def tasks() -> list[QueryResult]:
        places = asyncio.Semaphore(10)
        return await asyncio.gather(*(ask(places, marker) for marker in groups["tasks"]))

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(instances["threads"].llm.prompt, m) for m in groups["threads"]]
        batch = pool.submit(instances["batch"].llm.batch, groups["batch"])
        results = {
            "tasks": asyncio.run(tasks()),
            "threads": [thread.result() for thread in threads],
            "batch": batch.result(),
        }

    sent = _markers_by_session(simulator)
    bills = simulator.bill.by_session
    for name, group in groups.items():
        assert [result.result for result in results[name]] == group
        for result, marker in zip(results[name], group, strict=True):
            assert result.session_id is not None
            assert sent.pop(result.session_id) == [marker]
            bill = bills[result.session_id]
            assert (result.usage.input, result.usage.output) == (
                bill.input_tokens,
                bill.output_tokens,
            )
            assert marker in result.stream_result
            assert repr(result).count("marker-") == repr(result).count(marker[:10])
        log = instances[name].log
        assert Counter({m: log.count(f"[Response]\n{m}\n") for m in markers}) == Counter(group)
        done = [event for event in instances[name].events if isinstance(event, Done)]
        assert Counter(event.result.result for event in done) == Counter(group)
        assert len({event.prompt_id for event in done}) == len(group)
    assert sent == {}


def _markers_by_session(simulator: Simulator) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for request in simulator.requests:
        if request.body:
            assert request.session_id is not None
            content = json.loads(request.body)["messages"][-1]["content"]
            found.setdefault(request.session_id, []).append(content)
    return found
