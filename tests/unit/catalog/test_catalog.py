"""The catalogue as a caller without an event loop has it, from a server on this machine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog import catalog as catalog_module
from chutes_opencode.catalog.catalog import Catalog, Listing, LookupStats, shared_lookup
from chutes_opencode.catalog.providers import Provider, find_provider
from chutes_opencode.catalog.selection import Selection
from chutes_opencode.errors import ConfigurationError, ModelNotFoundError
from chutes_opencode.settings import Settings, load_settings
from tests.patience import wait_until
from tests.unit.catalog.odd_server import OddServer, answer, rows

KEY = "cpk_unit.test.key.of.nobody"
Start = Callable[..., OddServer]


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that holds nothing but a home."""
    for name in list(os.environ):
        if name.startswith(("CHUTES_", "XDG_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def settings(environ: pytest.MonkeyPatch) -> Callable[..., Settings]:
    def make(server: OddServer, **fields: Any) -> Settings:
        return load_settings(base_url=server.base_url, api_token=KEY, **fields)

    return make


MakeSettings = Callable[..., Settings]


def ids(listing: Listing) -> list[str]:
    return [model.id for model in listing]


def test_the_models_are_those_of_the_server_and_then_of_the_cache(
    odd_server: Start, settings: MakeSettings, tmp_path: Path
) -> None:
    server = odd_server(answer(rows("Org/a", "Org/b")))
    catalog = Catalog(settings=settings(server))

    first, second = catalog.models(), catalog.models()

    assert (ids(first), first.source) == (["Org/a", "Org/b"], "api")
    assert (ids(second), second.source) == (["Org/a", "Org/b"], "cache")
    assert [asked.headers["authorization"] for asked in server.asked] == [f"Bearer {KEY}"]
    assert catalog.stats == LookupStats(lookups=2, hits=1, syncs=1)
    assert catalog.totals == catalog.stats
    assert KEY.encode() not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, ["Qwen/a", "Other/b"]),
        (Selection(search="other"), ["Other/b"]),
        (["chutes/Qwen/*"], ["Qwen/a"]),
        ([], ["Qwen/a", "Other/b"]),
    ],
)
def test_models_can_be_chosen(
    odd_server: Start, settings: MakeSettings, selection: Any, expected: list[str]
) -> None:
    catalog = Catalog(settings=settings(odd_server(answer(rows("Qwen/a", "Other/b")))))

    assert ids(catalog.models(selection)) == expected


def test_the_settings_are_those_of_the_look_up(odd_server: Start, settings: MakeSettings) -> None:
    server = odd_server(answer(rows("Qwen/a", "Other/b")), answer(rows("Qwen/c")))
    catalog = Catalog(
        settings=settings(
            server, model_filter=("Qwen/*",), extra_models=("mine",), refresh_interval=0
        )
    )

    assert ids(catalog.models()) == ["Qwen/a"]
    assert catalog.resolve("chutes/mine").id == "mine"
    # The list is old at once: that look-up has begun a fetch, which must not reach a later test.
    wait_until(lambda: len(server.asked) == 2)

    off = Catalog(settings=settings(server, auto_refresh=False))
    assert off.models().source == "cache"


def test_a_refresh_and_a_difference_tell_what_changed(
    odd_server: Start, settings: MakeSettings
) -> None:
    server = odd_server(answer(rows("Org/a")), answer(rows("Org/b")))
    catalog = Catalog(settings=settings(server))
    catalog.refresh()

    assert catalog.diff().changes.new == ("Org/b",)
    refreshed = catalog.refresh()
    assert refreshed.changes is not None
    assert refreshed.changes.gone == ("Org/a",)
    assert catalog.diff().changes.gone == ("Org/a",)


def test_a_model_is_resolved_or_refused(odd_server: Start, settings: MakeSettings) -> None:
    catalog = Catalog(settings=settings(odd_server(answer(rows("Org/a-model-TEE")))))

    assert catalog.resolve("chutes/Org/a-model:latency").id == "Org/a-model:latency"
    with pytest.raises(ModelNotFoundError, match="Org/no-such"):
        catalog.resolve("Org/no-such")


