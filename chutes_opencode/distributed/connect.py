"""The way into a Ray cluster."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import wraps
from typing import Any

from chutes_opencode.distributed.cluster_token import bring_token, check_token
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.failures import one_line
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.logs import make_logger
from chutes_opencode.settings import ray_environment

CLIENT = "ray://"
# Ray itself tries an address where nobody listens for some five minutes.
REACH_SECONDS = 10.0
HINT = (
    "Start a cluster with `ray start --head`, name one (--address, RAY_ADDRESS), or leave the "
    "address out: without a cluster Ray then starts one on this machine."
)
ADDRESS = "RAY_ADDRESS"

Tell = Callable[[str], object]


def connect(
    address: str | None = None,
    *,
    tell: Tell | None = None,
    before_start: Callable[[], object] = lambda: None,
) -> None:
    """Connect this process to a Ray cluster, unless it is connected already.

    Args:
        address: "auto": the cluster of RAY_ADDRESS or the one that runs on this machine, which
            must be there; "local": one of its own; "host:port": that one; None: as "auto", and
            where there is none, one of its own.
        tell: Takes a line for people: what is looked for, what is started.
        before_start: Called before a cluster of our own is started; what it raises is raised.

    Raises:
        ConfigurationError: There is no such cluster, or it does not take us; in one line.
    """
    if ray.is_initialized():
        return
    said = _said(address)
    try:
        if _is_there(said, tell):
            _begin(address)
        else:
            before_start()
            if tell is not None:
                tell("starting Ray on this machine …")
            bring_token()
            _begin("local")
    except (OSError, RuntimeError, ValueError) as error:
        where = "" if address is None else f" at {address!r}"
        raise _no_cluster(where, error) from error


def require(address: str | None) -> None:
    """Refuse at once an address where no cluster is that would take us; nothing is begun.

    Args:
        address: As for `connect`.

    Raises:
        ConfigurationError: As `connect` does.
    """
    if ray.is_initialized() or (said := _said(address)) is None:
        return
    try:
        _is_there(said, None)
    except ConnectionError as error:
        raise _no_cluster(f" at {address!r}", error) from error


def _begin(address: str | None) -> None:
    # Workers' output is in Ray's logs: on our stdout it would stand between the data. Ray's own
    # warnings are about signals and tokens, of which people have heard from us, or need not hear.
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    _warn_on_stderr()


def _warn_on_stderr() -> None:
    """Have Ray print what it has to say of the cluster on stderr.

    With `log_to_driver=False`, too, it prints that on stdout, in a thread of its own (2.60:
    `listen_error_messages`), and there is no setting for it. Where a later Ray has no such
    function, all stays as it is.
    """
    from ray._private import worker

    printed = getattr(worker, "print_to_stdstream", None)
    if printed is None or hasattr(printed, "__wrapped__"):
        return

    @wraps(printed)
    def print_aside(data: dict[str, Any], *rest: Any, **named: Any) -> None:
        said = {**data, "is_err": True} if data.get("pid") == "raylet" else data
        printed(said, *rest, **named)

    worker.print_to_stdstream = print_aside


def _is_there(said: str | None, tell: Tell | None) -> bool:
    """Find the cluster that is meant; False: one of our own is.

    Args:
        said: As the caller, or RAY_ADDRESS, has it.
        tell: Takes lines for people.

    Raises:
        ConfigurationError: Nobody listens there, or it does not take us.
        ConnectionError: None is known.
    """
    named = said not in (None, "auto")
    place = said if named else _remembered(said)
    if place is None or place == "local":
        return False
    if tell is not None:
        tell(f"looking for the Ray cluster at {place} …")
    try:
        _reach(place)
    except ConfigurationError:
        if named:
            raise
        return _gone(place, said, tell)
    if _is_host_and_port(place):
        check_token(place, named=named, seconds=REACH_SECONDS)
    return True


def _remembered(said: str | None) -> str | None:
    """Return the cluster that Ray itself would take, from its file or the processes here."""
    from ray._private.services import get_ray_address_from_environment

    address: str | None = get_ray_address_from_environment(said, None)  # type: ignore[arg-type]
    return address


def _gone(place: str, said: str | None, tell: Tell | None) -> bool:
    """Go on without a cluster that has gone without `ray stop`; False: one of our own is meant."""
    from ray._common.utils import get_ray_address_file

    file = get_ray_address_file(None)
    line = f"the Ray cluster at {place} is gone, though {file} still names it"
    if said == "auto":
        raise ConfigurationError(
            raw_message=f"no Ray cluster at 'auto': {line}",
            hint=f"Start one with `ray start --head`, or name one; `rm {file}` forgets it.",
        )
    (tell or make_logger("chutes_opencode").warning)(line)
    return False


def _said(address: str | None) -> str | None:
    """Return what is asked for, in the argument or else in RAY_ADDRESS; None: nothing."""
    said = address if address not in (None, "auto") else ray_environment().get(ADDRESS) or address
    if said is not None and said.startswith(CLIENT):
        raise ConfigurationError(
            raw_message=f"{said}: Ray Client is not supported",
            hint="Run on a machine of the cluster, or send the program there: `ray job submit`.",
        )
    return said


def _reach(address: str) -> None:
    """Refuse an address of the form host:port where nobody listens; others are Ray's to judge."""
    if not _is_host_and_port(address):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(f" at {address!r}", error) from error


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal()


def _no_cluster(where: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(raw_message=f"no Ray cluster{where}: {one_line(error)}", hint=HINT)
