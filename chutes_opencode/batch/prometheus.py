"""A run's state for Prometheus, in its text exposition format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chutes_opencode.batch.running.progress import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "chutes_opencode_batch_"

_Labels = tuple[tuple[str, str], ...]
_Samples = Mapping[_Labels, float]


def text(snapshot: Snapshot, run: str) -> str:
    """Return the metrics of a run; each is a gauge, and carries the run's name as its label.

    What is not known (the time left, before anything is done) has no line. For node_exporter's
    textfile collector, write it to a file whose name ends in `.prom`.

    Args:
        snapshot: How far the run is.
        run: Its id or folder.
    """
    return "".join(_metric(name, about, run, samples) for name, about, samples in _all(snapshot))


def _all(snapshot: Snapshot) -> Iterator[tuple[str, str, _Samples]]:
    """Yield each metric's name, what it is, and its values by their further labels."""
    counts = {
        "done": snapshot.done,
        "failed": snapshot.failed,
        "skipped": snapshot.skipped,
        "in_flight": snapshot.in_flight,
        "pending": max(snapshot.left - snapshot.in_flight, 0),
    }
    states: dict[_Labels, float] = {(("state", name),): n for name, n in counts.items()}
    errors: dict[_Labels, float] = {(("class", name),): n for name, n in snapshot.errors.items()}
    yield "prompts", "Prompts by state.", states
    yield "errors", "Failed prompts by the class of their error.", errors
    yield from _single("running", "1 while prompts run.", snapshot.state in ("running", "stopping"))
    yield from _single("waiting", "1 while a limit holds prompts back.", bool(snapshot.waiting))
    yield from _single(
        "prompts_per_second", "Prompts that ended, over the last seconds.", snapshot.prompts_per_s
    )
    yield from _single("tokens_per_second", "Tokens of prompts that ended.", snapshot.tokens_per_s)
    yield from _single("spent_usd", "Cost of the run, all sessions.", snapshot.spent_usd)
    yield from _single(
        "projected_usd", "Cost of the whole run, if all goes on so.", snapshot.projected_usd
    )
    yield from _single("eta_seconds", "Time left, if all goes on so.", snapshot.eta_s)
    yield from _single("workers", "Workers of a cluster; 0: one process.", snapshot.workers)
    yield from _single("resent", "Prompts that were sent again, all sessions.", snapshot.resent)
    yield from _single("started_timestamp_seconds", "When it started.", snapshot.started_at)
    yield from _single("updated_timestamp_seconds", "When this was true.", snapshot.updated_at)


def _single(name: str, about: str, value: float | None) -> Iterator[tuple[str, str, _Samples]]:
    if value is not None:
        yield name, about, {(): value}


def _metric(name: str, about: str, run: str, samples: _Samples) -> str:
    if not samples:
        return ""
    lines = [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} gauge"]
    for labels, value in samples.items():
        shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in (("run", run), *labels))
        lines.append(f"{PREFIX}{name}{{{shown}}} {float(value):.15g}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
