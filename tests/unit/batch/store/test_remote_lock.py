"""One driver at a time at a URL: its heartbeat keeps others out, and its silence lets them in."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import orjson
import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.store import remote_lock
from chutes_opencode.batch.store.remote import Remote
from chutes_opencode.batch.store.remote_lock import NAME, STALE_S, RemoteLock, remote_holder
from chutes_opencode.batch.store.run_lock import Holder
from tests.patience import wait_until


@pytest.fixture
def remote(memory_url: str) -> Remote:
    return Remote(memory_url)


def left_by(remote: Remote, *, ago: float = 0.0, **fields: Any) -> None:
    """Leave the lock of another driver."""
    values = {"pid": 1, "host": "elsewhere", "token": "other", "at": time.time() - ago}
    remote.put(NAME, orjson.dumps(values | fields))


def test_a_second_driver_is_kept_out(remote: Remote) -> None:
    lock = RemoteLock(remote)
    assert remote_holder(remote) == Holder(os.getpid(), platform.node())

    with pytest.raises(StoreError, match=rf"in use: process {os.getpid()} runs a batch there"):
        RemoteLock(remote)
    lock.check()
    lock.release()

    assert remote_holder(remote) is None
    assert remote.names() == []
    RemoteLock(remote).release()


def test_a_driver_of_another_machine_keeps_others_out_until_it_is_silent(remote: Remote) -> None:
    left_by(remote)
    assert remote_holder(remote) == Holder(1, "elsewhere")
    with pytest.raises(StoreError, match="process 1 on elsewhere"):
        RemoteLock(remote)

    left_by(remote, ago=STALE_S + 1)

    assert remote_holder(remote) is None
    RemoteLock(remote).release()


def test_a_process_of_this_machine_that_is_gone_keeps_nobody_out(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_pid: int, _signal: int) -> None:
        raise ProcessLookupError

    def foreign(_pid: int, _signal: int) -> None:
        raise PermissionError

    left_by(remote, host=platform.node(), pid=4_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", foreign)
        assert remote_holder(remote) is not None
    monkeypatch.setattr(os, "kill", gone)

    assert remote_holder(remote) is None
    RemoteLock(remote).release()


@pytest.mark.parametrize("data", [b"", b"no json", b"[1]", b"{}", b'{"pid":"x"}'])
def test_an_object_that_cannot_be_read_is_no_lock(remote: Remote, data: bytes) -> None:
    remote.put(NAME, data)

    RemoteLock(remote).release()


def test_the_heart_goes_on_beating_though_the_storage_fails_once(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.001)
    lock, real, failures = RemoteLock(remote), remote.put, [0]

    def once(name: str, data: bytes) -> None:
        failures[0] += 1
        if failures[0] == 1:
            raise StoreError(raw_message="the storage is busy")
        real(name, data)

    monkeypatch.setattr(remote, "put", once)
    wait_until(lambda: failures[0] > 3)
    monkeypatch.setattr(remote, "put", real)
    remote.delete(NAME)

    wait_until(lambda: remote_holder(remote) is not None)
    lock.release()
    assert remote.names() == []


def test_a_lock_that_was_taken_over_is_lost(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.001)
    lock = RemoteLock(remote)

    def is_lost() -> bool:
        left_by(remote)
        try:
            lock.check()
        except StoreError as error:
            return "was taken over" in error.raw_message
        return False

    wait_until(is_lost)
    lock.release()

    assert remote_holder(remote) == Holder(1, "elsewhere")


def test_of_two_that_begin_together_one_sees_the_other(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote.put

    def overtaken(name: str, data: bytes) -> None:
        real(name, data)
        monkeypatch.setattr(remote, "put", real)
        left_by(remote)

    monkeypatch.setattr(remote, "put", overtaken)

    with pytest.raises(StoreError, match="was taken over"):
        RemoteLock(remote)
