"""Ray's token: whether a cluster takes ours, and one for the cluster that we start ourselves.

A cluster of Ray 2.60 may ask for a token. Ray finds it in `RAY_AUTH_TOKEN`, in the file of
`RAY_AUTH_TOKEN_PATH` or in `~/.ray/auth_token`, and sends it where `RAY_AUTH_MODE` is "token", or
to a cluster that it has found itself; never of its own accord to an address that was named. We
have it sent there, too, where the address is on this machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any

from chutes_opencode.addresses import is_loopback
from chutes_opencode.distributed.extra import ray
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.settings import ray_environment

MODE, TOKEN, TLS = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USE_TLS"
WANTED_HINT = (
    "Set RAY_AUTH_MODE=token, and have the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN "
    "(`ray get-auth-token` prints it on the cluster's head)."
)
# What every version of Ray answers at once, with an empty question.
_QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def check_token(address: str, *, named: bool, seconds: float) -> None:
    """Ask a cluster whether it takes what Ray will send: Ray itself asks for a minute and more.

    Args:
        address: host:port of the cluster, where somebody listens.
        named: Whether somebody has named it; else Ray has found it.
        seconds: How long its answer is waited for; without one Ray is to judge.

    Raises:
        ConfigurationError: It asks for a token, and has not got the right one.
    """
    environment = ray_environment()
    if environment.get(TLS, "0") not in ("", "0"):
        return  # this asks in the clear
    headers = _headers(environment, named=named)
    if not _is_refused(address, headers, seconds):
        return
    if named and MODE not in environment and is_loopback(f"http://{address}"):
        # Nobody else hears it there, and `ray start --head` prints this address.
        headers = _headers(environment, named=False)
        if headers and not _is_refused(address, headers, seconds):
            _send_token(environment)
            return
    if headers:
        problem = "asks for another token than the one of this machine"
    else:
        problem = "asks for a token, and none is sent"
    raise ConfigurationError(
        raw_message=f"the Ray cluster at {address} {problem}", hint=WANTED_HINT
    )


def bring_token() -> None:
    """Have a cluster that we start take a token of this process, where nobody has said another.

    Else Ray writes one to `~/.ray/auth_token`, and every later `ray start` there asks for it.
    """
    environment = ray_environment()
    if MODE not in environment and not _loader().has_token(ignore_auth_mode=True):
        environment[TOKEN] = secrets.token_hex(32)
        _loader().reset_cache()


def _send_token(environment: MutableMapping[str, str]) -> None:
    """Have Ray send its token from now on, as it does to a cluster that it finds itself."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    environment[MODE] = "token"
    Config.initialize("")


def _headers(environment: Mapping[str, str], *, named: bool) -> dict[str, str]:
    """Return what Ray will send along; {}: no token."""
    mode = environment.get(MODE)
    if named if mode is None else mode.lower() != "token":
        return {}
    try:
        headers = _loader().get_token_for_http_header(ignore_auth_mode=True)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigurationError(
            raw_message=f"Ray's token cannot be read: {error}", hint=WANTED_HINT
        ) from error
    return {name.lower(): value for name, value in headers.items()}


def _is_refused(address: str, headers: Mapping[str, str], seconds: float) -> bool:
    """Whether a cluster refuses who comes with these headers."""
    import grpc  # type: ignore[import-untyped] # comes with Ray's own extra

    # A proxy knows nothing of a cluster's own network.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        ask = channel.unary_unary(_QUESTION)
        try:
            ask(b"", timeout=seconds, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _loader() -> Any:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    return AuthenticationTokenLoader.instance()
