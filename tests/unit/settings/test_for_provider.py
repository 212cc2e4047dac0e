"""The settings of a provider: its own URL and key, and never those of Chutes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.providers import Provider, all_providers, find_provider
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.settings import Settings, project_providers_file
from tests.unit.settings.place import KEY, Place

THEIRS = "sk-or-key-of-openrouter"
OPENROUTER = find_provider("openrouter")
OLLAMA = find_provider("ollama")
CHUTES = find_provider("chutes")
ANY = find_provider("openai-compatible")


def settings_of(
    place: Place,
    provider: Provider,
    environ: dict[str, str] | None = None,
    *,
    base_url: str | None = None,
    **overrides: Any,
) -> Settings:
    """The provider's settings, in an environment that also holds a key and URL of Chutes."""
    chutes = {"CHUTES_API_TOKEN": KEY, "CHUTES_BASE_URL": "https://chutes.example.org/v1"}
    environ = place.environ | chutes | (environ or {})
    loaded = place.load(environ, **overrides)
    return loaded.for_provider(provider, base_url=base_url, environ=environ, cwd=place.project)


def key_of(settings: Settings) -> tuple[str | None, str]:
    return settings.key_or_none(), settings.sources["api_token"]


# --- the URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "arguments", "base_url", "source"),
    [
        ({}, {}, "http://localhost:11434/v1", "default"),
        (
            {"OLLAMA_BASE_URL": "http://127.0.0.1:7/v1/"},
            {},
            "http://127.0.0.1:7/v1",
            "environment OLLAMA_BASE_URL",
        ),
        ({"OLLAMA_BASE_URL": " "}, {}, "http://localhost:11434/v1", "default"),
        (
            {"OLLAMA_BASE_URL": "http://127.0.0.1:7/v1"},
            {"base_url": "http://127.0.0.1:8/v1"},
            "http://127.0.0.1:8/v1",
            "argument",
        ),
    ],
)
def test_the_url_is_an_argument_or_the_providers_own(
    place: Place, environ: dict[str, str], arguments: dict[str, Any], base_url: str, source: str
) -> None:
    settings = settings_of(place, OLLAMA, environ, **arguments)
    loaded_so = place.load(**arguments).for_provider(OLLAMA, environ=place.environ | environ)

    assert (settings.base_url, settings.sources["base_url"]) == (base_url, source)
    assert (loaded_so.base_url, loaded_so.sources["base_url"]) == (base_url, source)
    assert settings.management_url is None


def test_a_provider_without_a_url_names_the_ways_to_give_one(place: Place) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(place, ANY)
    assert caught.value.raw_message == "no base_url is known for provider 'openai-compatible'"
    assert "base_url=, or set OPENAI_COMPATIBLE_BASE_URL, or write base_url" in caught.value.hint
    with pytest.raises(ConfigurationError) as caught:
        settings_of(place, Provider(id="mine"))
    assert caught.value.hint.startswith("Pass base_url=, or write base_url into [providers.mine]")

    here = "http://127.0.0.1:1/v1"
    assert settings_of(place, ANY, {"OPENAI_COMPATIBLE_BASE_URL": here}).base_url == here
    assert settings_of(place, ANY, base_url=here).base_url == here


def test_a_malformed_url_is_refused_by_its_variable(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="environment OLLAMA_BASE_URL: base_url: should"):
        settings_of(place, OLLAMA, {"OLLAMA_BASE_URL": "localhost:11434"})


def test_a_server_in_the_network_needs_no_encryption_without_a_key(place: Place) -> None:
    lan = "http://192.168.1.20:11434/v1"

    # Not even the key of Chutes in the environment keeps it from being used.
    assert settings_of(place, OLLAMA, base_url=lan).require_token() == ""
    assert settings_of(place, OLLAMA, base_url=lan).with_fresh_token().base_url == lan
    with pytest.raises(ConfigurationError, match="would send the key unencrypted"):
        settings_of(place, OLLAMA, {"OLLAMA_API_KEY": THEIRS}, base_url=lan)


# --- the key -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider", [p for p in all_providers() if p.id != "chutes"], ids=lambda p: p.id
)
@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:9/v1"])
def test_the_key_and_url_of_chutes_go_to_no_other_provider(
    place: Place, provider: Provider, base_url: str | None
) -> None:
    place.user_file.write_text(f"api_token = '{KEY}'")
    place.store_opencode_key(json.dumps({"chutes": {"type": "api", "key": KEY}}))
    if provider is ANY:
        base_url = "http://127.0.0.1:9/v1"

    settings = settings_of(place, provider, {"CHUTES_OPENCODE_API_TOKEN": KEY}, base_url=base_url)

    assert settings.base_url == (base_url or provider.base_url)
    assert settings.api_token is None
    assert settings.with_fresh_token(environ=place.environ).api_token is None


