"""The registry: one entry is all that the package knows about a provider."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from chutes_opencode.catalog import providers
from chutes_opencode.catalog.provider_file import read_entries
from chutes_opencode.catalog.providers import (
    BUILT_IN_FILE,
    FIELDS,
    Provider,
    all_providers,
    find_provider,
    load_registry,
    register_provider,
    unregister_provider,
)
from chutes_opencode.catalog.quirks import Quirk
from chutes_opencode.classify import classify_response
from chutes_opencode.credentials import BUILT_IN, CHUTES
from chutes_opencode.errors import (
    ConfigurationError,
    ContextOverflowError,
    InvalidRequestError,
    OpenCodeError,
)
from chutes_opencode.opencode.config import Target, build_config
from chutes_opencode.patterns import CHUTES_PATTERNS, OPENAI_PATTERNS, ProviderPatterns
from chutes_opencode.request import PromptRequest
from chutes_opencode.settings import load_settings

EXAMPLE = Path(__file__).parents[3] / "configs" / "providers.toml"


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    yield
    providers._registered.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "providers.toml"


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_registry([file])
    return caught.value.raw_message.removeprefix(str(file))


# --- what is built in ----------------------------------------------------------------------------


def test_these_are_built_in() -> None:
    assert [provider.id for provider in all_providers()] == [
        "chutes",
        "openrouter",
        "kimi",
        "grok",
        "perplexity",
        "openai",
        "anthropic",
        "google",
        "llama-manager",
        "ollama",
        "lmstudio",
        "vllm",
        "openai-compatible",
    ]


@pytest.mark.parametrize("provider", all_providers(), ids=lambda provider: provider.id)
def test_a_built_in_entry_is_complete(provider: Provider) -> None:
    assert provider.name != provider.id
    assert provider.source == BUILT_IN
    assert (provider.base_url is None) == (provider.id == "openai-compatible")
    assert provider.base_url is None or provider.base_url.startswith(
        "http://localhost:" if provider.local else "https://"
    )
    assert provider.needs_key is not provider.local
    if provider.needs_key:
        assert provider.key_env
        assert provider.key_hint
        assert provider.key_url.startswith("https://")
        assert provider.default_models
    assert (provider.wire == "native") == (provider.npm != "@ai-sdk/openai-compatible")
    assert pickle.loads(pickle.dumps(provider)) == provider


def test_local_providers_need_no_key_and_the_llama_manager_is_where_it_always_is() -> None:
    local = {provider.id: provider.base_url for provider in all_providers() if provider.local}

    assert local == {
        "llama-manager": "http://localhost:5250/api/v1",
        "ollama": "http://localhost:11434/v1",
        "lmstudio": "http://localhost:1234/v1",
        "vllm": "http://localhost:8000/v1",
        "openai-compatible": None,
    }


@pytest.mark.parametrize(
    ("identifier", "wire", "auth", "discovery_path"),
    [
        ("chutes", "openai", "bearer", "/models"),
        ("perplexity", "openai", "bearer", None),
        ("openai", "native", "bearer", "/models"),
        ("anthropic", "native", "x-api-key", "/models?limit=1000"),
        ("google", "native", "x-goog-api-key", "/models?pageSize=1000"),
    ],
)
def test_each_is_spoken_to_in_its_own_way(
    identifier: str, wire: str, auth: str, discovery_path: str | None
) -> None:
    provider = find_provider(identifier)

    assert (provider.wire, provider.auth, provider.discovery_path) == (wire, auth, discovery_path)


def test_the_settings_know_of_chutes_what_its_entry_says() -> None:
    chutes = find_provider("chutes").model_dump(include=set(type(CHUTES).model_fields))

    assert chutes == CHUTES.model_dump()
    assert find_provider("chutes").has_management_api
    assert CHUTES.has_management_api
    assert not find_provider("openai").has_management_api


def test_the_built_in_entries_are_in_the_format_of_a_users_file() -> None:
    assert {entry.id for entry in read_entries(BUILT_IN_FILE)} == set(load_registry())


# --- the user's entries --------------------------------------------------------------------------


def test_one_entry_is_enough(file: Path, tmp_path: Path) -> None:
    file.write_text("[providers.mine]\nbase_url = 'https://llm.example.org/v1/'\n")
    environ = {"HOME": str(tmp_path), "CHUTES_API_TOKEN": "cpk_not.for.this.one"}

    provider = find_provider("mine", files=[file])
    settings = load_settings(environ=environ, cwd=tmp_path).for_provider(provider, environ=environ)
    config = build_config(
        PromptRequest("p", "org/a/b"),
        Target(provider, settings.base_url),
        plugin=tmp_path,
        key="K",
    )

    assert provider in all_providers(files=[file])
    assert (provider.name, provider.needs_key, provider.source) == ("mine", False, f"{file}:1")
    assert settings.base_url == "https://llm.example.org/v1"
    assert settings.sources["base_url"] == f"{file}:1"
    assert settings.require_token() == ""
    assert config["model"] == "mine/org/a/b"
    assert config["enabled_providers"] == ["mine"]
    entry = config["provider"]["mine"]
    assert (entry["npm"], entry["name"]) == ("@ai-sdk/openai-compatible", "mine")
    assert entry["options"]["baseURL"] == "https://llm.example.org/v1"
    assert "org/a/b" in entry["models"]
    assert "cpk_" not in json.dumps(config)


def test_an_entry_of_a_known_id_overrides_what_it_names(file: Path) -> None:
    file.write_text("[providers.openrouter]\nbase_url = 'https://or.example.org'\nquirks = []\n")

    changed, before = find_provider("openrouter", files=[file]), find_provider("openrouter")

    assert changed == before.model_copy(
        update={
            "base_url": "https://or.example.org",
            "quirks": frozenset(),
            "source": f"{file}:1",
        }
    )


def test_a_later_file_wins(file: Path, tmp_path: Path) -> None:
    project = tmp_path / "project.toml"
    file.write_text("[providers.x]\nname = 'user'\nkey_env = ['X_KEY']\n")
    project.write_text("[providers.x]\nname = 'project'\n")

    provider = find_provider("x", files=[file, project])

    assert (provider.name, provider.key_env, provider.needs_key) == ("project", ("X_KEY",), True)
    assert provider.source == f"{project}:1"


def test_nothing_is_said_by_empty_text(file: Path) -> None:
    file.write_text("[providers.ollama]\nbase_url = ''\ndiscovery_path = ''\n")

    provider = find_provider("ollama", files=[file])

    assert (provider.base_url, provider.discovery_path) == (None, None)


def test_a_provider_without_a_name_goes_by_its_id(file: Path) -> None:
    file.write_text("[providers.mine]\nname = ''\n")

    assert find_provider("mine", files=[file]).name == "mine"


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ("wire = 'grpc'", "wire: should be 'openai' or 'native' (it is 'grpc')"),
        ("wires = 'openai'", "wires: unknown field; did you mean wire?"),
        ("api_key = 'sk-secret-of-mine'", "api_key: unknown field"),
        ("id = 'other'", "id: unknown field"),
        ("base_url = 'llm.example.org'", "base_url: should be a URL like https://host/v1"),
        ("base_url = 7", "base_url: should be a valid string (it is 7)"),
        ("key_env = 'X_KEY'", "key_env: should be a list"),
        ("quirks = 'price_per_token'", "quirks: should be a list (it is 'price_per_token')"),
        ("key_env = ['sk-secret-of-mine']", "key_env: should be names of environment variables"),
        ("key_env = [7]", "key_env: should be names of environment variables"),
        ("key_env = ['LC_KEY']", "key_env: may not be LC_KEY: every agent's tools are given it"),
        ("needsKey = 'perhaps'", "needsKey: should be true or false (it is 'perhaps')"),
        ("local = 2.5", "local: should be true or false"),
        ('name = "a\\u001b[31m"', "name: should be one line of printable characters"),
        ("base_url = 'http://u:sk-secret@h/v1'", "base_url: should be a URL without user name"),
        ("auth = 'basic'", "auth: should be 'bearer', 'x-api-key' or 'x-goog-api-key'"),
        ("npm = ''", "npm: should not be empty"),
        ("discovery_path = 'models'", "discovery_path: should be a path that begins with a slash"),
        ("discovery_path = '/a b'", "discovery_path: should be a path that begins with a slash"),
        ("discovery_path = 3", "discovery_path: should be a valid string"),
        ("overflow_patterns = ['(']", "overflow_patterns: should be a regular expression: missing"),
        ("default_models = ['']", "default_models: should not be empty"),
        ("quirks = ['odd']", "quirks: should be 'routing_suffixes', 'model_lists', "),
        ("headers = 'a: b'", "headers: should be a table"),
        ("headers = { a = 1 }", "headers: should be a valid string"),
        ("headers = { 'a b' = 'sk-secret' }", "headers: should be names of HTTP headers"),
        ("headers = { a = 'größe' }", "headers: should be values of printable ASCII characters"),
        ('headers = { a = "b\\nc" }', "headers: should be values of printable ASCII characters"),
        ("headers = { Host = 'b' }", "headers: may not be Host: it is set by what sends"),
        ("headers = { authorization = 'sk-secret' }", "headers: may not be authorization"),
        ("local = 'x'\nwire = 'y'", "wire: should be 'openai' or 'native'"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_file_line_and_name(
    file: Path, line: str, flaw: str
) -> None:
    said = refusal(file, f"\n[providers.foo]\n{line}\n")

    assert f":{2 + line.count(chr(10)) + 1}: providers.foo.{flaw}" in said
    assert "sk-secret" not in said


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("[providers.'a/b']\n", ":1: providers.a/b: an id is letters, digits, '.', '_'"),
        ("[providers.x]\nwire='native'", ":1: providers.x: wire native needs npm, the name of"),
        ("[providers.xai]\n", ":1: providers.xai: opencode drives the id xai natively only"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_by_file_and_line(
    file: Path, text: str, flaw: str
) -> None:
    assert refusal(file, text).startswith(flaw)


def test_the_example_file_is_read(file: Path) -> None:
    registry = load_registry([EXAMPLE])

    assert set(read_entries(EXAMPLE)[0].values) == set(FIELDS)
    assert registry["workstation"].needs_key is False
    assert registry["ollama"].base_url == "http://192.168.1.20:11434/v1"
    text = EXAMPLE.read_text()
    assert [quirk for quirk in get_args(Quirk) if quirk not in text] == []


# --- looking up and registering ------------------------------------------------------------------


def test_an_unknown_provider_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_provider("open-router")

    assert caught.value.raw_message == "unknown provider 'open-router'; did you mean openrouter?"
    assert "chutes, openrouter, kimi" in caught.value.hint


def test_a_provider_is_registered_whole() -> None:
    made = register_provider(Provider(id="mine", name="Mine", needs_key=False))

    assert find_provider("mine") is made
    assert made.source == "register_provider()"


def test_a_provider_is_registered_by_its_fields() -> None:
    made = register_provider({"id": "mine", "base_url": "http://localhost:9/v1", "local": True})

    assert find_provider("mine") == made
    assert (made.name, made.needs_key, made.local) == ("mine", False, True)


def test_fields_registered_for_a_known_id_leave_the_others(file: Path) -> None:
    file.write_text("[providers.ollama]\nbase_url = 'http://localhost:1/v1'\n")

    register_provider({"id": "ollama", "base_url": "http://localhost:2/v1"})

    provider = find_provider("ollama", files=[file])
    assert (provider.base_url, provider.name) == ("http://localhost:2/v1", "Ollama")


def test_what_was_registered_can_be_taken_back() -> None:
    register_provider({"id": "ollama", "base_url": "http://localhost:2/v1"})

    unregister_provider("ollama")
    unregister_provider("never")

    assert find_provider("ollama").base_url == "http://localhost:11434/v1"


@pytest.mark.parametrize(
    ("provider", "flaw"),
    [
        ({"name": "x"}, "register_provider(): id: should be a string"),
        ({"id": "x", "wire": "y"}, "register_provider(): x.wire: should be 'openai' or 'native'"),
        ({"id": "x", "url": "y"}, "register_provider(): x.url: unknown field"),
        ({"id": "x y"}, "register_provider(): x y: an id is letters, digits, '.', '_'"),
    ],
)
def test_what_cannot_be_is_not_registered(provider: dict[str, Any], flaw: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        register_provider(provider)

    assert caught.value.raw_message.startswith(flaw)
    assert len(all_providers()) == 13


def test_a_known_provider_is_not_replaced_unless_allowed() -> None:
    with pytest.raises(ConfigurationError, match="ollama is registered already"):
        register_provider({"id": "ollama", "name": "Mine"}, replace=False)

    register_provider({"id": "new"}, replace=False)
    assert find_provider("ollama").name == "Ollama"
    assert find_provider("new").name == "new"


# --- how a provider words its errors -------------------------------------------------------------


def kind(status: int, body: str, patterns: ProviderPatterns) -> type[OpenCodeError]:
    return type(classify_response(status, body, {}, now=datetime.now(UTC), patterns=patterns))


def test_only_chutes_words_its_errors_as_chutes_does() -> None:
    assert find_provider("chutes").patterns == CHUTES_PATTERNS
    assert find_provider("perplexity").patterns == OPENAI_PATTERNS


@pytest.mark.parametrize(
    ("identifier", "status", "body"),
    [
        ("kimi", 400, "Your request exceeded model token limit: 131072 (requested: 200000)"),
        ("grok", 400, "This model's maximum prompt length is 131072 but the request contains 9"),
        ("openai", 400, "Your input exceeds the context window of this model."),
        ("anthropic", 400, "prompt is too long: 207791 tokens > 200000 maximum"),
        ("anthropic", 400, "input length and `max_tokens` exceed context limit: 178959 + 64000"),
        ("google", 400, "The input token count (1196265) exceeds the maximum number of tokens"),
        ("openrouter", 400, "This endpoint's maximum context length is 8192 tokens. However,"),
        ("lmstudio", 400, "tokens to keep from the prompt is greater than the context length"),
        ("llama-manager", 500, "the request exceeds the available context size, try increasing it"),
    ],
)
def test_a_providers_own_words_for_a_full_context_are_known(
    identifier: str, status: int, body: str
) -> None:
    answer = json.dumps({"error": {"message": body}})

    assert kind(status, answer, find_provider(identifier).patterns) is ContextOverflowError


def test_an_overflow_pattern_wins_over_what_is_known_of_all() -> None:
    body = json.dumps({"error": {"message": "no room", "type": "invalid_request_error"}})
    provider = register_provider({"id": "x", "overflow_patterns": ["no room"]})

    assert kind(400, body, provider.patterns) is ContextOverflowError
    assert kind(400, body, OPENAI_PATTERNS) is InvalidRequestError
