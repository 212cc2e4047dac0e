"""What tests of batches on nodes share: items, instances, and what is left of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, RunFolder, Simulator, background, run_batch
from chutes_opencode.batch.running.summary import BatchSummary
from chutes_opencode.distributed.executor import RayExecutor
from tests.distributed.nodes import Nodes
from tests.patience import PROCESS_SECONDS

StartSimulator = Callable[..., Simulator]
Wait = Callable[..., None]


def items(count: int, **step: Any) -> list[dict[str, str]]:
    """Return items whose answers are known."""
    rows = []
    for number in range(count):
        steps = [{"text": f"answer {number}"} | step]
        prompt = f"item-{number} {json.dumps({'steps': steps})}"
        rows.append({"id": f"item-{number}", "prompt": prompt})
    return rows


def answers(count: int) -> dict[str, str]:
    """Return what `items` are answered with."""
    return {f"item-{number}": f"answer {number}" for number in range(count)}


def write_items(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in items(count)))
    return path


def asked(simulator: Simulator) -> Counter[str]:
    """Count the model requests of each item."""
    bodies = [request.json for request in simulator.requests if request.body]
    return Counter(str(body["messages"][-1]["content"]).split()[0].strip('"') for body in bodies)


def direct(**arguments: Any) -> ChutesOpenCodeLLM:
    """An instance that needs no opencode, where only what carries prompts is looked at."""
    return ChutesOpenCodeLLM("sim/script", engine="direct", retries=1, **arguments)


def warm() -> ChutesOpenCodeLLM:
    """An instance whose workers have a warm opencode each."""
    return ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1)


def results(out: Path) -> dict[str, str]:
    """Return the answers by id; each id may be there once."""
    records = list(RunFolder(out).records())
    assert len({record.id for record in records}) == len(records)
    return {record.id: record.result for record in records}


def shards(out: Path) -> list[str]:
    """Return the node of each worker that has begun, by the first letters of its id."""
    folder = out / "shards"
    return [path.name[:8] for path in folder.iterdir()] if folder.exists() else []


def is_begun_on(nodes: Nodes, out: Path) -> bool:
    """Tell whether all nodes have a worker that works for the run."""
    return {node_id[:8] for node_id in nodes.ids} <= set(shards(out))


def on_ray(
    rows: list[dict[str, str]], llm: ChutesOpenCodeLLM, out: Path, **arguments: Any
) -> BatchSummary:
    """Run a batch with an executor that is given arguments of its own."""
    executor = RayExecutor(llm, **arguments)
    try:
        return run_batch(rows, llm, out, executor=executor)
    finally:
        background.Job(executor.close()).result()


@contextmanager
def under_way(run: Callable[[], BatchSummary]) -> Iterator[Future[BatchSummary]]:
    """Run a batch beside the test."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(run)


def ended(batch: Future[BatchSummary]) -> BatchSummary:
    return batch.result(PROCESS_SECONDS)