@pytest.mark.parametrize(
    ("environ", "arguments", "key", "source"),
    [
        ({"OPENROUTER_API_KEY": f" {THEIRS}\n"}, {}, THEIRS, "environment OPENROUTER_API_KEY"),
        ({"OPENROUTER_API_KEY": "not-this"}, {"api_token": THEIRS}, THEIRS, "argument"),
    ],
)
def test_the_key_is_an_argument_or_in_the_providers_variable(
    place: Place, environ: dict[str, str], arguments: dict[str, str], key: str, source: str
) -> None:
    assert key_of(settings_of(place, OPENROUTER, environ, **arguments)) == (key, source)


def test_variables_are_asked_in_their_order(place: Place) -> None:
    google = find_provider("google")
    environ = {"GOOGLE_API_KEY": "last-of-three", "GEMINI_API_KEY": "first-of-three"}

    assert settings_of(place, google, environ).require_token() == "first-of-three"


def test_the_key_that_opencode_has_stored_comes_last(place: Place) -> None:
    path = place.store_opencode_key(json.dumps({"openrouter": {"type": "api", "key": THEIRS}}))
    elsewhere = {"OPENROUTER_BASE_URL": "https://or.example.org/v1"}

    assert key_of(settings_of(place, OPENROUTER)) == (THEIRS, str(path))
    assert settings_of(place, OPENROUTER, base_url="http://[::1]:1/v1").require_token() == THEIRS
    assert settings_of(place, OPENROUTER, {"OPENROUTER_API_KEY": "mine-first"}).require_token() == (
        "mine-first"
    )
    # Never to another host than the provider's.
    assert settings_of(place, OPENROUTER, elsewhere).api_token is None
    assert settings_of(place, OPENROUTER, base_url="https://or.example.org").api_token is None
    assert settings_of(place, ANY, base_url="https://or.example.org").api_token is None


def test_a_stored_key_does_not_follow_to_a_new_url(place: Place) -> None:
    place.store_opencode_key(json.dumps({"chutes": {"type": "api", "key": KEY}}))

    moved = place.load().overridden(base_url="https://llm.example.org/v1")

    assert moved.api_token is None
    assert place.load().overridden(retries=2).require_token() == KEY


