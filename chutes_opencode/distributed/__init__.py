"""Prompts on a Ray cluster; the only part that imports ray, which is the extra `[ray]`.

Each public name can be imported from here, and from `chutes_opencode`; it is loaded when it is
first used, so that a worker imports only what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chutes_opencode.distributed.batches import ray_batch
    from chutes_opencode.distributed.dataset.data import prompt_dataset
    from chutes_opencode.distributed.executor import RayExecutor
    from chutes_opencode.distributed.failures import original
    from chutes_opencode.distributed.pool import PromptPool
    from chutes_opencode.distributed.setup.parcel import Parcel
    from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
    from chutes_opencode.distributed.tasks import prompt_task
    from chutes_opencode.distributed.worker import PromptWorker

_HOMES = {
    "Parcel": "setup.parcel",
    "PromptPool": "pool",
    "PromptWorker": "worker",
    "RayExecutor": "executor",
    "WorkerSetup": "setup.worker_setup",
    "original": "failures",
    "prompt_dataset": "dataset.data",
    "prompt_task": "tasks",
    "ray_batch": "batches",
}

__all__ = [
    "Parcel",
    "PromptPool",
    "PromptWorker",
    "RayExecutor",
    "WorkerSetup",
    "original",
    "prompt_dataset",
    "prompt_task",
    "ray_batch",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it.

    Raises:
        ConfigurationError: Ray is not installed; it names the command that installs it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
