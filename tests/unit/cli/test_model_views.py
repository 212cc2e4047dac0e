"""How models, changes and costs are shown."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.comparison import Changes, PriceMove
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.cli.model_views import (
    amounts,
    change_fields,
    change_lines,
    comparison_columns,
    count,
    estimate_columns,
    model_columns,
    model_details,
    model_fields,
    money,
)

FULL = Model(
    "Qwen/Qwen3-32B-TEE",
    context_length=40960,
    max_output_length=8192,
    price=Price(0.104, 0.416, 0.010399999999999998),
    input_modalities=("text", "image"),
    features=("tools", "reasoning"),
    confidential_compute=True,
    name="Qwen3 32B",
    sampling_parameters=("top_p", "temperature"),
    quantization="fp8",
    chute_id="0000-1",
)
BARE = Model("sonar")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "-"), (0, "0.00"), (3, "3.00"), (0.104, "0.104"), (0.0245, "0.0245"), (12.5, "12.50")],
)
def test_dollars_have_two_decimals_or_as_many_as_they_need(amount: float | None, text: str) -> None:
    assert money(amount) == text


def test_the_points_of_a_column_stand_below_each_other() -> None:
    assert amounts([0.104, None, 3.0]) == ["0.104", "-", "3.000"]
    assert amounts([]) == []


@pytest.mark.parametrize(("number", "text"), [(None, "-"), (0, "0"), (1048576, "1,048,576")])
def test_thousands_are_apart(number: int | None, text: str) -> None:
    assert count(number) == text


def test_a_model_is_a_row_with_its_opencode_name() -> None:
    cells = {c.heading: tuple(c.cells) for c in model_columns([FULL, BARE], "chutes")}

    assert cells == {
        "model": ("chutes/Qwen/Qwen3-32B-TEE", "chutes/sonar"),
        "in $/M": ("0.104", "-"),
        "out $/M": ("0.416", "-"),
        "cached $/M": ("0.0104", "-"),
        "context": ("40,960", "-"),
        "output": ("8,192", "-"),
        "features": ("reasoning, tools", "-"),
        "takes": ("text, image", "text"),
        "quantization": ("fp8", "-"),
        "confidential": ("yes", "no"),
    }


def test_all_that_is_known_of_one_is_a_line_each() -> None:
    lines = dict(model_details(FULL, "chutes"))

    assert lines["model"] == "chutes/Qwen/Qwen3-32B-TEE"
    assert lines["name"] == "Qwen3 32B"
    assert lines["gives"] == "text"
    assert lines["sampling"] == "temperature, top_p"
    assert lines["chute"] == "0000-1"


def test_side_by_side_shows_what_one_of_them_tells() -> None:
    aspects, first, second = comparison_columns([FULL, BARE], "chutes")

    assert (first.heading, second.heading) == ("chutes/Qwen/Qwen3-32B-TEE", "chutes/sonar")
    table = dict(zip(aspects.cells, zip(first.cells, second.cells, strict=True), strict=True))
    assert table["context"] == ("40,960", "-")
    assert "context" not in comparison_columns([BARE], "chutes")[0].cells


def test_an_estimate_says_why_a_model_is_none() -> None:
    model, usd, note = estimate_columns([(FULL, 0.0125), (BARE, None)], "chutes", 50_000)

    assert model.cells == ["chutes/Qwen/Qwen3-32B-TEE", "chutes/sonar"]
    assert usd.cells == ["0.0125", "-"]
    assert note.cells == ["does not fit: its context is 40,960 tokens", "price unknown"]
    assert estimate_columns([(FULL, 1.0)], "chutes", 1)[2].cells == [""]


CHANGES = Changes(
    new=("a/new",),
    gone=("a/gone",),
    renamed=(("a/x", "a/x-TEE"),),
    prices=(PriceMove("a/p", Price(1, 2), Price(1, 3, 0.5)), PriceMove("a/q", None, Price(0, 0))),
)


def test_each_change_is_a_line() -> None:
    assert change_lines(CHANGES, "chutes") == [
        "new      chutes/a/new",
        "gone     chutes/a/gone",
        "renamed  chutes/a/x → chutes/a/x-TEE",
        "price    chutes/a/p: in 1.00, out 2.00 → in 1.00, out 3.00, cached 0.50",
        "price    chutes/a/q: unknown → in 0.00, out 0.00",
    ]
    assert change_lines(Changes(), "chutes") == []


def test_json_has_the_changes_by_kind() -> None:
    fields = change_fields(CHANGES)

    assert fields["renamed"] == [{"from": "a/x", "to": "a/x-TEE"}]
    assert fields["prices"][1] == {
        "id": "a/q",
        "from": None,
        "to": {"input": 0, "output": 0, "cache_read": None},
    }


def test_json_has_prices_without_the_noise_of_arithmetic() -> None:
    fields = model_fields(FULL, "chutes")

    assert fields["id"] == "Qwen/Qwen3-32B-TEE"
    assert fields["opencode_id"] == "chutes/Qwen/Qwen3-32B-TEE"
    assert fields["price"] == {"input": 0.104, "output": 0.416, "cache_read": 0.0104}
    assert model_fields(BARE, "chutes")["price"] is None
