"""A model in opencode's config: limits that leave room, and nothing that opencode would refuse."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.opencode.models import (
    DEFAULT_CONTEXT_LENGTH,
    DEFAULT_OUTPUT_LENGTH,
    LOCAL_CONTEXT_LENGTH,
    context_length,
    model_entry,
    output_length,
)


def test_what_is_known_of_a_model_is_written() -> None:
    model = Model(
        "org/seer",
        context_length=1000,
        max_output_length=300,
        price=Price(1.0, 2.0, 0.5),
        input_modalities=("text", "image", "smell"),
        output_modalities=("audio", "taste"),
        features=("tools", "reasoning", "json_mode"),
        name="The Seer",
    )

    assert model_entry(model) == {
        "name": "The Seer",
        "limit": {"context": 1000, "output": 300},
        "tool_call": True,
        "reasoning": True,
        "interleaved": {"field": "reasoning_content"},
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["audio"]},
        "temperature": True,
        "cost": {"input": 1.0, "output": 2.0, "cache_read": 0.5},
    }


def test_what_is_untold_is_taken_cautiously() -> None:
    assert model_entry(Model("plain", input_modalities=("smell",), output_modalities=())) == {
        "name": "plain",
        "limit": {"context": DEFAULT_CONTEXT_LENGTH, "output": DEFAULT_OUTPUT_LENGTH},
        "tool_call": False,
        "reasoning": False,
        "interleaved": False,
        "attachment": False,
        "modalities": {"input": ["text"], "output": ["text"]},
        "temperature": True,
    }


def test_a_price_without_one_for_cached_input_names_none() -> None:
    assert model_entry(Model("m", price=Price(1.0, 2.0)))["cost"] == {"input": 1.0, "output": 2.0}


@pytest.mark.parametrize(
    ("features", "local", "tools"),
    [
        (("tools",), False, True),
        (("json_mode",), False, False),
        ((), False, False),
        ((), True, True),
        (("json_mode",), True, False),
    ],
)
def test_tools_are_what_the_server_tells_but_a_local_one_tells_nothing(
    features: tuple[str, ...], local: bool, tools: bool
) -> None:
    assert model_entry(Model("m", features=features), local=local)["tool_call"] is tools


@pytest.mark.parametrize(
    ("context", "output", "limit"),
    [
        pytest.param(1000, 300, 300, id="told"),
        pytest.param(1000, 1000, 500, id="the whole context would leave no room"),
        pytest.param(None, 8000, 8000, id="context untold"),
        pytest.param(100_000, None, DEFAULT_OUTPUT_LENGTH, id="output untold"),
        pytest.param(1000, None, 500, id="a small context"),
        pytest.param(None, None, DEFAULT_OUTPUT_LENGTH, id="nothing told"),
        pytest.param(1, 1, 1, id="never nothing"),
    ],
)
def test_the_output_limit_leaves_room_for_input(
    context: int | None, output: int | None, limit: int
) -> None:
    assert output_length(Model("m", context, output)) == limit


@pytest.mark.parametrize(
    ("identifier", "length"),
    [
        ("phi-3-mini-128k-instruct", 131_072),
        ("Yarn-Llama-2-13B-64K", 65_536),
        ("model:32k", 32_768),
        ("8k", 8192),
        ("plain", LOCAL_CONTEXT_LENGTH),
        ("kimi-k2-0905", LOCAL_CONTEXT_LENGTH),
        ("gemma-3-270m", LOCAL_CONTEXT_LENGTH),
        ("x1.5k", LOCAL_CONTEXT_LENGTH),
        ("v128kb", LOCAL_CONTEXT_LENGTH),
        ("zero-0k", LOCAL_CONTEXT_LENGTH),
    ],
)
def test_a_local_models_context_is_read_from_its_name_where_untold(
    identifier: str, length: int
) -> None:
    assert context_length(Model(identifier), local=True) == length
    assert context_length(Model(identifier)) == DEFAULT_CONTEXT_LENGTH
    assert context_length(Model(identifier, 5), local=True) == 5
    assert output_length(Model(identifier, None, 99_999_999), local=True) == length // 2