@pytest.mark.parametrize(
    ("provider", "message", "words"),
    [
        (
            OPENROUTER,
            "no OpenRouter API key is set",
            ["Set OPENROUTER_API_KEY", "https://openrouter.ai/settings/keys", "sk-or-…"],
        ),
        (
            Provider(id="mine", base_url="https://llm.example.org", needs_key=True),
            "no mine API key is set",
            ["Pass api_token= to load_settings()."],
        ),
        (CHUTES, "no Chutes API key is set", ["CHUTES_API_TOKEN", "config init"]),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_a_missing_key_names_the_provider_and_how_to_set_it(
    place: Place, provider: Provider, message: str, words: list[str]
) -> None:
    settings = place.load().for_provider(provider, environ=place.environ, cwd=place.project)

    for ask in (settings.require_token, settings.key_or_none):
        with pytest.raises(AuthenticationError) as caught:
            ask()
        assert caught.value.raw_message == message
        assert [word for word in words if word not in caught.value.hint] == []


def test_without_a_key_a_provider_that_needs_none_is_asked_without(place: Place) -> None:
    settings = settings_of(place, OLLAMA)

    assert (settings.key_or_none(), settings.require_token()) == (None, "")


def test_a_server_of_ones_own_takes_any_word_for_a_key(place: Place) -> None:
    assert settings_of(place, OLLAMA, {"OLLAMA_API_KEY": "x"}).require_token() == "x"

    for provider, key in ((OLLAMA, "two words"), (OPENROUTER, "short")):
        with pytest.raises(AuthenticationError) as caught:
            settings_of(place, provider, api_token=key).require_token()
        assert caught.value.raw_message.startswith("the API key from argument ")
        assert provider.key_env[0] in caught.value.hint


def test_a_key_that_rotates_is_read_anew_from_the_providers_variable(place: Place) -> None:
    before = settings_of(place, OPENROUTER, {"OPENROUTER_API_KEY": THEIRS}, retries=7)
    rotated = place.environ | {"OPENROUTER_API_KEY": "rotated-key", "CHUTES_API_TOKEN": KEY}

    data = pickle.dumps(before)
    fresh = [
        settings.with_fresh_token(environ=rotated, cwd=place.project)
        for settings in (before, pickle.loads(data))
    ]

    assert THEIRS.encode() not in data
    for settings in fresh:
        assert key_of(settings) == ("rotated-key", "environment OPENROUTER_API_KEY")
        assert (settings.base_url, settings.retries) == (OPENROUTER.base_url, 7)
    assert fresh[0].with_fresh_token(environ=place.environ, cwd=place.project).api_token is None


def test_a_key_that_was_an_argument_stays(place: Place) -> None:
    settings = settings_of(place, OPENROUTER, api_token=THEIRS)

    assert settings.with_fresh_token(environ=place.environ).require_token() == THEIRS


# --- the rest ------------------------------------------------------------------------------------


def test_the_other_fields_stay_as_they_are(place: Place) -> None:
    place.project_file.write_text("default_model = 'a/b'\nextra_models = ['alias']")

    settings = settings_of(place, OLLAMA, retries=7)

    assert (settings.retries, settings.sources["retries"]) == (7, "argument")
    assert (settings.default_model, settings.extra_models) == ("a/b", ("alias",))
    assert settings.sources["default_model"] == f"{place.project_file}:1"
    assert settings.overridden(retries=8).base_url == settings.base_url


@pytest.mark.parametrize(
    "environ",
    [
        {"CHUTES_API_TOKEN": KEY},
        {"CHUTES_API_TOKEN": KEY, "CHUTES_BASE_URL": "http://127.0.0.1:1/v1"},
        {
            "CHUTES_BASE_URL": "https://llm.example.org/v1",
            "CHUTES_OPENCODE_MANAGEMENT_URL": "https://llm.example.org/api",
        },
    ],
)
def test_those_of_chutes_are_those_that_were_loaded(place: Place, environ: dict[str, str]) -> None:
    loaded = place.load(environ, retries=7)

    # Nor does it matter what the environment of now says.
    same = loaded.for_provider(CHUTES, environ=place.environ, cwd=place.project)

    assert same.model_dump() == loaded.model_dump()
    assert same.endpoint == CHUTES
    assert (
        loaded.for_provider(CHUTES, environ=place.environ, base_url="http://[::1]/v1").sources[
            "management_url"
        ]
        == "default (from base_url)"
    )


def test_from_another_provider_one_gets_back_to_chutes(place: Place) -> None:
    environ = place.environ | {"OLLAMA_BASE_URL": "http://127.0.0.1:7/v1"}
    place.project_file.write_text(f"api_token = '{KEY}'")
    ollama = place.load(retries=7).for_provider(OLLAMA, environ=environ, cwd=place.project)

    back = ollama.for_provider(CHUTES, environ=environ, cwd=place.project)

    assert (back.base_url, back.management_url) == (CHUTES.base_url, "https://api.chutes.ai")
    assert (back.require_token(), back.retries) == (KEY, 7)


def test_an_entry_may_move_chutes_but_not_opencodes_key(place: Place) -> None:
    place.store_opencode_key(json.dumps({"chutes": {"type": "api", "key": KEY}}))
    moved = CHUTES.model_copy(
        update={
            "base_url": "https://llm.example.org/v1",
            "key_env": ("MY_CHUTES_KEY",),
            "source": "/x/providers.toml:1",
        }
    )
    environ = place.environ | {"MY_CHUTES_KEY": "key-of-mine"}

    settings = place.load().for_provider(moved, environ=environ, cwd=place.project)

    assert settings.base_url == "https://llm.example.org/v1"
    assert settings.sources["base_url"] == "/x/providers.toml:1"
    assert key_of(settings) == ("key-of-mine", "environment MY_CHUTES_KEY")
    assert settings.management_url is None
    fresh = settings.with_fresh_token(environ=environ, cwd=place.project)
    assert fresh.require_token() == "key-of-mine"
    # A new entry of the same id moves it again.
    assert settings.for_provider(CHUTES, environ=environ).base_url == CHUTES.base_url


def test_settings_made_by_hand_have_no_sources_but_what_was_given(place: Place) -> None:
    by_hand = Settings(home=place.root, temp_dir=place.root, base_url="http://127.0.0.1:5/v1")
    bare = Settings(home=place.root, temp_dir=place.root)

    assert by_hand.for_provider(OLLAMA, environ=place.environ).base_url == "http://127.0.0.1:5/v1"
    assert bare.for_provider(OLLAMA, environ=place.environ).base_url == OLLAMA.base_url
    assert by_hand.overridden(base_url="http://127.0.0.1:6/v1").base_url == "http://127.0.0.1:6/v1"


def test_the_endpoint_shows_nowhere(place: Place) -> None:
    settings = settings_of(place, OLLAMA)

    assert "endpoint" not in settings.model_dump()
    assert "endpoint=" not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)).endpoint == OLLAMA


@pytest.mark.parametrize("value", [("a", "b/c"), ["a", " b/c "], " a, b/c ,"])
def test_extra_models_are_a_list_or_separated_by_commas(place: Place, value: Any) -> None:
    assert place.load(extra_models=value).extra_models == ("a", "b/c")


# --- the files that add providers ----------------------------------------------------------------


def test_the_users_and_the_projects_file_add_providers(place: Place) -> None:
    where: dict[str, Any] = {"environ": place.environ, "cwd": place.project}
    users = place.user_file.with_name("providers.toml")
    projects = place.project / "chutes-opencode-providers.toml"

    assert place.load().provider_files(**where) == ()
    projects.write_text("")
    assert place.load().provider_files(**where) == (projects,)
    users.write_text("")
    assert place.load().provider_files(**where) == (users, projects)
    assert projects == project_providers_file(place.project)


def test_a_file_that_is_named_is_the_only_one(place: Place) -> None:
    (place.project / "chutes-opencode-providers.toml").write_text("")
    place.project_file.write_text("providersFile = 'own.toml'")

    # It need not be there: then the registry says so.
    assert place.load().provider_files() == (place.project / "own.toml",)
    assert place.load({"CHUTES_OPENCODE_PROVIDERS_FILE": "~/p.toml"}).provider_files() == (
        Path(place.environ["HOME"]) / "p.toml",
    )
