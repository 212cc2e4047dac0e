"""However a prompt ends, nothing of it is left: no opencode, no child of its tools, no folder."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from chutes_opencode import ChutesOpenCodeLLM, Event, PromptTimeoutError, Simulator
from tests.patience import PROCESS_SECONDS, longer_and_longer

Processes = Callable[[str], list[psutil.Process]]
Leftovers = Callable[[], list[str]]
Wait = Callable[..., None]
RunPython = Callable[..., "subprocess.Popen[str]"]

SLEEP = {"tool": "bash", "arguments": {"command": "sleep 600 & sleep 600", "description": "d"}}
ECHO = {"tool": "bash", "arguments": {"command": "echo", "description": "d"}}
PROMPT = json.dumps({"steps": [ECHO, SLEEP]})
CALLER = """
import signal, sys
from chutes_opencode import ChutesOpenCodeLLM
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started us may ignore it
ChutesOpenCodeLLM("sim/script").prompt(sys.argv[1])
"""


@pytest.fixture
def asleep(simulator: Simulator, processes: Processes, wait_until: Wait) -> Callable[[], None]:
    """Wait until the agent's shell sleeps."""
    return lambda: wait_until(lambda: len(processes("sleep")) == 2)


def test_a_timeout_ends_all_and_tells_what_was_spent(
    leftovers: Leftovers, processes: Processes, simulator: Simulator, wait_until: Wait
) -> None:
    for seconds in longer_and_longer(10, tries=3):
        simulator.reset()
        llm = ChutesOpenCodeLLM("sim/script", timeout_seconds=seconds, retries=1)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(llm.prompt, PROMPT)
            wait_until(lambda: len(processes("sleep")) == 2 or future.done())  # noqa: B023
            slept = not future.done()
            result = future.result()
        assert leftovers() == []
        if slept:
            break

    assert (result.success, type(result.error)) == (False, PromptTimeoutError)
    assert result.usage.num_requests == 2
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd)
    assert result.duration_s >= seconds
    with pytest.raises(PromptTimeoutError):
        result.raise_for_error()


def test_a_cancelled_aprompt_has_ended_all_when_it_returns(
    asleep: Callable[[], None], leftovers: Leftovers
) -> None:
    async def main() -> None:
        task = asyncio.create_task(ChutesOpenCodeLLM("sim/script").aprompt(PROMPT))
        await asyncio.to_thread(asleep)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers() == []

    asyncio.run(main())


def test_a_cancelled_amap_has_ended_all_when_it_returns(
    asleep: Callable[[], None], leftovers: Leftovers
) -> None:
    async def read() -> None:
        async for _ in ChutesOpenCodeLLM("sim/script").amap([PROMPT]):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.to_thread(asleep)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers() == []

    asyncio.run(main())


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_stream_that_nobody_reads_on_ends_all_at_once(
    asleep: Callable[[], None], leftovers: Leftovers, *, abandoned: bool
) -> None:
    def begin() -> Iterator[Event]:
        events = ChutesOpenCodeLLM("sim/script").stream(PROMPT)
        next(events)
        return events

    events = begin()
    asleep()

    began = time.monotonic()
    if abandoned:
        del events
        gc.collect()
    else:
        events.close()  # type: ignore[attr-defined]

    assert time.monotonic() - began < 60
    assert leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_caller_ends_all(
    asleep: Callable[[], None],
    leftovers: Leftovers,
    run_python: RunPython,
    wait_until: Wait,
    number: signal.Signals,
) -> None:
    caller = run_python(CALLER, PROMPT)
    asleep()

    caller.send_signal(number)

    said = caller.communicate(timeout=PROCESS_SECONDS)[1]
    wait_until(lambda: leftovers() == [])
    assert caller.returncode != 0
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)


def test_what_a_killed_caller_and_supervisor_left_is_swept_by_the_next_start(
    asleep: Callable[[], None],
    leftovers: Leftovers,
    processes: Processes,
    run_python: RunPython,
    temp_folder: Path,
    wait_until: Wait,
) -> None:
    caller = run_python(CALLER, PROMPT)
    asleep()
    (supervisor,) = (found for found in processes("python") if found.ppid() == caller.pid)
    caller.send_signal(signal.SIGSTOP)
    # On a busy machine its threads run on for a while, and would tidy up after the supervisor.
    wait_until(lambda: psutil.Process(caller.pid).status() == psutil.STATUS_STOPPED)
    supervisor.kill()
    caller.kill()
    caller.communicate(timeout=PROCESS_SECONDS)
    wait_until(lambda: processes("opencode") == [])
    assert len(processes("sleep")) == 2
    (dead,) = temp_folder.iterdir()
    alive = temp_folder / "chutes-opencode-alive"
    alive.mkdir()
    start_time = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    (alive / "owner.json").write_text(
        json.dumps({"pid": os.getpid(), "start_time": int(start_time)})
    )

    ChutesOpenCodeLLM("sim/echo", retries=1).prompt("hello")

    assert processes("") == []
    assert not dead.exists()
    assert alive.exists(), "it belongs to a process that lives"
    (alive / "owner.json").write_text(json.dumps({"pid": os.getpid(), "start_time": 1}))
    run = run_python(CALLER, json.dumps({"steps": []}))
    run.communicate(timeout=PROCESS_SECONDS)
    assert leftovers() == [], "the pid lives, but it is another process"
