"""An instance on its way to a worker, where it is kept for the next prompt."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup.secrets import (
    WORKER_KEY_HINT,
    key_of,
    pack,
    refuse_keys,
)
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup, opencode_of
from chutes_opencode.errors import AuthenticationError, OpenCodeError
from chutes_opencode.node import node_id
from chutes_opencode.settings import Settings, load_settings
from chutes_opencode.simulator import DEFAULT_API_TOKEN

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM

KEPT = 16
"""So many instances a process keeps; each may have an engine that is warm."""

_lock = threading.Lock()
_kept: dict[tuple[int, bytes, WorkerSetup], ChutesOpenCodeLLM] = {}


def _after_fork() -> None:
    """Forget the parent's lock, whose holder does not exist in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True, slots=True)
class Parcel:
    """An instance in the form in which it is sent; without key and process.

    Attributes:
        packed: Its bytes.
    """

    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, llm: ChutesOpenCodeLLM) -> Parcel:
        """Pack an instance.

        Raises:
            ConfigurationError: The key stands in it, or something in it cannot be sent.
        """
        return cls(pack(llm, key_of(llm.settings)))

    def open(self, setup: WorkerSetup) -> ChutesOpenCodeLLM:
        """Return the instance, set up for this machine; equal ones are one, with its warm engine.

        Folders and opencode are this machine's, and so is the key.

        Args:
            setup: What the driver says; `enter` was called with it.
        """
        known = (os.getpid(), self.packed, setup)
        with _lock:
            llm = _kept.pop(known, None) or self._unpack(setup)
            _kept[known] = llm  # the one used last stands last
            old = _kept.pop(next(iter(_kept))) if len(_kept) > KEPT else None
        if old is not None:
            old.close()
        return llm

    def _unpack(self, setup: WorkerSetup) -> ChutesOpenCodeLLM:
        llm: ChutesOpenCodeLLM = ray.cloudpickle.loads(self.packed)
        llm.settings = local_settings(llm.settings, load_settings(), setup)
        refuse_keys(ray.get_runtime_context().runtime_env, setup.key_names)  # of its provider, too
        return llm


def local_settings(sent: Settings, own: Settings, setup: WorkerSetup) -> Settings:
    """Return the driver's settings with what is each machine's own.

    Args:
        sent: The driver's, without a key.
        own: This machine's, from its environment and files.
        setup: What the driver says.
    """
    chosen = {name for name, source in sent.sources.items() if source == "argument"}
    values: dict[str, Any] = {
        name: getattr(own, name) for name in ("home", "temp_dir") if name not in chosen
    }
    if (opencode := opencode_of(setup)) is not None:
        values["opencode_bin"] = opencode
    if setup.simulated:
        values["api_token"] = DEFAULT_API_TOKEN
    return sent.overridden(**values).with_fresh_token()


def placed(error: OpenCodeError) -> OpenCodeError:
    """Return an error of this worker's with its node, and with what to do about a missing key.

    Args:
        error: As it was raised here.
    """
    if error.node_id == "unknown":
        error.place(node_id(), error.model)
    missing = isinstance(error, AuthenticationError) and error.status is None
    if missing and error.hint != WORKER_KEY_HINT:  # the driver may well have one
        error.raw_message = f"on the node {error.node_id} of the cluster: {error.raw_message}"
        error.hint = WORKER_KEY_HINT
    return error
