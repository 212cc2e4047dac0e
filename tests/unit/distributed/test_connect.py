"""The way into a cluster; Ray itself is a stand-in here."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray._private import worker

from chutes_opencode.distributed import connect as module
from chutes_opencode.distributed.connect import connect, require
from chutes_opencode.errors import AuthenticationError, ConfigurationError


class Ray:
    """Notes how it is asked to begin, and may fail."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.connected = False
        self.failure: Exception | None = None

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **arguments: Any) -> None:
        self.begun.append(arguments)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    stand_in = Ray()
    monkeypatch.setattr(module, "ray", stand_in)
    return stand_in


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "_remembered", lambda _said: None)
    monkeypatch.setattr(module, "check_token", lambda *_, **__: None)
    monkeypatch.setattr(module, "bring_token", lambda: None)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # put back later


@pytest.fixture
def remember(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Ray's own file name a cluster."""
    return lambda address: monkeypatch.setattr(module, "_remembered", lambda _said: address)


@pytest.fixture
def listening() -> Iterator[str]:
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_cluster_that_ray_knows_is_taken_and_stdout_stays_ours(
    ray: Ray, listening: str, remember: Callable[[str], None], address: str | None
) -> None:
    remember(listening)
    told: list[str] = []

    connect(address, tell=told.append)

    (arguments,) = ray.begun
    assert arguments["address"] == address
    assert arguments["log_to_driver"] is False
    assert told == [f"looking for the Ray cluster at {listening} …"]


@pytest.mark.parametrize(
    ("pid", "on_stdout"),
    [pytest.param("raylet", False, id="of-the-cluster"), pytest.param(17, True, id="of-a-worker")],
)
def test_only_what_ray_says_of_the_cluster_goes_to_stderr(
    ray: Ray,
    capsys: pytest.CaptureFixture[str],
    pid: object,
    *,
    on_stdout: bool,
) -> None:
    connect("local")
    connect("local")

    line = f"a line of {pid}"
    worker.print_to_stdstream({"lines": [line], "pid": pid, "is_err": False}, ignore_prefix=True)

    told = capsys.readouterr()
    assert (line in told.out, line in told.err) == (on_stdout, not on_stdout)


def test_a_ray_without_that_function_is_left_alone(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(worker, "print_to_stdstream")

    connect("local")

    assert not hasattr(worker, "print_to_stdstream")


@pytest.mark.parametrize("address", [None, "local"])
def test_without_one_ray_is_started_here(ray: Ray, address: str | None) -> None:
    told: list[str] = []

    connect(address, tell=told.append)

    assert ray.begun[0]["address"] == "local"
    assert told == ["starting Ray on this machine …"]


def test_what_speaks_against_a_cluster_of_our_own_is_told_before_it_is_started(ray: Ray) -> None:
    def refuse() -> None:
        raise AuthenticationError(raw_message="no key")

    with pytest.raises(AuthenticationError, match="no key"):
        connect(before_start=refuse)

    assert ray.begun == []


def test_a_cluster_that_is_gone_costs_a_line_and_one_of_our_own_is_started(
    ray: Ray, silent: str, remember: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    remember(silent)
    told: list[str] = []

    connect(tell=told.append)
    connect()

    assert [begun["address"] for begun in ray.begun] == ["local", "local"]
    assert f"the Ray cluster at {silent} is gone" in told[1]
    assert "ray_current_cluster still names it" in told[1]
    assert f"the Ray cluster at {silent} is gone" in capfd.readouterr().err


def test_a_cluster_that_must_be_there_and_is_gone_is_refused_with_the_file_that_names_it(
    ray: Ray, silent: str, remember: Callable[[str], None]
) -> None:
    remember(silent)

    with pytest.raises(ConfigurationError, match=f"{silent} is gone") as caught:
        connect("auto")

    assert ray.begun == []
    assert "ray_current_cluster` forgets it" in caught.value.hint


def test_a_cluster_that_does_not_take_us_is_not_tried(
    ray: Ray, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_address: str, **_how: object) -> None:
        raise ConfigurationError(raw_message="it asks for a token")

    monkeypatch.setattr(module, "check_token", refuse)

    with pytest.raises(ConfigurationError, match="asks for a token"):
        connect(listening)

    assert ray.begun == []


def test_an_address_where_somebody_listens_is_tried(ray: Ray, listening: str) -> None:
    connect(listening)

    assert ray.begun[0]["address"] == listening


@pytest.mark.parametrize("address", [None, "auto"])
def test_an_address_where_nobody_listens_is_refused_at_once(
    ray: Ray, silent: str, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=f"no Ray cluster at '{silent}'"):
        connect(silent)

    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(ConfigurationError, match=f"no Ray cluster at '{silent}'"):
        connect(address)

    assert ray.begun == []


def test_what_cannot_be_is_told_before_anything_is_begun(
    ray: Ray, silent: str, listening: str, remember: Callable[[str], None]
) -> None:
    for fine in (None, "local", listening):
        require(fine)
    remember(silent)
    for address in (silent, "auto"):
        with pytest.raises(ConfigurationError, match=silent):
            require(address)
    require(None)

    assert ray.begun == []


def test_who_is_connected_stays_so(ray: Ray) -> None:
    ray.connected = True

    connect("auto")

    assert ray.begun == []


@pytest.mark.parametrize("failure", [ConnectionError, RuntimeError, ValueError])
def test_a_failure_is_one_line_that_says_what_to_do(
    ray: Ray, failure: type[Exception], listening: str, remember: Callable[[str], None]
) -> None:
    remember(listening)
    ray.failure = failure("Could not find\n any running   Ray instance.")

    with pytest.raises(ConfigurationError) as caught:
        connect("auto")

    error = caught.value
    assert error.raw_message == (
        "no Ray cluster at 'auto': Could not find any running Ray instance."
    )
    assert "ray start --head" in error.hint


def test_ray_client_is_refused(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="Ray Client is not supported"):
        connect("ray://head:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigurationError, match="Ray Client is not supported"):
        connect()

    assert ray.begun == []
