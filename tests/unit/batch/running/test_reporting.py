"""Telling how far a batch is: whatever fails or hangs there costs no batch its end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.running import reporting
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.reporting import Reporter
from chutes_opencode.batch.running.status import read_status
from tests import patience
from tests.unit.batch.room import Log

BEGUN, ENDED = Snapshot(total=2), Snapshot(total=2, done=2, state="finished")


def test_the_end_is_told_after_all_before(tmp_path: Path) -> None:
    seen: list[Snapshot] = []

    async def main() -> None:
        reporter = Reporter(tmp_path, seen.append, Log())
        reporter.offer(BEGUN)
        await reporter.last(ENDED)

    asyncio.run(main())

    status = read_status(tmp_path)
    assert status is not None
    assert (seen, status.snapshot) == ([BEGUN, ENDED], ENDED)


def test_an_observer_that_does_not_return_holds_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "LAST_S", 0.01)
    called, go_on, log = threading.Event(), threading.Event(), Log()
    came_too_late: list[bool] = []

    def hang(_snapshot: Snapshot) -> None:
        called.set()
        came_too_late.append(not go_on.wait(patience.WAIT_SECONDS))

    async def main() -> None:
        reporter = Reporter(tmp_path, hang, log)
        reporter.offer(BEGUN)
        await asyncio.to_thread(called.wait, patience.WAIT_SECONDS)
        await reporter.last(ENDED)
        go_on.set()

    asyncio.run(main())

    status = read_status(tmp_path)
    assert status is not None
    assert status.snapshot == ENDED
    assert log.warnings == ["on_progress does not return"]
    assert came_too_late == [False]


def test_what_cannot_be_written_is_warned_of_once_and_the_observer_is_told(tmp_path: Path) -> None:
    log, seen = Log(), list[Snapshot]()
    no_text = Snapshot(waiting="\ud800")  # half a character, as in a model's name that is damaged

    async def main() -> None:
        reporter = Reporter(tmp_path, seen.append, log)
        reporter.offer(no_text)
        await reporter.last(no_text)

    asyncio.run(main())

    assert seen == [no_text, no_text]
    assert log.warnings == ["status.json cannot be written"]


def test_the_status_is_brought_to_the_runs_url_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "STATUS_S", 0.0)
    published: list[Snapshot] = []

    def publish(name: str) -> None:
        assert name == "status.json"
        status = read_status(tmp_path)
        assert status is not None
        published.append(status.snapshot)

    async def main() -> None:
        reporter = Reporter(tmp_path, None, Log(), publish)
        for done in range(3):
            reporter.offer(Snapshot(total=9, done=done))
            await reporter._told()
        await reporter.last(ENDED)

    asyncio.run(main())

    assert published == [Snapshot(total=9, done=0), ENDED]


def test_a_url_that_cannot_be_written_costs_no_batch_its_end(tmp_path: Path) -> None:
    log = Log()

    def refuse(_name: str) -> None:
        raise StoreError(raw_message="the storage is gone")

    asyncio.run(Reporter(tmp_path, None, log, refuse).last(ENDED))

    assert log.warnings == ["status.json cannot be written"]
