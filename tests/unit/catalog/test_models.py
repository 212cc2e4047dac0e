"""Reading a model list: a recorded answer, the shapes of other providers, rows of odd kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.catalog.models import Model, Price, parse_models
from chutes_opencode.catalog.quirks import Quirk

RECORDED = Path(__file__).parents[2] / "captures" / "chutes" / "models-2026-08-22.json"
PER_TOKEN: frozenset[Quirk] = frozenset({"price_per_token"})


@pytest.fixture(scope="module")
def recorded() -> dict[str, Model]:
    parsed = parse_models(json.loads(RECORDED.read_text("utf-8")))
    assert parsed.problems == ()
    return {model.id: model for model in parsed.models}


def read(quirks: frozenset[Quirk] = frozenset(), **fields: Any) -> Model:
    """Return the model of one row."""
    (model,) = parse_models([{"id": "m", **fields}], quirks=quirks).models
    return model


# --- the recorded answer -------------------------------------------------------------------------


def test_every_recorded_row_is_read(recorded: dict[str, Model]) -> None:
    assert len(recorded) == 14
    assert all(model.price is not None for model in recorded.values())
    assert all(model.confidential_compute for model in recorded.values())


def test_a_whole_row(recorded: dict[str, Model]) -> None:
    model = recorded["Qwen/Qwen3-32B-TEE"]

    assert (model.context_length, model.max_output_length) == (40960, 40960)
    assert model.price == Price(0.104, 0.416, 0.010399999999999998)
    assert model.features == ("json_mode", "tools", "structured_outputs", "reasoning")
    assert model.sampling_parameters[:3] == ("temperature", "top_p", "top_k")
    assert model.quantization == "fp8"
    assert model.chute_id == "ac059e33-eb27-541c-b9a9-24b214036475"
    assert model.name is None


def test_modalities_are_told(recorded: dict[str, Model]) -> None:
    model = recorded["moonshotai/Kimi-K2.6-TEE"]

    assert (model.input_modalities, model.output_modalities) == (
        ("text", "image", "video"),
        ("text",),
    )


def test_the_context_is_believed_before_the_engines_limit(recorded: dict[str, Model]) -> None:
    assert recorded["google/gemma-4-31B-turbo-TEE"].context_length == 131072


def test_a_row_with_missing_fields(recorded: dict[str, Model]) -> None:
    model = recorded["Nemotron-3-Nano-Omni-30B-TEE"]

    assert (model.context_length, model.max_output_length) == (131072, None)
    assert (model.input_modalities, model.features) == (("text",), ())


def test_a_price_in_the_older_form_only() -> None:
    rows = json.loads(RECORDED.read_text("utf-8"))["data"]
    without = [{key: row[key] for key in row if key != "pricing"} for row in rows]

    newer, older = parse_models(rows), parse_models(without)

    assert [model.price for model in older.models] == [model.price for model in newer.models]


# --- the shapes of other providers ---------------------------------------------------------------


def test_a_row_of_openrouter() -> None:
    row = {
        "id": "maker/model:free",
        "name": "Maker: Model",
        "context_length": 200_000,
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "pricing": {"prompt": "0.0000003", "completion": "0.0000015", "input_cache_read": "0"},
        "top_provider": {"context_length": 100_000, "max_completion_tokens": 64_000},
        "supported_parameters": ["max_tokens", "tools", "tool_choice", "include_reasoning"],
    }

    (model,) = parse_models({"data": [row]}, quirks=PER_TOKEN).models

    assert (model.id, model.name) == ("maker/model:free", "Maker: Model")
    assert (model.context_length, model.max_output_length) == (200_000, 64_000)
    assert model.price == Price(0.3, 1.5, 0.0)
    assert model.input_modalities == ("text", "image")
    assert model.features == ("tools", "reasoning")
    assert model.sampling_parameters == ("max_tokens",)
    assert model.extra["top_provider"] == row["top_provider"]


@pytest.mark.parametrize(
    ("parameter", "feature"),
    [
        ("tools", "tools"),
        ("reasoning", "reasoning"),
        ("structured_outputs", "structured_outputs"),
        ("response_format", "json_mode"),
    ],
)
def test_a_supported_parameter_tells_of_a_feature(parameter: str, feature: str) -> None:
    model = read(supported_parameters=["seed", parameter])

    assert (model.features, model.sampling_parameters) == ((feature,), ("seed",))


def test_features_that_are_listed_come_before_those_that_are_implied() -> None:
    assert read(supported_features=["tools"], supported_parameters=["reasoning"]).features == (
        "tools",
    )


def test_a_list_of_google() -> None:
    row = {
        "name": "models/gemini-x",
        "displayName": "Gemini X",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "thinking": True,
    }

    (model,) = parse_models({"models": [row]}).models

    assert (model.id, model.name) == ("gemini-x", "Gemini X")
    assert (model.context_length, model.max_output_length) == (1_048_576, 65_536)
    assert model.features == ("reasoning",)


def test_a_row_of_anthropic() -> None:
    capabilities = {
        "image_input": {"supported": True},
        "pdf_input": {"supported": True},
        "thinking": {"supported": True, "types": {}},
        "structured_outputs": {"supported": False},
        "effort": None,
    }
    model = read(
        display_name="Claude X",
        max_input_tokens=200_000,
        max_tokens=64_000,
        capabilities=capabilities,
    )

    assert model.name == "Claude X"
    assert (model.context_length, model.max_output_length) == (200_000, 64_000)
    assert model.input_modalities == ("text", "image", "pdf")
    assert model.features == ("reasoning",)


def test_a_row_of_kimi() -> None:
    model = read(context_length=262_144, supports_image_in=True, supports_reasoning=True)

    assert (model.input_modalities, model.features) == (("text", "image"), ("reasoning",))


@pytest.mark.parametrize(
    ("envelope", "identifier", "context"),
    [
        pytest.param({"data": [{"id": "grok-4", "object": "model"}]}, "grok-4", None, id="xAI"),
        pytest.param([{"id": "a/b", "max_model_len": 8192}], "a/b", 8192, id="vLLM"),
        pytest.param([{"id": "q", "max_context_length": 4096}], "q", 4096, id="LM Studio"),
        pytest.param([{"id": "q", "context_window": 4096}], "q", 4096, id="Groq"),
        pytest.param({"models": [{"name": "llama3:8b"}]}, "llama3:8b", None, id="Ollama's own"),
        pytest.param(
            {"models": [{"name": "x"}], "data": [{"id": "y"}]}, "y", None, id="llama.cpp, both"
        ),
        pytest.param([{"id": "t", "top_provider": {"context_length": 9}}], "t", 9, id="top only"),
    ],
)
def test_a_short_row(envelope: Any, identifier: str, context: int | None) -> None:
    (model,) = parse_models(envelope).models

    assert (model.id, model.context_length) == (identifier, context)


# --- odd values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (5.9, 5),
        ("5", 5),
        (0, None),
        (-1, None),
        (None, None),
        ("many", None),
        (True, None),
        ([], None),
        (float("nan"), None),
        (float("inf"), None),
        ("NaN", None),
        (2**53, 2**53),
        (2**53 + 2, None),
        (10**400, None),
    ],
)
def test_a_length_is_a_positive_number_also_as_a_string(value: Any, number: int | None) -> None:
    assert read(context_length=value).context_length == number
    assert read(max_model_len=value).context_length == number
    assert read(context_length=value, max_model_len=7).context_length == (number or 7)
    assert read(max_output_length=value).max_output_length == number


@pytest.mark.parametrize(
    ("pricing", "price"),
    [
        ({"prompt": 1, "completion": 2.5}, Price(1.0, 2.5)),
        ({"prompt": "1", "completion": "2.5", "input_cache_read": "0.1"}, Price(1.0, 2.5, 0.1)),
        ({"prompt": 0, "completion": 0}, Price(0.0, 0.0)),
        ({"prompt": 1, "completion": 2, "input_cache_read": None}, Price(1.0, 2.0)),
        ({"prompt": 1, "completion": 2, "input_cache_read": -1}, Price(1.0, 2.0)),
        ({"prompt": 1}, None),
        ({"prompt": None, "completion": 2}, None),
        ({"prompt": "free", "completion": "free"}, None),
        ({"prompt": -1, "completion": -1}, None),
        ({"prompt": float("nan"), "completion": 1}, None),
        ({"prompt": True, "completion": True}, None),
        (None, None),
        ([], None),
        ("1", None),
    ],
)
def test_a_price_is_known_only_when_both_parts_are(pricing: Any, price: Price | None) -> None:
    assert read(pricing=pricing).price == price


@pytest.mark.parametrize(
    ("older", "price"),
    [
        ({"input": {"usd": 1}, "output": {"usd": "2", "tao": 5}}, Price(1.0, 2.0)),
        ({"input": {"usd": 1}, "output": {"tao": 5}}, None),
        ({"input": 1, "output": 2}, None),
        ("1", None),
    ],
)
def test_the_older_form_of_a_price_stands_in(older: Any, price: Price | None) -> None:
    assert read(price=older).price == price
    assert read(price=older, pricing={"prompt": None}).price == price
    assert read(price=older, pricing={"prompt": 8, "completion": 9}).price == Price(8.0, 9.0)


def test_a_price_for_a_token_becomes_one_for_a_million_without_float_noise() -> None:
    pricing = {"prompt": "0.0000003", "completion": 0.00000001}

    assert read(PER_TOKEN, pricing=pricing).price == Price(0.3, 0.01)


@pytest.mark.parametrize(
    ("value", "modalities"),
    [
        (["text", "image"], ("text", "image")),
        (["text", "text"], ("text",)),
        (["text", 5, None, "", {}], ("text",)),
        (["text", "im\nage"], ("text",)),
        ([], ("text",)),
        (None, ("text",)),
        ("image", ("text",)),
    ],
)
def test_a_model_takes_text_where_it_does_not_tell(value: Any, modalities: Any) -> None:
    assert read(input_modalities=value).input_modalities == modalities
    assert read(architecture={"output_modalities": value}).output_modalities == modalities


@pytest.mark.parametrize(
    ("value", "secure"), [(True, True), (False, False), (None, False), (1, False)]
)
def test_only_the_flag_says_that_a_model_is_confidential(value: Any, secure: bool) -> None:
    model = parse_models([{"id": "x-TEE", "confidential_compute": value}]).models[0]

    assert model.confidential_compute is secure


def test_fields_that_no_attribute_holds_are_kept() -> None:
    model = read(owned_by="vllm", max_model_len=5, context_length=4, future={"a": [1]}, tao=None)

    assert model.extra == {
        "owned_by": "vllm",
        "max_model_len": 5,
        "future": {"a": [1]},
        "tao": None,
    }


# --- whole lists ---------------------------------------------------------------------------------

BAD_ROWS: list[Any] = [
    *(None, 5, "x", [], {}, {"id": None}, {"id": ""}, {"id": " "}, {"id": 7}),
    *({"id": "a\nb"}, {"id": "\x1b[31mred"}, {"id": "\ud800"}),
    *({"name": "A Display Name"}, {"name": None}, {"name": "models/"}, {"id": None, "name": "x"}),
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_row_without_an_id_is_reported_and_costs_no_other(row: Any) -> None:
    parsed = parse_models({"data": [{"id": "a"}, row, {"id": "b"}]})

    assert [model.id for model in parsed.models] == ["a", "b"]
    assert parsed.rows == ({"id": "a"}, {"id": "b"})
    assert parsed.problems == ("row 1 has no usable id and was skipped",)


def test_of_many_bad_rows_a_few_are_told_and_the_rest_counted() -> None:
    problems = parse_models([{"id": "a"}, *[None] * 7]).problems

    assert problems[0].startswith("row 1 ")
    assert problems[4].startswith("row 5 ")
    assert problems[5:] == ("2 more rows were skipped for the same reason",)


def test_duplicates_are_merged_and_the_first_that_tells_a_field_is_believed() -> None:
    first = {"id": "a", "context_length": 5, "max_output_length": None, "owned_by": "one"}
    later = {"id": "a", "context_length": 9, "max_output_length": 7, "owned_by": "two"}

    parsed = parse_models([first, {"id": "b"}, later | {"supported_features": ["tools"], "z": 1}])

    a, b = parsed.models
    assert (a.context_length, a.max_output_length, a.features) == (5, 7, ("tools",))
    assert a.extra == {"owned_by": "one", "z": 1}
    assert b == Model("b")
    assert len(parsed.rows) == 3


def test_a_flag_that_says_no_is_not_overruled_by_a_duplicate() -> None:
    rows = [{"id": "a", "confidential_compute": False}, {"id": "a", "confidential_compute": True}]

    assert parse_models(rows).models[0].confidential_compute is False


@pytest.mark.parametrize(
    "envelope", [None, {}, {"data": None}, {"data": {}}, "x", 5, {"models": 1}]
)
def test_an_answer_without_a_list_is_refused(envelope: Any) -> None:
    with pytest.raises(ValueError, match="no list of models"):
        parse_models(envelope)


def test_an_empty_list_is_a_list() -> None:
    assert parse_models({"object": "list", "data": []}).models == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
FIELDS = [
    *("id", "name", "displayName", "context_length", "max_model_len", "max_output_length"),
    *("pricing", "price", "architecture", "top_provider", "capabilities", "input_modalities"),
    *("supported_features", "supported_parameters", "supported_sampling_parameters"),
    *("quantization", "chute_id", "confidential_compute", "thinking"),
]
INNER = ["prompt", "completion", "input", "output", "usd", "input_modalities", "thinking"]
values = json_values | st.dictionaries(st.sampled_from(INNER), json_values)
rows = st.dictionaries(st.sampled_from(FIELDS), values)


@given(st.lists(rows | json_values, max_size=4), st.booleans())
def test_no_row_breaks_the_parser_and_none_is_lost(data: list[Any], per_token: bool) -> None:
    quirks = PER_TOKEN if per_token else frozenset[Quirk]()
    parsed = parse_models({"data": data}, quirks=quirks)

    assert len(parsed.rows) + len(parsed.problems) == len(data)
    named = {row["id"] for row in parsed.rows if "id" in row}
    assert named <= {model.id for model in parsed.models}
    # What is kept is read as it was, and the ids fit any file.
    again = parse_models(list(parsed.rows), quirks=quirks)
    assert (repr(again.models), again.rows, again.problems) == (
        repr(parsed.models),
        parsed.rows,
        (),
    )
    assert all(model.id.encode() for model in parsed.models)
