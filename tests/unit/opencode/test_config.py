"""The config of a run: what opencode is told, and that foreign text in it stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.opencode.config import (
    KEY_VARIABLE,
    RESERVED_BODY_KEYS,
    Target,
    body_options,
    build_config,
    caller_keys,
    key_placeholder,
    output_ceiling,
    render_config,
)
from chutes_opencode.opencode.models import DEFAULT_OUTPUT_LENGTH, model_entry
from chutes_opencode.request import McpServer, Params, PromptRequest

URL = "http://127.0.0.1:8000/v1"
CHUTES = find_provider("chutes")
TARGET = Target(CHUTES, URL)
PLUGIN = Path("/work space/guard.js")
REFERENCE = f"{{env:{KEY_VARIABLE}}}"


def config(request: PromptRequest, target: Target = TARGET) -> dict[str, Any]:
    return build_config(request, target, plugin=PLUGIN, key="key-1")


def model_entry_of(request: PromptRequest, target: Target = TARGET) -> dict[str, Any]:
    entry: dict[str, Any] = config(request, target)["provider"]["chutes"]["models"][request.model]
    return entry


# --- foreign text stays text -----------------------------------------------------------------


def references(text: str) -> int:
    """Count what opencode would expand: a brace and a word, wherever they stand."""
    return len(re.findall(r"\{\s*\w", text))


texts = st.text(max_size=12) | st.sampled_from(
    ["{env:HOME}", "{file:/etc/hostname}", REFERENCE, '"', "\\", '\\"{', '{"a": {"b": "{"}}', "{{{"]
)
maps = st.dictionaries(texts, texts, max_size=2)
bodies = st.dictionaries(texts.filter(lambda key: key not in RESERVED_BODY_KEYS), texts, max_size=2)
servers = st.lists(
    st.builds(McpServer, st.sampled_from("ab"), url=texts.filter(bool), headers=maps)
    | st.builds(
        McpServer,
        st.sampled_from("cd"),
        command=st.tuples(texts, texts),
        environment=maps,
    ),
    max_size=2,
    unique_by=lambda server: server.name,
).map(tuple)
requests = st.builds(
    PromptRequest,
    prompt=texts,
    model=texts,
    system_message=st.none() | texts,
    agent_name=texts,
    params=st.builds(Params, stop=st.none() | texts, reasoning_effort=texts, extra_body=bodies),
    tools=servers,
    permission=st.none()
    | st.dictionaries(texts, st.sampled_from(["allow", "deny", "ask"]), max_size=2)
    | st.dictionaries(texts, st.dictionaries(texts, st.just("deny"), max_size=2), max_size=1),
    rules_file=st.none() | texts.map(lambda name: Path("/rules", name.replace("\0", ""))),
)


@given(requests, texts, st.lists(texts, max_size=2))
@example(PromptRequest("", "m", system_message=f"{REFERENCE} {{env:HOME}}"), "{env:X}", ["{"])
def test_nothing_is_expanded_but_the_reference_to_the_key(
    request: PromptRequest, base_url: str, listed: list[str]
) -> None:
    target = Target(CHUTES, base_url, tuple(Model(name) for name in listed))
    key = key_placeholder()
    made = build_config(request, target, plugin=PLUGIN, key=key)

    text = render_config(made, key=key)

    assert text.count(REFERENCE) == 1
    assert references(text) == 1
    assert json.loads(text.replace(REFERENCE, key)) == made


def test_the_rendered_config_is_plain_ascii() -> None:
    text = render_config(config(PromptRequest("", "m", system_message="é 🙂 \ud800")), key="key-1")

    assert text.isascii()


def test_the_config_only_refers_to_the_key() -> None:
    rendered = json.loads(render_config(config(PromptRequest("", "m")), key="key-1"))

    assert rendered["provider"]["chutes"]["options"] == {"baseURL": URL, "apiKey": REFERENCE}


def test_no_two_placeholders_are_alike() -> None:
    assert key_placeholder() != key_placeholder()


# --- what opencode is told -------------------------------------------------------------------


def test_only_our_provider_and_our_agent_exist() -> None:
    made = config(PromptRequest("", "Org/Model", system_message="Be brief.", agent_name="boss"))

    assert made["enabled_providers"] == ["chutes"]
    assert made["model"] == made["small_model"] == "chutes/Org/Model"
    assert made["agent"] == {"boss": {"mode": "primary", "prompt": "Be brief."}}
    assert made["default_agent"] == "boss"
    assert made["plugin"] == ["file:///work%20space/guard.js"]


def test_traps_are_off() -> None:
    made = config(PromptRequest("", "m"))

    off = ("autoupdate", "snapshot", "lsp", "formatter")
    assert [made[name] for name in off] == [False] * len(off)
    assert made["share"] == "disabled"
    assert made["compaction"] == {"auto": False, "prune": False}


def test_without_a_system_message_opencodes_own_prompt_stays() -> None:
    assert config(PromptRequest("", "m", system_message=None))["agent"] == {
        "chutes": {"mode": "primary"}
    }


def test_a_rules_file_is_an_instruction() -> None:
    rules = Path("/project/AGENTS.md")

    assert config(PromptRequest("", "m"))["instructions"] == []
    assert config(PromptRequest("", "m", rules_file=rules))["instructions"] == [str(rules)]


# --- models ----------------------------------------------------------------------------------

SEER = Model("seer", 1000, 300, Price(1.0, 2.0, 0.5), ("text", "image"), ("tools", "reasoning"))


def test_every_listed_model_goes_in_beside_the_one_asked_for() -> None:
    listed = (SEER, Model("a/b/c/d"), Model("x,y"), Model("chutes/odd"), Model("org/m:latency"))

    models = config(PromptRequest("", "new"), Target(CHUTES, URL, listed))["provider"]["chutes"]

    assert list(models["models"]) == [*(model.id for model in listed), "new"]
    assert models["models"]["seer"] == model_entry(SEER)
    assert models["models"]["new"] == model_entry(Model("new"))


EYES = Model("Org/Eyes", 64_000, 9000, input_modalities=("text", "image"))
MIND = Model("Org/Mind-TEE", 32_000, 10_000, features=("reasoning",))


@pytest.mark.parametrize(
    ("asked", "context", "output", "inputs"),
    [
        ("Org/Eyes", 64_000, 9000, ["text", "image"]),
        ("Org/Eyes:latency", 64_000, 9000, ["text", "image"]),
        ("Org/Mind", 32_000, 10_000, ["text"]),
        ("Org/Eyes,Org/Mind-TEE", 32_000, 9000, ["text"]),
        ("Org/Mind:throughput,chutes/Org/Eyes", 32_000, 9000, ["text"]),
    ],
)
def test_what_a_model_string_means_holds_for_it_as_it_is_written(
    asked: str, context: int, output: int, inputs: list[str]
) -> None:
    entry = model_entry_of(PromptRequest("p", asked), Target(CHUTES, URL, (EYES, MIND)))

    assert entry["limit"] == {"context": context, "output": output}
    assert entry["modalities"]["input"] == inputs


def test_a_reading_that_the_provider_does_not_know_is_none() -> None:
    plain = CHUTES.model_copy(update={"quirks": frozenset()})

    entry = model_entry_of(PromptRequest("p", "Org/Eyes:latency"), Target(plain, URL, (EYES,)))

    assert entry == model_entry(Model("Org/Eyes:latency"))


def test_a_local_servers_models_get_the_limits_in_their_names() -> None:
    target = Target(find_provider("ollama"), URL, (Model("llama-128k"),))

    made = config(PromptRequest("", "new"), target)["provider"]["ollama"]["models"]

    assert made["llama-128k"]["limit"]["context"] == 131_072
    assert made["new"]["limit"]["context"] == 32_768


@pytest.mark.parametrize(
    ("models", "max_tokens", "ceiling"),
    [
        ((), None, DEFAULT_OUTPUT_LENGTH),
        ((), 99_999, 99_999),
        ((), 5, DEFAULT_OUTPUT_LENGTH),
        ((Model("a", 200_000, 65_000), Model("b")), None, 65_000),
        ((Model("a", 200_000, 65_000),), 70_000, 70_000),
    ],
)
def test_opencodes_ceiling_is_lifted_to_the_largest_limit(
    models: tuple[Model, ...], max_tokens: int | None, ceiling: int
) -> None:
    request = PromptRequest("", "a", params=Params(max_tokens=max_tokens))

    assert output_ceiling(request, Target(CHUTES, URL, models)) == ceiling


def test_a_native_provider_is_written_with_its_own_package() -> None:
    target = Target(find_provider("anthropic"), URL)
    params = Params(temperature=0.5, extra_body={"top_k": 5})

    made = config(PromptRequest("", "claude", params=params), target)["provider"]["anthropic"]

    assert made["npm"] == "@ai-sdk/anthropic"
    assert made["options"] == {"baseURL": URL, "apiKey": "key-1"}
    assert "options" not in made["models"]["claude"]


def test_a_run_without_a_guard_has_no_plugin() -> None:
    made = build_config(PromptRequest("", "m"), TARGET, plugin=None, key="key-1")

    assert made["plugin"] == []


# --- parameters --------------------------------------------------------------------------------


def test_max_tokens_is_the_requested_models_output_limit() -> None:
    target = Target(CHUTES, URL, (SEER, Model("other", 1000, 300)))

    made = config(PromptRequest("", "seer", params=Params(max_tokens=77)), target)

    models = made["provider"]["chutes"]["models"]
    assert models["seer"]["limit"]["output"] == 77
    assert models["other"]["limit"]["output"] == 300
    assert "options" not in models["seer"]


@pytest.mark.parametrize(
    ("params", "options"),
    [
        (Params(), {}),
        (Params(temperature=0.0), {"temperature": 0.0}),
        (Params(top_p=0.5), {"top_p": 0.5}),
        (Params(stop="END"), {"stop": "END"}),
        (Params(stop=("A", "B")), {"stop": ["A", "B"]}),
        (Params(seed=0), {"seed": 0}),
        (Params(reasoning_effort="low"), {"reasoningEffort": "low"}),
        (Params(extra_body={"min_p": 0.1, "x": {"y": [1]}}), {"min_p": 0.1, "x": {"y": [1]}}),
        (Params(seed=1, extra_body={"seed": 2}), {"seed": 2}),
        (Params(max_tokens=5), {}),
    ],
)
def test_parameters_become_keys_of_the_body(params: Params, options: dict[str, Any]) -> None:
    assert body_options(params) == options
    assert model_entry_of(PromptRequest("", "m", params=params)).get("options", {}) == options


@pytest.mark.parametrize("key", sorted(RESERVED_BODY_KEYS))
def test_what_opencode_sets_cannot_be_set_twice(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"extra_body may not hold {key}"):
        body_options(Params(extra_body={key: 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_an_extra_body_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="extra_body is no JSON"):
        body_options(Params(extra_body={"x": value}))


@pytest.mark.parametrize(
    ("params", "keys"),
    [
        (Params(), set()),
        (Params(max_tokens=5), set()),
        (Params(temperature=0.0, top_p=0.5, stop="x"), {"temperature", "top_p", "stop"}),
        (Params(reasoning_effort="low"), {"reasoning_effort"}),
        (Params(extra_body={"top_k": 5, "textVerbosity": "low"}), {"top_k", "verbosity"}),
    ],
)
def test_the_callers_keys_are_told_as_they_stand_in_the_body(
    params: Params, keys: set[str]
) -> None:
    assert caller_keys(PromptRequest("", "m", params=params)) == frozenset(keys)


@pytest.mark.parametrize("words", [("--variant", "high"), ("--thinking", "--variant=high")])
def test_with_a_variant_only_opencode_knows_what_was_asked_for(words: tuple[str, ...]) -> None:
    assert caller_keys(PromptRequest("", "m", extra_cli_args=words)) is None
    assert caller_keys(PromptRequest("", "m", extra_cli_args=("--variants",))) == frozenset()
