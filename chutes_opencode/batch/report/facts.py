"""What a run's folder says of it, besides its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.batch.running.progress import FINISHED, RUNNING, STOPPED, STOPPING, Snapshot
from chutes_opencode.batch.store.manifest import Manifest

BROKEN_OFF = "broken off"


@dataclass(frozen=True, slots=True)
class Facts:
    """A run, besides its results.

    Attributes:
        run_id: Its name.
        folder: Where it is.
        state: "running", "stopping", "finished", "stopped" or "broken off".
        stopped_by: Why it stopped; "": it did not, or nothing is known.
        waiting: What it waits for, in words.
        total: Tasks of the batch; None: unknown.
        sessions: When it was started and resumed, seconds since the epoch, ascending.
        seen_at: When it was last seen alive, seconds since the epoch; None: nothing is known.
        made_at: When the report was made, seconds since the epoch.
        versions: Of this package and of opencode.
        dataset: Where the items come from.
        settings: Those that answers depend on.
        prices: US dollars per million tokens by model, and by kind of token.
    """

    run_id: str
    folder: str
    state: str
    stopped_by: str = ""
    waiting: str = ""
    total: int | None = None
    sessions: tuple[float, ...] = ()
    seen_at: float | None = None
    made_at: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def facts(
    manifest: Manifest, snapshot: Snapshot | None, *, folder: str, now: float, held: bool
) -> Facts:
    """Read a run's manifest and status.

    Args:
        manifest: What the run was begun with.
        snapshot: The last one; None: there is none.
        folder: Where the run is.
        now: Seconds since the epoch.
        held: Whether a process works at the run.
    """
    versions = {
        "chutes-opencode": manifest.package_version,
        "opencode": manifest.opencode_version,
    }
    return Facts(
        run_id=manifest.run_id,
        folder=folder,
        state=_state(manifest, snapshot, held),
        stopped_by=snapshot.stopped_by if snapshot else "",
        waiting=snapshot.waiting if snapshot and held else "",
        total=_total(manifest, snapshot),
        sessions=tuple(sorted((manifest.created_at, *manifest.resumed_at))),
        seen_at=snapshot.updated_at if snapshot else None,
        made_at=now,
        versions={name: version for name, version in versions.items() if version},
        dataset=manifest.dataset,
        settings=manifest.settings,
        prices=manifest.prices,
    )


def _state(manifest: Manifest, snapshot: Snapshot | None, held: bool) -> str:
    if held:
        return STOPPING if snapshot and snapshot.state == STOPPING else RUNNING
    if manifest.finished_at is not None or (snapshot and snapshot.state == FINISHED):
        return FINISHED
    return STOPPED if snapshot and snapshot.state == STOPPED else BROKEN_OFF


def _total(manifest: Manifest, snapshot: Snapshot | None) -> int | None:
    """Return the tasks: as the run counted them, else items × models × samples."""
    if snapshot is not None and snapshot.total:
        return snapshot.total
    items = manifest.dataset.get("items")
    if not isinstance(items, int):
        return None
    models = manifest.settings.get("models")
    samples = manifest.settings.get("samples_per_item")
    return items * max(len(models or ()), 1) * (samples if isinstance(samples, int) else 1)
