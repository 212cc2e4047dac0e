"""What an instance needs in a process: made once, shared where it can be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chutes_opencode import engine_set
from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.discovery import Fetched
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.catalog.totals import Counter, LookupStats
from chutes_opencode.engine_set import EngineSet
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.errors import AuthenticationError, ConfigurationError, ModelNotFoundError
from chutes_opencode.limits import Budget
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.runtime import Runtime
from chutes_opencode.settings import Settings, load_settings

KEY = "cpk_unit.test.key.of.nobody"
CHUTES = find_provider("chutes")


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

    async def fetch(*_args: object, **_options: object) -> Fetched:
        return Fetched(tuple(map(Model, models)), tuple({"id": name} for name in models))

    cache = Cache(settings.home, CHUTES.id, settings.base_url)
    catalog = ModelLookup(CHUTES, settings.base_url, cache=cache, fetch=fetch)
    return Runtime(settings, CHUTES, EngineSet(settings, CHUTES, catalog, {}), catalog)


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
    with pytest.raises(ModelNotFoundError, match="unknown model 'chutes/Org/X'"):
        resolve(settings, "chutes/Org/X", "Org/M-TEE")


@pytest.mark.parametrize("asked", [None, ""])
def test_no_model_is_refused_with_candidates(settings: Settings, asked: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(settings, asked, *"abcdefgh")

    assert caught.value.raw_message == (
        "no model is named; there are for example chutes/a, chutes/b, chutes/c, chutes/d, chutes/e"
    )
    assert "CHUTES_OPENCODE_DEFAULT_MODEL" in caught.value.hint


def test_no_model_and_no_list_names_what_the_registry_knows(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=rf"for example chutes/{CHUTES.default_models[0]}"):
        resolve(settings, None)


def test_no_model_and_nothing_known_is_refused_too(settings: Settings) -> None:
    bare = CHUTES.model_copy(update={"default_models": (), "discovery_path": None})
    runtime = made(settings)
    catalog = ModelLookup(
        bare, settings.base_url, cache=Cache(settings.home, bare.id, settings.base_url)
    )

    with pytest.raises(ConfigurationError, match=r"no model is named$"):
        asyncio.run(replace(runtime, catalog=catalog).resolve(None))


def test_without_a_key_nothing_is_asked(environ: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError):
        resolve(load_settings(), "m")


# --- the making ----------------------------------------------------------------------------------


@pytest.fixture
def binary(environ: pytest.MonkeyPatch) -> Binary:
    found = Binary(Path("/opt/opencode"), "99.0.0")
    environ.setattr(engine_set, "find_binary", lambda *_args: found)
    return found


def test_everything_is_made_from_the_settings(settings: Settings, binary: Binary) -> None:
    runtime = Runtime.make(settings, CHUTES)

    engine = asyncio.run(runtime.engines.get("run"))

    assert isinstance(engine, RunEngine)
    assert engine.binary is binary
    assert engine.temp_root == settings.temp_dir
    assert engine.key() == KEY
    assert engine.target().base_url == "http://127.0.0.1:1/v1"
    assert KEY not in engine.inherited.values()
    assert runtime.inherited == engine.inherited
    assert runtime.budgets == ()
    asyncio.run(runtime.close())


def test_the_limits_in_dollars_are_the_instances_and_the_processs(
    settings: Settings, binary: Binary
) -> None:
    limited = settings.overridden(max_process_cost_usd=7.5)

    totals = [Budget("max_total_cost_usd", 1.5) for _ in range(2)]
    first, second = (Runtime.make(limited, CHUTES, total=total) for total in totals)

    names = [(budget.name, budget.max_cost_usd) for budget in first.budgets]
    assert names == [("max_total_cost_usd", 1.5), ("max_process_cost_usd", 7.5)]
    assert [first.budgets[0], second.budgets[0]] == totals
    assert first.budgets[1] is second.budgets[1]
    for runtime in (first, second):
        asyncio.run(runtime.close())


def test_without_a_key_nothing_is_made(environ: pytest.MonkeyPatch, binary: Binary) -> None:
    with pytest.raises(AuthenticationError, match="no Chutes API key"):
        Runtime.make(load_settings(), CHUTES)


def test_a_key_that_rotates_is_read_anew_for_each_attempt(
    environ: pytest.MonkeyPatch, binary: Binary
) -> None:
    environ.setenv("CHUTES_API_TOKEN", "first-key-of-two")
    engine = asyncio.run(Runtime.make(load_settings(), CHUTES).engines.get("run"))
    assert isinstance(engine, RunEngine)

    keys = [engine.key()]
    environ.setenv("CHUTES_API_TOKEN", "second-key-of-two")
    keys.append(engine.key())

    assert keys == ["first-key-of-two", "second-key-of-two"]


def test_a_closed_runtime_leaves_its_counts_behind(settings: Settings) -> None:
    runtime = made(settings, "m")

    async def main() -> None:
        await runtime.resolve("m")
        await runtime.resolve("m")
        await runtime.close()

    asyncio.run(main())

    kept = Counter(Cache(settings.home, CHUTES.id, settings.base_url).totals)
    assert kept.totals == LookupStats(lookups=2, hits=1, syncs=1)
