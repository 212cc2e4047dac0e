"""Reading a provider's model list: a recorded answer, and rows of every odd kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.catalog.models import (
    Model,
    Price,
    nearest,
    parse_models,
    parse_row,
    same_model,
)

RECORDED = Path(__file__).parents[2] / "captures" / "chutes" / "models-2026-08-22.json"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Model]:
    models, problems = parse_models(json.loads(RECORDED.read_text("utf-8")))
    assert problems == ()
    return {model.id: model for model in models}


# --- the recorded answer -------------------------------------------------------------------------


def test_every_recorded_row_is_read(recorded: dict[str, Model]) -> None:
    assert len(recorded) == 14
    assert all(model.price is not None for model in recorded.values())
    assert all(model.confidential_compute for model in recorded.values())


def test_a_whole_row(recorded: dict[str, Model]) -> None:
    model = recorded["moonshotai/Kimi-K2.6-TEE"]

    assert (model.context_length, model.max_output_length) == (262144, 65535)
    assert model.price == Price(0.58, 3.4, 0.05799999999999998)
    assert model.input_modalities == ("text", "image", "video")
    assert "tools" in model.features


def test_the_context_is_believed_before_the_engines_limit(recorded: dict[str, Model]) -> None:
    assert recorded["google/gemma-4-31B-turbo-TEE"].context_length == 131072


def test_a_row_with_missing_fields(recorded: dict[str, Model]) -> None:
    model = recorded["Nemotron-3-Nano-Omni-30B-TEE"]

    assert (model.context_length, model.max_output_length) == (131072, None)
    assert (model.input_modalities, model.features) == (("text",), ())


def test_fields_that_we_do_not_know_are_kept(recorded: dict[str, Model]) -> None:
    extra = recorded["Qwen/Qwen3-32B-TEE"].extra

    assert extra["chute_id"] == "ac059e33-eb27-541c-b9a9-24b214036475"
    assert extra["quantization"] == "fp8"
    assert "id" not in extra


# --- odd rows ------------------------------------------------------------------------------------


def parsed(**fields: Any) -> Model:
    return parse_row({"id": "m", **fields})


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
        (10**400, None),
    ],
)
def test_a_length_is_a_positive_number_also_as_a_string(value: Any, number: int | None) -> None:
    assert parsed(context_length=value).context_length == number
    assert parsed(max_model_len=value).context_length == number
    assert parsed(max_output_length=value).max_output_length == number


@pytest.mark.parametrize(
    ("pricing", "price"),
    [
        ({"prompt": 1, "completion": 2.5}, Price(1.0, 2.5)),
        ({"prompt": "1", "completion": "2.5", "input_cache_read": "0.1"}, Price(1.0, 2.5, 0.1)),
        ({"prompt": 0, "completion": 0}, Price(0.0, 0.0)),
        ({"prompt": 1, "completion": 2, "input_cache_read": None}, Price(1.0, 2.0)),
        ({"prompt": 1}, None),
        ({"prompt": None, "completion": 2}, None),
        ({"prompt": "free", "completion": "free"}, None),
        ({"prompt": -1, "completion": -1}, None),
        ({"prompt": float("nan"), "completion": 1}, None),
        (None, None),
        ([], None),
        ("1", None),
    ],
)
def test_a_price_is_known_only_when_both_parts_are(pricing: Any, price: Price | None) -> None:
    assert parsed(pricing=pricing).price == price


@pytest.mark.parametrize(
    ("value", "modalities"),
    [
        (["text", "image"], ("text", "image")),
        (["text", 5, None], ("text",)),
        ([], ("text",)),
        (None, ("text",)),
        ("image", ("text",)),
    ],
)
def test_a_model_takes_text_where_it_does_not_tell(value: Any, modalities: Any) -> None:
    assert parsed(input_modalities=value).input_modalities == modalities


@pytest.mark.parametrize(
    ("value", "secure"), [(True, True), (False, False), (None, False), (1, False)]
)
def test_only_the_flag_says_that_a_model_is_confidential(value: Any, secure: bool) -> None:
    assert parse_row({"id": "x-TEE", "confidential_compute": value}).confidential_compute is secure


@pytest.mark.parametrize("row", [None, 5, "x", [], {}, {"id": None}, {"id": ""}, {"id": " "}])
def test_a_row_without_an_id_is_reported_and_costs_no_other(row: Any) -> None:
    models, problems = parse_models({"data": [{"id": "a"}, row, {"id": "b"}]})

    assert [model.id for model in models] == ["a", "b"]
    assert problems == ("row 1 has no id and was skipped",)


def test_a_bare_list_is_read_and_the_first_of_duplicates_is_kept() -> None:
    models, _ = parse_models([{"id": "a", "context_length": 5}, {"id": "a"}])

    assert models == (Model("a", 5),)


@pytest.mark.parametrize("envelope", [None, {}, {"data": None}, {"data": {}}, "x", 5])
def test_an_answer_without_a_list_is_refused(envelope: Any) -> None:
    with pytest.raises(ValueError, match="no list of models"):
        parse_models(envelope)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
FIELDS = ["id", "context_length", "max_model_len", "max_output_length", "pricing"]
rows = st.dictionaries(
    st.sampled_from([*FIELDS, "input_modalities", "supported_features", "confidential_compute"]),
    json_values,
)


@given(st.lists(rows | json_values, max_size=4))
def test_no_row_breaks_the_parser_and_none_is_lost(data: list[Any]) -> None:
    models, problems = parse_models({"data": data})

    ids = [row["id"] for row in data if isinstance(row, dict) and isinstance(row.get("id"), str)]
    assert {model.id for model in models} == {name for name in ids if name.strip()}
    assert len(problems) == len(data) - len([name for name in ids if name.strip()])


# --- looking up ----------------------------------------------------------------------------------

LISTED = [Model(name) for name in ("Qwen/Qwen3-32B-TEE", "zai-org/GLM-5.1-TEE", "a,b", "c:latency")]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-TEE"),
        pytest.param("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-TEE", id="its old name"),
        ("Qwen/Qwen3-32B-TEE:latency", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B:throughput", "Qwen/Qwen3-32B-TEE"),
        ("zai-org/GLM-5.1-TEE,Qwen/Qwen3-32B-TEE", "zai-org/GLM-5.1-TEE"),
        (" zai-org/GLM-5.1-TEE:latency , x", "zai-org/GLM-5.1-TEE"),
        pytest.param("a,b", "a,b", id="a comma that is part of the name"),
        pytest.param("c:latency", "c:latency", id="a suffix that is part of the name"),
        ("Qwen/Qwen3-32B-TEE:fast", None),
        ("qwen/qwen3-32b-tee", None),
        ("", None),
    ],
)
def test_a_string_names_a_model(asked: str, found: str | None) -> None:
    model = same_model(asked, LISTED)

    assert (model.id if model else None) == found


@pytest.mark.parametrize(
    ("asked", "best"),
    [
        ("Qwen/Qwen3-32B-TE", "Qwen/Qwen3-32B-TEE"),
        ("qwen3-32b", "Qwen/Qwen3-32B-TEE"),
        ("other/GLM-5.1", "zai-org/GLM-5.1-TEE"),
    ],
)
def test_the_nearest_ids_are_suggested(asked: str, best: str) -> None:
    assert nearest(asked, LISTED)[0] == best


def test_nothing_is_suggested_for_nonsense() -> None:
    assert nearest("zzzzzzzzzz", LISTED) == ()
    assert nearest("x", []) == ()


def test_models_of_one_name_by_two_makers_are_both_suggested() -> None:
    twins = [Model("one/GLM-5"), Model("two/GLM-5")]

    assert set(nearest("GLM-5", twins)) == {"one/GLM-5", "two/GLM-5"}
