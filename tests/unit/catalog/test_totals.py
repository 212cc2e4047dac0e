"""Counts of look-ups: of this process, and of all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chutes_opencode.catalog import totals
from chutes_opencode.catalog.totals import Counter, LookupStats


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "totals.json"


def test_rates_are_shares_of_what_was_tried() -> None:
    stats = LookupStats(lookups=10, hits=9, syncs=3, failed_syncs=1)

    assert (stats.hit_rate, stats.sync_rate) == (0.9, 0.75)


def test_before_the_first_there_is_no_rate() -> None:
    assert (LookupStats().hit_rate, LookupStats().sync_rate) == (None, None)


def test_counts_of_several_are_added_up(path: Path) -> None:
    first, second = Counter(path), Counter(path)

    first.add(LookupStats(lookups=2, hits=1), save=True)
    second.add(LookupStats(lookups=3, hits=3, syncs=1), save=True)

    assert first.stats == LookupStats(lookups=2, hits=1)
    assert first.totals == second.totals == LookupStats(lookups=5, hits=4, syncs=1)


def test_what_is_not_saved_yet_counts_already_here(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals.time, "monotonic", lambda: 1000.0)  # type: ignore[attr-defined]
    counter = Counter(path)

    counter.add(LookupStats(lookups=1))
    counter.add(LookupStats(lookups=1))

    assert counter.totals == LookupStats(lookups=2)
    assert Counter(path).totals == LookupStats(lookups=1)

    counter.save()
    assert Counter(path).totals == LookupStats(lookups=2)


def test_a_busy_process_saves_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(totals.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    counter = Counter(path)

    for now[0] in (1000.0, 1001.0, 1000.0 + totals.SAVE_SECONDS):
        counter.add(LookupStats(lookups=1))

    assert Counter(path).totals == LookupStats(lookups=3)


def test_nothing_is_written_where_nothing_is_new(path: Path) -> None:
    Counter(path).save()

    assert not path.exists()


@pytest.fixture
def unlock(path: Path) -> Iterator[Callable[[], None]]:
    """Lock the file, as another process would; the function given unlocks it."""
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries to save, in seconds; only they move the clock."""
    made: list[float] = []
    monkeypatch.setattr(totals.time, "monotonic", lambda: 1000.0 + sum(made))  # type: ignore[attr-defined]
    monkeypatch.setattr(totals.time, "sleep", made.append)  # type: ignore[attr-defined]
    return made


def test_a_look_up_waits_for_no_lock_and_the_next_one_saves_both(
    path: Path, unlock: Callable[[], None], pauses: list[float]
) -> None:
    counter = Counter(path)

    counter.add(LookupStats(lookups=1))
    assert (path.read_bytes(), pauses) == (b"", [])

    unlock()
    counter.add(LookupStats(lookups=1))
    assert Counter(path).totals == LookupStats(lookups=2)


def test_a_last_save_waits_until_another_process_has_written(
    path: Path,
    unlock: Callable[[], None],
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            unlock()

    monkeypatch.setattr(totals.time, "sleep", pause)  # type: ignore[attr-defined]
    counter = Counter(path)
    counter.add(LookupStats(lookups=1))

    counter.save()

    assert Counter(path).totals == LookupStats(lookups=1)
    assert len(pauses) == 3


@pytest.mark.usefixtures("unlock")
def test_a_last_save_does_not_wait_for_ever(path: Path, pauses: list[float]) -> None:
    counter = Counter(path)
    counter.add(LookupStats(lookups=1))

    counter.save()

    assert path.read_bytes() == b""
    assert sum(pauses) == pytest.approx(totals.LOCKED_SECONDS, abs=2 * max(pauses))
    assert counter.totals == LookupStats(lookups=1)


def test_a_save_that_no_waiting_helps_does_not_wait(tmp_path: Path, pauses: list[float]) -> None:
    counter = Counter(tmp_path / "missing" / "totals.json")
    counter.add(LookupStats(lookups=1))

    counter.save()

    assert pauses == []


def test_a_folder_that_cannot_be_written_costs_no_look_up(tmp_path: Path) -> None:
    counter = Counter(tmp_path / "missing" / "totals.json")

    counter.add(LookupStats(lookups=1), save=True)

    assert counter.totals == LookupStats(lookups=1)


@pytest.mark.parametrize(
    "content",
    [b"", b"[1, 2", b"[1, 2, 3]", b"[1, 2, 3, -4]", b"[1, 2, 3, true]", b"[1, 2, 3, 4.5]", b"7"],
)
def test_counts_that_make_no_sense_begin_anew(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    counter = Counter(path)

    counter.add(LookupStats(hits=1), save=True)

    assert Counter(path).totals == LookupStats(hits=1)


def test_the_file_does_not_grow(path: Path) -> None:
    counter = Counter(path)
    counter.add(LookupStats(lookups=123456789), save=True)
    size = path.stat().st_size

    counter.add(LookupStats(lookups=10**12), save=True)

    assert path.stat().st_size == size


def test_a_reset_counter_begins_at_zero(path: Path) -> None:
    counter = Counter(path)
    counter.add(LookupStats(lookups=1), save=True)

    counter.reset()

    assert counter.stats == LookupStats()