def test_a_cleared_catalogue_asks_again(odd_server: Start, settings: MakeSettings) -> None:
    server = odd_server(answer(rows("Org/a")))
    catalog = Catalog(settings=settings(server))
    catalog.models()

    assert catalog.clear() is True
    assert catalog.models().source == "api"
    assert len(server.asked) == 2


def test_it_works_inside_an_event_loop(odd_server: Start, settings: MakeSettings) -> None:
    catalog = Catalog(settings=settings(odd_server(answer(rows("Org/a")))))

    async def main() -> list[str]:
        return ids(catalog.models())

    assert asyncio.run(main()) == ["Org/a"]


def test_another_provider_is_asked_at_its_own_address_without_the_key_of_chutes(
    odd_server: Start, environ: pytest.MonkeyPatch
) -> None:
    server = odd_server(answer(rows("llama:8b")))
    environ.setenv("OLLAMA_BASE_URL", server.base_url)
    environ.setenv("CHUTES_API_TOKEN", KEY)

    catalog = Catalog("ollama")

    assert ids(catalog.models()) == ["llama:8b"]
    assert "authorization" not in server.asked[0].headers


def test_an_entry_of_ones_own_will_do(odd_server: Start, environ: pytest.MonkeyPatch) -> None:
    server = odd_server(answer(rows("x")))
    provider = Provider(id="mine", base_url=server.base_url, needs_key=False)

    catalog = Catalog(provider)

    assert ids(catalog.models()) == ["x"]
    assert repr(catalog) == f"Catalog('mine', base_url='{server.base_url}')"


def test_a_provider_of_the_users_file_will_do(
    odd_server: Start, environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = odd_server(answer(rows("x")))
    table = f'[providers.mine]\nbase_url = "{server.base_url}"\n'
    (tmp_path / "chutes-opencode-providers.toml").write_text(table)

    assert ids(Catalog("mine").models()) == ["x"]


def test_an_unknown_provider_is_refused(environ: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="unknown provider 'chuts'"):
        Catalog("chuts")


# --- what a process shares -----------------------------------------------------------------------


def test_equal_settings_share_a_look_up(
    odd_server: Start, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = odd_server(answer(rows("a")))
    chutes = find_provider("chutes")
    own, changed = settings(server), chutes.model_copy(update={"default_models": ("x",)})
    lookup = shared_lookup(chutes, own)

    assert shared_lookup(chutes, settings(server)) is lookup
    assert shared_lookup(chutes, settings(server, model_filter=("a",))) is not lookup
    assert shared_lookup(changed, own) is not lookup

    again = shared_lookup(chutes, own)
    monkeypatch.setattr(catalog_module.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    assert shared_lookup(chutes, own) is not again


def test_a_key_that_rotates_is_read_anew_for_each_fetch(
    odd_server: Start, environ: pytest.MonkeyPatch
) -> None:
    server = odd_server(answer(rows("a")))
    environ.setenv("CHUTES_BASE_URL", server.base_url)
    environ.setenv("CHUTES_API_TOKEN", "first-key-of-two")
    catalog = Catalog()

    catalog.refresh()
    environ.setenv("CHUTES_API_TOKEN", "second-key-of-two")
    catalog.refresh()
    environ.delenv("CHUTES_API_TOKEN")
    catalog.refresh()

    assert [asked.headers.get("authorization") for asked in server.asked] == [
        "Bearer first-key-of-two",
        "Bearer second-key-of-two",
        None,
    ]


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["model list fetched", "model list not fetched"]),
        ("info", ["model list fetched", "model list not fetched"]),
        ("warning", ["model list not fetched"]),
        ("error", []),
    ],
)
def test_fetches_are_logged_at_the_level_of_the_settings(
    odd_server: Start,
    settings: MakeSettings,
    capsys: pytest.CaptureFixture[str],
    level: str,
    logged: list[str],
) -> None:
    server = odd_server(answer(rows("a")), answer(rows()))
    catalog = Catalog(settings=settings(server, log_level=level, log_format="json"))

    catalog.refresh()
    catalog.refresh()

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == logged
    assert all(line["provider"] == "chutes" for line in lines)
