"""The driver of a batch on Ray, in a process of its own: so its memory is its own, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, background
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.distributed.executor import RayExecutor
from scripts.bench_batch import peak_mib
from scripts.distributed_bench.instant import InstantLLM

MODEL = "sim/echo"
PER_NODE = 16


class Watch:
    """Knows when the first prompt was under way; it is told twice a second."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self.began = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        """Take how far the batch is."""
        if not self.began and (snapshot.in_flight or snapshot.done):
            self.began = time.perf_counter()


def run_instant(folder: Path) -> dict[str, float]:
    """Run the items of a folder with a worker that answers at once.

    Returns:
        Seconds from the first prompt on, seconds of a CPU that this process was busy, prompts, and
        the peak of its memory in MiB.
    """
    watch = Watch()
    with InstantLLM(MODEL, engine="direct", builtin_tools=False) as llm:
        _run(folder / "items.jsonl", llm, folder / "run", workers=1, watch=watch)
    seconds = time.perf_counter() - watch.began
    busy = time.process_time()
    done = RunFolder(folder / "run").totals().results
    return {"seconds": seconds, "busy": busy, "done": done, "peak_mib": peak_mib()}


def run_waves(folder: Path, workers: int, waves: int, engine: Any) -> dict[str, float]:
    """Keep all places of all nodes taken for some waves.

    Returns:
        Prompts and seconds of the middle, in which no engine starts and no place is empty: from
        the end of the first wave on until the last one is under way. And the places, and how many
        prompts the worker with the fewest had.
    """
    places = workers * PER_NODE
    prompts = [f"number {number}" for number in range(places * (waves + 2))]
    with ChutesOpenCodeLLM(MODEL, engine=engine, builtin_tools=False) as llm:
        least = _run(prompts, llm, folder / "run", workers)
    records = RunFolder(folder / "run").records()
    ends = sorted(record.started_at + record.duration_s for record in records)
    middle = ends[places - 1 : -places]
    return {
        "done": len(middle) - 1,
        "seconds": middle[-1] - middle[0],
        "places": places,
        "least": least / len(ends),
    }


def _run(
    items: Path | Sequence[str],
    llm: ChutesOpenCodeLLM,
    out: Path,
    workers: int,
    watch: Watch | None = None,
) -> int:
    """Run a batch; return how many prompts the worker with the fewest had."""
    executor = RayExecutor(llm, workers=workers, concurrency=PER_NODE)
    try:
        summary = run_batch(items, llm, out, executor=executor, on_progress=watch)
        assert summary.ok, summary
        return min(worker.done for worker in executor.stats().workers)
    finally:
        background.Job(executor.close()).result()
