"""What a worker is told before its first prompt, and how it gets ready."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING

from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup.binary import ShippedBinary, find_own, worker_binary
from chutes_opencode.distributed.setup.secrets import key_names, refuse_keys
from chutes_opencode.errors import ConfigurationError, OpenCodeNotFoundError
from chutes_opencode.node import name_node
from chutes_opencode.settings import Settings, load_settings
from chutes_opencode.simulator import DEFAULT_API_TOKEN

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM
    from chutes_opencode.opencode.binary import Binary

PACKAGE = "chutes-opencode"


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker has to know of its driver; holds no secret.

    Attributes:
        package_version: The driver's chutes-opencode.
        needs_opencode: Whether the engine runs opencode at all.
        opencode_version: The driver's opencode; "": it has none.
        binary: A copy of it in the object store; None: there is none.
        key_names: The variables that may hold a key.
        install: Whether a worker may fetch opencode from npm when it has no other way.
        limiter: Whether the whole cluster shares one limiter for each account.
        simulated: Whether an embedded simulator stands in, whose key is public.
    """

    package_version: str
    needs_opencode: bool = True
    opencode_version: str = ""
    binary: ShippedBinary | None = None
    key_names: tuple[str, ...] = ()
    install: bool = False
    limiter: bool = True
    simulated: bool = False

    @classmethod
    def of_driver(
        cls, llm: ChutesOpenCodeLLM, *, install: bool = False, limiter: bool = True
    ) -> WorkerSetup:
        """Say what this process's workers have to know; it must be connected to Ray.

        Args:
            llm: The instance that they are to use.
            install: Whether they may fetch opencode from npm when they have no other way.
            limiter: Whether the whole cluster shares one limiter for each account.

        Raises:
            ConfigurationError: The job's `runtime_env` holds a key.
        """
        names = key_names(llm.options.provider)
        refuse_keys(ray.get_runtime_context().runtime_env, names)
        needed = llm.options.engine != "direct"
        shipped = _shipped(llm.settings) if needed else None
        return cls(
            package_version=distribution_version(PACKAGE),
            needs_opencode=needed,
            opencode_version="" if shipped is None else shipped.version,
            binary=shipped,
            key_names=names,
            install=install,
            limiter=limiter and llm.options.relay,
            simulated=_is_simulated(llm.settings),
        )


def drivers_version(llm: ChutesOpenCodeLLM) -> str:
    """Return the driver's opencode, as its workers will hear of it; "": none, or none is needed."""
    if llm.options.engine == "direct":
        return ""
    try:
        return find_own(llm.settings).version
    except OpenCodeNotFoundError:
        return ""


_lock = threading.Lock()
_entered: set[int] = set()
_sharing: set[int] = set()
_binaries: dict[tuple[int, str, bool], Binary] = {}
_copies: dict[tuple[str, Path, str], ShippedBinary] = {}


def _after_fork() -> None:
    """Forget the parent's lock, whose holder does not exist in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def enter(setup: WorkerSetup) -> None:
    """Make this worker's process ready for prompts; what is done already is not done again.

    Errors are told with Ray's id of the node from then on, and the limiters of its relay are the
    cluster's.

    Args:
        setup: What the driver says.

    Raises:
        ConfigurationError: Another chutes-opencode than the driver's, or a key in `runtime_env`.
        OpenCodeNotFoundError: No opencode that could be used.
    """
    with _lock:
        if os.getpid() not in _entered:
            name_node(ray.get_runtime_context().get_node_id())
            _check_package(setup.package_version)
            load_settings()  # the key that they find is known from now on as one
            refuse_keys(ray.get_runtime_context().runtime_env, setup.key_names)
            _entered.add(os.getpid())
        if setup.limiter and os.getpid() not in _sharing:  # an earlier one may not have wanted it
            _share_limiters()
            _sharing.add(os.getpid())
        if setup.needs_opencode:
            _find_binary(setup)


def opencode_of(setup: WorkerSetup) -> Path | None:
    """Return the opencode that `enter` has found, None if the engine needs none."""
    return _find_binary(setup).path if setup.needs_opencode else None


def _find_binary(setup: WorkerSetup) -> Binary:
    known = (os.getpid(), setup.opencode_version, setup.install)
    if known not in _binaries:
        _binaries[known] = worker_binary(
            setup.opencode_version, setup.binary, load_settings(), install_missing=setup.install
        )
    return _binaries[known]


def _check_package(drivers: str) -> None:
    """Refuse to work with what another version has packed."""
    own = distribution_version(PACKAGE)
    if own != drivers:
        raise ConfigurationError(
            raw_message=f"this worker has {PACKAGE} {own}, the driver {drivers}",
            hint=f"Install {PACKAGE}=={drivers} on the workers.",
        )


def _share_limiters() -> None:
    from chutes_opencode.distributed.limiter.cluster_limiter import cluster_limiters
    from chutes_opencode.relay.resources import use_limiters

    use_limiters(cluster_limiters(ray.get_runtime_context().get_node_id()))


def _shipped(settings: Settings) -> ShippedBinary | None:
    """Return the driver's opencode in the object store, None if the driver has none."""
    try:
        binary = find_own(settings)
    except OpenCodeNotFoundError:
        return None
    # The id of this process in the cluster that it is connected to now.
    known = (ray.get_runtime_context().get_worker_id(), binary.path, binary.version)
    with _lock:
        if known not in _copies:
            _copies[known] = ShippedBinary.of(binary)
        return _copies[known]


def _is_simulated(settings: Settings) -> bool:
    """Whether the settings are those that `--simulate` makes."""
    token = settings.api_token
    public = token is not None and token.get_secret_value() == DEFAULT_API_TOKEN
    return public and settings.is_loopback and settings.sources.get("api_token") == "argument"
