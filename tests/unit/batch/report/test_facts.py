"""What a run's folder says of it, whoever wrote it last."""

from __future__ import annotations

import pytest

from chutes_opencode.batch.report.facts import facts
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.store.manifest import Manifest


@pytest.mark.parametrize(
    ("finished_at", "state", "held", "shown"),
    [
        (None, "running", True, "running"),
        (None, "stopping", True, "stopping"),
        (None, "running", False, "broken off"),  # killed
        (None, None, False, "broken off"),
        (None, None, True, "running"),
        (None, "stopped", False, "stopped"),
        (9.0, "running", False, "finished"),
        (9.0, None, False, "finished"),
        (None, "finished", False, "finished"),
    ],
)
def test_the_state_is_what_the_lock_and_the_files_say(
    finished_at: float | None, state: str | None, held: bool, shown: str
) -> None:
    manifest = Manifest("run", 1.0, finished_at=finished_at)
    snapshot = None if state is None else Snapshot(state=state)

    assert facts(manifest, snapshot, folder="runs/a", now=10.0, held=held).state == shown


@pytest.mark.parametrize(
    ("dataset", "settings", "snapshot", "total"),
    [
        ({"items": 4}, {}, None, 4),
        ({"items": 4}, {"models": ["a", "b"], "samples_per_item": 3}, None, 24),
        ({"items": 4}, {}, Snapshot(total=7), 7),
        ({}, {}, None, None),
    ],
)
def test_the_total_is_what_the_run_counted(
    dataset: dict[str, int],
    settings: dict[str, object],
    snapshot: Snapshot | None,
    total: int | None,
) -> None:
    manifest = Manifest("run", 1.0, dataset=dataset, settings=settings)

    assert facts(manifest, snapshot, folder="", now=0.0, held=False).total == total


def test_a_wait_is_told_only_while_somebody_waits() -> None:
    snapshot = Snapshot(waiting="rate limit until 12:03:20")
    manifest = Manifest("run", 1.0, resumed_at=(5.0,))

    assert facts(manifest, snapshot, folder="", now=9.0, held=True).waiting
    over = facts(manifest, snapshot, folder="", now=9.0, held=False)
    assert (over.waiting, over.sessions) == ("", (1.0, 5.0))
