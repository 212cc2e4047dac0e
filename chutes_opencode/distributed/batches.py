"""ray_batch: a batch on a Ray cluster in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from chutes_opencode import background
from chutes_opencode.batch.running.runner import BatchArguments, run_batch
from chutes_opencode.batch.running.summary import BatchSummary
from chutes_opencode.distributed.connect import Tell
from chutes_opencode.distributed.executor import RayExecutor
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.llm import ChutesOpenCodeLLM


def ray_batch(
    items: Any,
    llm: ChutesOpenCodeLLM,
    out_dir: Path | str,
    *,
    address: str | None = None,
    workers: int | None = None,
    tell: Tell | None = None,
    **arguments: Unpack[BatchArguments],
) -> BatchSummary:
    """Run many prompts on a Ray cluster, each once; as `run_batch`, and as durable.

    The same call again goes on where the last one ended, however that ended.

    Args:
        items: As for `run_batch`.
        llm: What answers.
        out_dir: The run's folder, on storage that all nodes share, or a URL.
        address: Of the cluster; None: RAY_ADDRESS, one that runs here, or one of our own.
        workers: How many; None: one on every node that can hold one.
        tell: Takes a line for people: which cluster is looked for, or started.
        **arguments: As for `run_batch`; `concurrency` is that of each worker.

    Raises:
        ConfigurationError: There is no such cluster, or no place for a worker in it.
        OpenCodeError: As `run_batch`.
    """
    if arguments.get("executor") is not None:
        raise ConfigurationError(raw_message="ray_batch brings an executor of its own")
    executor = RayExecutor(llm, workers=workers, address=address, tell=tell)
    arguments["executor"] = executor
    try:
        return run_batch(items, llm, out_dir, **arguments)
    finally:
        background.Job(executor.close()).result()
