"""What an agent's shells have left is ended by the mark of their session."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from chutes_opencode.engines import leftovers
from chutes_opencode.engines.leftovers import (
    PASSWORD_VARIABLE,
    SESSION_MARKER,
    end_leftovers,
    write_shell_plugin,
)
from chutes_opencode.opencode.config import KEY_VARIABLE


class Processes:
    """Stands for what runs on the machine.

    Attributes:
        ended: The marks whose processes were ended.
        threads: Who did it.
        slow: Cleared: ending takes until it is set.
    """

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self.begun = threading.Event()
        self.slow = threading.Event()
        self.slow.set()

    def end(self, name: str, value: str) -> int:
        self.begun.set()
        self.slow.wait()
        self.threads.add(threading.get_ident())
        self.ended.append((name, value))
        return 2


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(leftovers, "end_marked", made.end)
    return made


def test_what_carries_one_of_the_sessions_is_ended(processes: Processes) -> None:
    assert asyncio.run(end_leftovers(["ses_1", "ses_2", "ses_1"])) == 4
    assert processes.ended == [(SESSION_MARKER, "ses_1"), (SESSION_MARKER, "ses_2")]


def test_without_a_session_nothing_is_ended(processes: Processes) -> None:
    # An empty mark would be that of every shell which belongs to no session.
    assert asyncio.run(end_leftovers([""])) == 0
    assert asyncio.run(end_leftovers([])) == 0
    assert processes.ended == []


def test_the_event_loop_is_not_held_up(processes: Processes) -> None:
    asyncio.run(end_leftovers(["ses_1"]))

    assert processes.threads.isdisjoint({threading.get_ident()})


def test_a_cancelled_one_is_done_all_the_same_before_the_cancellation_goes_on(
    processes: Processes,
) -> None:
    processes.slow.clear()

    async def main() -> None:
        task = asyncio.create_task(end_leftovers(["ses_1", "ses_2"]))
        await asyncio.to_thread(processes.begun.wait)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not task.done()
        processes.slow.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(processes.ended) == 2

    asyncio.run(main())


def test_the_plugin_marks_shells_and_hides_the_servers_secrets(tmp_path: Path) -> None:
    plugin = write_shell_plugin(tmp_path)

    text = plugin.read_text()
    assert plugin.parent == tmp_path
    assert f"output.env.{SESSION_MARKER} = input.sessionID" in text
    assert f'HIDDEN = ["{PASSWORD_VARIABLE}", "{KEY_VARIABLE}"]' in text


def test_they_are_ended_even_where_there_are_no_threads_any_more(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_arguments: object) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(asyncio, "to_thread", refuse)

    assert asyncio.run(end_leftovers(["ses_1"])) == 2
