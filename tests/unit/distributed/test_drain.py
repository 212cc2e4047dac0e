"""Ending well: what runs may end, what is new is refused, what takes too long is ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from chutes_opencode.distributed.drain import Drain, on_sigterm, overtime
from chutes_opencode.errors import WorkerLostError
from chutes_opencode.results import QueryResult
from tests.patience import WAIT_SECONDS, join, wait_until


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[str]]:
    """What SIGTERM did before; notes that it was done, and is there again after the test."""
    told: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append("as before"))
    yield told
    signal.signal(signal.SIGTERM, before)


def test_what_runs_ends_by_itself_and_the_drain_with_it() -> None:
    drain, ends = Drain(), list[str]()
    with drain.admit(lambda: ends.append("ended")) as place:
        thread = threading.Thread(target=drain.begin)
        thread.start()
        wait_until(lambda: drain.begun)
        assert drain.busy
    join(thread)

    assert ends == []
    assert not place.ended
    assert not drain.busy


def test_what_takes_longer_is_ended() -> None:
    drain, gone = Drain(), threading.Event()
    with drain.admit(gone.set) as place:
        drain.begin(0.001)
        assert gone.is_set()

    assert place.ended


def test_what_is_new_is_refused_by_a_type_of_ours() -> None:
    drain = Drain()
    drain.begin()

    with pytest.raises(WorkerLostError, match="begins no prompt any more") as caught:
        drain.admit(list).__enter__()

    assert caught.value.result is None
    assert "was not begun" in caught.value.hint


def test_the_error_of_what_was_ended_holds_what_was_paid() -> None:
    paid = QueryResult(result="ha", returncode=-1, stderr="", stream_result="", cost_usd=0.5)

    error = overtime(paid, 25)

    assert error.result is paid
    assert "25 s" in error.raw_message


def test_sigterm_does_as_before_where_there_is_nothing_to_lose(handlers: list[str]) -> None:
    begun: list[str] = []
    assert on_sigterm(lambda: False, lambda: begun.append("drain"))

    os.kill(os.getpid(), signal.SIGTERM)

    wait_until(lambda: handlers == ["as before"])
    assert begun == []


def test_sigterm_drains_once_and_then_does_as_before(handlers: list[str]) -> None:
    busy, drained, begun = threading.Event(), threading.Event(), list[str]()

    def begin() -> None:
        begun.append("drain")
        drained.wait(WAIT_SECONDS)

    busy.set()
    on_sigterm(busy.is_set, begin)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: begun)
    assert handlers == []

    busy.clear()
    drained.set()

    wait_until(lambda: handlers)
    assert begun == ["drain"]


def test_only_the_main_thread_can_listen() -> None:
    heard: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: heard.append(on_sigterm(lambda: True, list)))
    thread.start()
    join(thread)

    assert heard == [False]
    assert signal.getsignal(signal.SIGTERM) is before
