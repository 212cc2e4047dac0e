"""Whether a cluster takes our token is asked of something that answers as Ray does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationMode,
    AuthenticationTokenLoader,
    Config,
    get_authentication_mode,
)

from chutes_opencode.distributed import cluster_token
from chutes_opencode.distributed.cluster_token import bring_token, check_token
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.settings import ray_environment

OURS, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


class Cluster(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes one token, or everybody; notes what it is asked with."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.seen: list[str | None] = []

    def service(self, call: Any) -> Any:
        assert call.method == "/ray.rpc.NodeInfoGcsService/GetClusterId"
        self.seen.append(dict(call.invocation_metadata).get("authorization"))

        def answer(_question: bytes, context: Any) -> bytes:
            if self.token is not None and self.seen[-1] != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def address(cluster: Cluster) -> Iterator[str]:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[cluster])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine on which nobody has said anything of tokens."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    AuthenticationTokenLoader.instance().reset_cache()
    yield monkeypatch
    monkeypatch.undo()
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.mark.parametrize("named", [True, False])
def test_a_cluster_that_asks_for_nothing_is_taken(
    cluster: Cluster, address: str, named: bool
) -> None:
    check_token(address, named=named, seconds=20)

    assert cluster.seen == [None]


@pytest.mark.parametrize(
    ("mode", "token", "named", "problem"),
    [
        (None, None, False, "asks for a token, and none is sent"),
        ("disabled", OURS, False, "asks for a token, and none is sent"),
        (None, OTHER, False, "asks for another token than the one of this machine"),
        ("token", OTHER, True, "asks for another token than the one of this machine"),
        (None, OURS, False, ""),
        ("token", OURS, True, ""),
    ],
)
def test_a_cluster_with_a_token_is_asked_with_what_ray_will_send(
    cluster: Cluster,
    address: str,
    machine: pytest.MonkeyPatch,
    mode: str | None,
    token: str | None,
    named: bool,
    problem: str,
) -> None:
    cluster.token = OURS
    for name, value in (("RAY_AUTH_MODE", mode), ("RAY_AUTH_TOKEN", token)):
        if value is not None:
            machine.setenv(name, value)

    if not problem:
        check_token(address, named=named, seconds=20)
        return
    with pytest.raises(ConfigurationError) as caught:
        check_token(address, named=named, seconds=20)

    assert caught.value.raw_message == f"the Ray cluster at {address} {problem}"
    assert "RAY_AUTH_MODE=token" in caught.value.hint
    assert OURS not in str(caught.value)


def test_a_named_address_elsewhere_gets_no_token_that_nobody_told_us_to_send(
    cluster: Cluster, address: str, machine: pytest.MonkeyPatch
) -> None:
    cluster.token = OURS
    machine.setenv("RAY_AUTH_TOKEN", OURS)
    machine.setattr(cluster_token, "is_loopback", lambda _url: False)

    with pytest.raises(ConfigurationError, match="none is sent"):
        check_token(address, named=True, seconds=20)

    assert cluster.seen == [None]


def test_a_named_address_of_this_machine_gets_it(
    cluster: Cluster, address: str, machine: pytest.MonkeyPatch
) -> None:
    cluster.token = OURS
    machine.setenv("RAY_AUTH_TOKEN", OURS)

    check_token(address, named=True, seconds=20)

    assert cluster.seen == [None, f"Bearer {OURS}"]
    assert get_authentication_mode() is AuthenticationMode.TOKEN, "so Ray will send it"


def test_a_cluster_that_speaks_tls_is_rays_to_judge(
    cluster: Cluster, address: str, machine: pytest.MonkeyPatch
) -> None:
    cluster.token = OURS
    machine.setenv("RAY_USE_TLS", "1")

    check_token(address, named=True, seconds=20)

    assert cluster.seen == []


def test_a_cluster_of_our_own_has_a_token_that_is_in_no_file(tmp_path: Path) -> None:
    bring_token()

    token = ray_environment()["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", OURS)]
)
def test_what_somebody_has_said_stays(machine: pytest.MonkeyPatch, name: str, value: str) -> None:
    machine.setenv(name, value)

    bring_token()

    said = {name: value for name, value in ray_environment().items() if "RAY_AUTH" in name}
    assert said == {name: value}


def test_the_token_in_the_file_stays_the_one(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(OURS)

    bring_token()

    assert "RAY_AUTH_TOKEN" not in ray_environment()
