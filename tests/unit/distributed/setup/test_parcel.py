"""An instance on its way to a worker; nothing of Ray's runs here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator, node
from chutes_opencode.distributed.setup.parcel import Parcel, local_settings, placed
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
from chutes_opencode.errors import AuthenticationError, ConfigurationError, ServerError
from chutes_opencode.settings import Settings, load_settings
from chutes_opencode.simulator import DEFAULT_API_TOKEN

KEY = "cpk_cluster_key_0123456789"
WITHOUT_OPENCODE = WorkerSetup("1", needs_opencode=False)


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(node, "_named", ["node-7"])
    return iter(())


def sent(**arguments: Any) -> Settings:
    """The driver's settings as they arrive."""
    settings: Settings = pickle.loads(pickle.dumps(load_settings(**arguments)))
    return settings


def test_a_parcel_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)

    parcel = Parcel.of(ChutesOpenCodeLLM("a/b"))

    assert KEY.encode() not in parcel.packed
    assert "packed" not in repr(parcel)


def test_an_instance_with_the_key_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)

    with pytest.raises(ConfigurationError, match="stands in an argument"):
        Parcel.of(ChutesOpenCodeLLM("a/b", env={"MY_KEY": KEY}))


def test_equal_instances_are_equal_parcels() -> None:
    first, second = (Parcel.of(ChutesOpenCodeLLM("a/b", timeout_seconds=9)) for _ in range(2))

    assert first == second
    assert first != Parcel.of(ChutesOpenCodeLLM("a/c", timeout_seconds=9))


def test_folders_are_the_workers_and_the_rest_is_the_drivers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = sent(base_url="http://127.0.0.1:1/v1", timeout_seconds=9)
    monkeypatch.setenv("CHUTES_OPENCODE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setenv("CHUTES_OPENCODE_TIMEOUT_SECONDS", "1")

    local = local_settings(given, load_settings(), WITHOUT_OPENCODE)

    assert (local.home, local.temp_dir) == (tmp_path / "home", tmp_path / "temp")
    assert (local.base_url, local.timeout_seconds) == ("http://127.0.0.1:1/v1", 9)


def test_a_folder_that_the_driver_gave_as_an_argument_stays(tmp_path: Path) -> None:
    local = local_settings(sent(home=tmp_path / "mine"), load_settings(), WITHOUT_OPENCODE)

    assert local.home == tmp_path / "mine"


def test_the_key_is_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    given = sent(api_token="cpk_the_drivers_own_0123")
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)

    local = local_settings(given, load_settings(), WITHOUT_OPENCODE)

    assert local.require_token() == KEY


def test_a_worker_without_a_key_has_none() -> None:
    local = local_settings(sent(api_token=KEY), load_settings(), WITHOUT_OPENCODE)

    with pytest.raises(AuthenticationError):
        local.require_token()


def test_the_simulators_key_is_public() -> None:
    setup = WorkerSetup("1", needs_opencode=False, simulated=True)
    with Simulator() as simulator:
        given = sent(base_url=simulator.base_url, api_token=simulator.api_token)

    local = local_settings(given, load_settings(), setup)

    assert local.require_token() == DEFAULT_API_TOKEN
    assert local.with_fresh_token().require_token() == DEFAULT_API_TOKEN


def test_an_error_that_knows_no_place_gets_the_nodes() -> None:
    assert placed(ConfigurationError(raw_message="no")).node_id == "node-7"
    assert placed(ServerError("node-3", raw_message="no")).node_id == "node-3"
    assert placed(ServerError(raw_message="no")).model is None


def test_a_missing_key_says_where_workers_have_theirs() -> None:
    missing = AuthenticationError(raw_message="no key")
    refused = AuthenticationError(status=401, raw_message="not yours")

    assert placed(placed(missing)).raw_message == "on the node node-7 of the cluster: no key"
    assert placed(refused).raw_message == "not yours"
    assert "workers" in placed(missing).hint
    assert "workers" not in placed(refused).hint
