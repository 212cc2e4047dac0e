"""Results are taken back so that their tasks run again; none is lost by it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import FAILED, Record
from chutes_opencode.batch.store.run_lock import holder_of
from tests.patience import WAIT_SECONDS
from tests.unit.batch.store_room import append, names, open_run, record


def test_results_that_are_taken_back_run_again_and_their_cost_counts(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"), record("b", FAILED), record("c", FAILED))

        assert store.take_back(lambda each: each.id == "b") == 1
        assert store.standing(("b", "m", 0), "ab" * 16) == ""
        assert store.standing(("c", "m", 0), "ab" * 16) == FAILED
        append(store, record("b", at=2.0))

        assert (store.totals().ok, store.totals().failed) == (2, 1)
        assert (store.totals().taken_back, store.totals().cost_usd) == (1, 1.0)
    assert names(tmp_path / "results.jsonl") == ["a", "c", "b"]
    assert names(tmp_path / "attempts.jsonl") == ["b"]


def test_close_waits_for_results_that_are_being_taken_back(tmp_path: Path) -> None:
    store = open_run(tmp_path)
    append(store, record("a"), record("b", FAILED))
    opened, looked, go = store._opened, threading.Event(), threading.Event()

    def is_failed(each: Record) -> bool:
        looked.set()
        assert go.wait(WAIT_SECONDS)
        return each.status == FAILED

    with ThreadPoolExecutor(2) as pool:
        taking = pool.submit(store.take_back, is_failed)
        assert looked.wait(WAIT_SECONDS)
        closing = pool.submit(store.close)
        try:
            opened.writer._thread.join(WAIT_SECONDS)  # so far closing comes
            with pytest.raises(StoreError, match="closed"):
                store.take_back(lambda _: True)
            assert not closing.done()
            assert holder_of(tmp_path) is not None
        finally:
            go.set()
        assert (taking.result(WAIT_SECONDS), closing.result(WAIT_SECONDS)) == (1, None)

    assert holder_of(tmp_path) is None
    files = opened.files
    assert files._results._descriptor == files._attempts._descriptor == -1
    assert names(tmp_path / "results.jsonl") == ["a"]
    assert names(tmp_path / "attempts.jsonl") == ["b"]


def test_taking_back_that_comes_after_close_opens_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_run(tmp_path)
    append(store, record("a"))
    opened = store._opened
    store.close()

    with pytest.raises(RuntimeError, match="closed"):
        store.take_back(lambda _: True)
    with monkeypatch.context() as patch:  # it had begun just before
        patch.setattr(store, "_state", opened)
        patch.setattr(opened.writer, "_closed", False)
        with pytest.raises(StoreError, match="closed"):
            store.take_back(lambda _: True)

    files = opened.files
    assert files._results._descriptor == files._attempts._descriptor == -1
    assert names(tmp_path / "results.jsonl") == ["a"]


def test_nothing_to_take_back_changes_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path) as store:
        append(store, record("a"))
        before = (tmp_path / "results.jsonl").stat().st_ino

        assert store.take_back(lambda _: False) == 0

    assert (tmp_path / "results.jsonl").stat().st_ino == before
    assert not list(tmp_path.glob(".*.new"))
