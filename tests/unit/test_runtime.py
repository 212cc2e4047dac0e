"""What an instance needs in a process: made once, shared where it can be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chutes_opencode import runtime as runtime_module
from chutes_opencode.catalog.catalog import Catalog
from chutes_opencode.catalog.discovery import Listing
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import PROVIDERS
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.errors import AuthenticationError, ConfigurationError, ModelNotFoundError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.runtime import Runtime, shared_catalog, shared_slots
from chutes_opencode.settings import Settings, load_settings

KEY = "cpk_unit.test.key.of.nobody"
CHUTES = PROVIDERS["chutes"]


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that holds nothing but a home."""
    for name in ("CHUTES_API_TOKEN", "CHUTES_API_KEY", "CHUTES_API_TOKEN_FILE", "OPENCODE_BIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def settings(environ: pytest.MonkeyPatch) -> Settings:
    return load_settings(api_token=KEY)


def made(settings: Settings, *models: str) -> Runtime:
    """A runtime whose provider lists these models."""

    async def fetch(_url: str, token: str | None) -> Listing:
        assert token == KEY
        return Listing(tuple(Model(name) for name in models))

    catalog = Catalog(settings.base_url, fetch=fetch)
    engine = RunEngine(
        binary=Binary(Path("/opt/opencode"), "1.18.33"),
        target=lambda: pytest.fail("no target is needed"),
        key=lambda: KEY,
        inherited={},
        temp_root=settings.temp_dir,
        sessions=None,  # type: ignore[arg-type]
    )
    return Runtime(settings, CHUTES, engine, catalog, asyncio.Semaphore(1))


def resolve(settings: Settings, asked: str | None, *models: str) -> str:
    return asyncio.run(made(settings, *models).resolve(asked)).id


# --- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "models", "found"),
    [
        ("Org/M-TEE", ("Org/M-TEE",), "Org/M-TEE"),
        pytest.param("chutes/Org/M-TEE", ("Org/M-TEE",), "Org/M-TEE", id="with the prefix"),
        pytest.param("chutes/Org/M", ("Org/M-TEE",), "Org/M", id="prefix and old name"),
        pytest.param("chutes/own", ("chutes/own", "own"), "chutes/own", id="a maker called chutes"),
        ("Org/M-TEE:latency", ("Org/M-TEE",), "Org/M-TEE:latency"),
        pytest.param("any/thing", (), "any/thing", id="no list"),
        pytest.param("chutes/any/thing", (), "any/thing", id="no list, prefix"),
        pytest.param("chutes/a,chutes/b", ("a", "b"), "a,b", id="a list of models"),
    ],
)
def test_a_model_is_found_with_or_without_the_providers_prefix(
    settings: Settings, asked: str, models: tuple[str, ...], found: str
) -> None:
    assert resolve(settings, asked, *models) == found


def test_an_unknown_model_is_refused(settings: Settings) -> None:
    with pytest.raises(ModelNotFoundError, match="unknown model 'Org/X'"):
        resolve(settings, "chutes/Org/X", "Org/M-TEE")


@pytest.mark.parametrize("asked", [None, ""])
def test_no_model_is_refused_with_candidates(settings: Settings, asked: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(settings, asked, *"abcdefgh")

    assert caught.value.raw_message == "no model is named; there are for example a, b, c, d, e"
    assert "CHUTES_OPENCODE_DEFAULT_MODEL" in caught.value.hint


def test_no_model_and_no_list_is_refused_too(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"no model is named$"):
        resolve(settings, None)


def test_without_a_key_nothing_is_asked(environ: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError):
        resolve(load_settings(), "m")


# --- the making ----------------------------------------------------------------------------------


@pytest.fixture
def binary(environ: pytest.MonkeyPatch) -> Binary:
    found = Binary(Path("/opt/opencode"), "99.0.0")
    environ.setattr(runtime_module, "find_binary", lambda *_args: found)
    return found


def test_everything_is_made_from_the_settings(settings: Settings, binary: Binary) -> None:
    runtime = Runtime.make(settings, CHUTES)

    assert isinstance(runtime.engine, RunEngine)
    assert runtime.engine.binary is binary
    assert runtime.engine.temp_root == settings.temp_dir
    assert runtime.engine.key() == KEY
    assert runtime.engine.target().base_url == "http://127.0.0.1:1/v1"
    assert "newer" in runtime.binary_warning
    assert KEY not in runtime.engine.inherited.values()
    asyncio.run(runtime.close())


def test_without_a_key_nothing_is_made(environ: pytest.MonkeyPatch, binary: Binary) -> None:
    with pytest.raises(AuthenticationError, match="no Chutes API key"):
        Runtime.make(load_settings(), CHUTES)


def test_a_key_that_rotates_is_read_anew_for_each_attempt(
    environ: pytest.MonkeyPatch, binary: Binary
) -> None:
    environ.setenv("CHUTES_API_TOKEN", "first-key-of-two")
    engine = Runtime.make(load_settings(), CHUTES).engine
    assert isinstance(engine, RunEngine)

    keys = [engine.key()]
    environ.setenv("CHUTES_API_TOKEN", "second-key-of-two")
    keys.append(engine.key())

    assert keys == ["first-key-of-two", "second-key-of-two"]


def test_catalogues_and_places_are_shared_within_a_process(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = settings.overridden(base_url="http://127.0.0.1:2/v1")
    catalog, slots = shared_catalog(settings), shared_slots(987)

    assert shared_catalog(settings) is catalog
    assert shared_catalog(other) is not catalog
    assert shared_slots(987) is slots
    assert shared_slots(986) is not slots

    monkeypatch.setattr(runtime_module.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    assert shared_catalog(settings) is not catalog
    assert shared_slots(987) is not slots
