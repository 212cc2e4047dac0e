"""Which models pass wildcards and a selection, and in what order they come."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.selection import (
    SORT_KEYS,
    Selection,
    matches,
    select,
    sort_models,
)
from chutes_opencode.errors import ConfigurationError

# --- wildcards -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wildcards", "model_id", "passes"),
    [
        ([], "Qwen/x", True),
        (["Qwen/*"], "Qwen/x", True),
        (["Qwen/*"], "zai-org/x", False),
        (["qwen/*"], "QWEN/x", True),
        pytest.param(["Qwen/x"], "Qwen/x-TEE", False, id="the whole id"),
        (["*-TEE", "Qwen/*"], "Qwen/x", True),
        (["chutes/Qwen/*"], "Qwen/x", True),
        pytest.param(["chutes/*"], "anything", True, id="everything of the provider"),
        pytest.param(["chutes/own"], "chutes/own", True, id="an id that begins like the prefix"),
        pytest.param(["*/x"], "x", False, id="the prefix is no part of the id"),
        (["Qwen/Qwen?"], "Qwen/Qwen3", True),
        (["!*-TEE"], "Qwen/x", True),
        (["!*-tee"], "Qwen/x-TEE", False),
        (["Qwen/*", "!*-TEE"], "Qwen/x-TEE", False),
        pytest.param(["!*-TEE", "Qwen/*"], "Qwen/x-TEE", False, id="order does not count"),
        (["Qwen/*", "!*-TEE"], "zai-org/x", False),
        (["! chutes/Qwen/* "], "Qwen/x", False),
        (["", "  "], "Qwen/x", True),
        (["", "zai-org/*"], "Qwen/x", False),
        (["!"], "Qwen/x", True),
    ],
)
def test_wildcards(wildcards: list[str], model_id: str, passes: bool) -> None:
    assert matches(model_id, wildcards, "chutes") is passes


# --- selecting -----------------------------------------------------------------------------------

BIG = Model(
    "maker/Big-TEE",
    200_000,
    64_000,
    Price(1.0, 4.0),
    input_modalities=("text", "image"),
    features=("tools", "reasoning"),
    confidential_compute=True,
    name="The Big One",
)
SMALL = Model("maker/small", 8_000, 4_000, Price(0.1, 0.2), features=("tools",))
UNTOLD = Model("other/untold")
MODELS = [BIG, SMALL, UNTOLD]


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        (Selection(), MODELS),
        (Selection(wildcards=("maker/*", "!*-TEE")), [SMALL]),
        (Selection(features=("tools",)), [BIG, SMALL]),
        (Selection(features=("Tools", "reasoning")), [BIG]),
        (Selection(input_modalities=("image",)), [BIG]),
        (Selection(input_modalities=("text",)), MODELS),
        (Selection(max_input_price=1.0), [BIG, SMALL]),
        (Selection(max_input_price=0.5), [SMALL]),
        (Selection(max_input_price=0.0), []),
        (Selection(max_output_price=0.2), [SMALL]),
        (Selection(min_context=8_000), [BIG, SMALL]),
        (Selection(min_context=8_001), [BIG]),
        (Selection(confidential=True), [BIG]),
        (Selection(confidential=False), [SMALL, UNTOLD]),
        (Selection(search="BIG"), [BIG]),
        pytest.param(Selection(search="one maker"), [BIG], id="words in id and display name"),
        (Selection(search="big small"), []),
        (Selection(features=("tools",), max_input_price=0.5, search="maker"), [SMALL]),
    ],
)
def test_a_selection(selection: Selection, selected: list[Model]) -> None:
    assert select(MODELS, selection, "chutes") == tuple(selected)


# --- sorting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "ascending", "descending"),
    [
        ("id", [BIG, SMALL, UNTOLD], [UNTOLD, SMALL, BIG]),
        ("input_price", [SMALL, BIG, UNTOLD], [BIG, SMALL, UNTOLD]),
        ("output_price", [SMALL, BIG, UNTOLD], [BIG, SMALL, UNTOLD]),
        ("context", [SMALL, BIG, UNTOLD], [BIG, SMALL, UNTOLD]),
        ("output", [SMALL, BIG, UNTOLD], [BIG, SMALL, UNTOLD]),
    ],
)
def test_what_is_not_told_comes_last_in_both_directions(
    key: str, ascending: list[Model], descending: list[Model]
) -> None:
    shuffled = [UNTOLD, BIG, SMALL]

    assert sort_models(shuffled, key) == tuple(ascending)
    assert sort_models(shuffled, key, descending=True) == tuple(descending)


def test_equals_keep_their_order() -> None:
    twins = [Model("b", 5), Model("a", 5)]

    assert sort_models(twins, "context") == tuple(twins)
    assert sort_models(twins, "context", descending=True) == tuple(twins)


def test_a_model_that_costs_nothing_is_the_cheapest_not_an_untold_one() -> None:
    free = Model("free", price=Price(0.0, 0.0))

    assert sort_models([UNTOLD, SMALL, free], "input_price") == (free, SMALL, UNTOLD)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="cannot sort by 'speed'") as caught:
        sort_models(MODELS, "speed")

    assert all(key in caught.value.hint for key in SORT_KEYS)
