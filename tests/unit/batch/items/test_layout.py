"""How rows become items: templates, columns, and what is said of those that are not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.items.layout import Layout, check_columns, fill, unknown_columns
from chutes_opencode.errors import ConfigurationError

# --- the template --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "values", "prompt"),
    [
        ("Translate {text}", {"text": "hello"}, "Translate hello"),
        ("{a}{b}{a}", {"a": "1", "b": "2"}, "121"),
        ("{my column}", {"my column": "x"}, "x"),
        ("{a.b} {c[0]}", {"a.b": "x", "c[0]": "y"}, "x y"),
        ('Answer {{"ok": true}} to {text}', {"text": "t"}, 'Answer {"ok": true} to t'),
        ("{n} {f} {yes} {rows}", {"n": 5, "f": 0.5, "yes": True, "rows": [1]}, "5 0.5 true [1]"),
        ("[{text}]", {"text": ""}, "[]"),
        ("{text}", {"text": "{text} {other}"}, "{text} {other}"),
    ],
)
def test_a_template_is_filled_with_a_rows_columns(
    template: str, values: dict[str, Any], prompt: str
) -> None:
    assert fill(Layout(template=template), values) == prompt


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{ }", "{a!r} b", "{a:>5}", '{"a": 1}'])
def test_a_template_that_cannot_be_read_is_refused_at_once(template: str) -> None:
    with pytest.raises(ConfigurationError, match="template cannot be read") as caught:
        Layout(template=template)

    assert "{{" in caught.value.hint


@given(st.text(), st.text())
def test_any_text_goes_through_a_template_as_it_is(before: str, value: str) -> None:
    escaped = before.replace("{", "{{").replace("}", "}}")

    assert fill(Layout(template=escaped + "{text}"), {"text": value}) == before + value


def test_a_template_names_a_column() -> None:
    with pytest.raises(ConfigurationError, match="names no column"):
        Layout(template="Say hello")


def test_a_template_leaves_no_room_for_a_prompt_column() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        Layout(template="{text}", prompt_column="question")


@pytest.mark.parametrize(
    "named", [{"prompt_column": "system"}, {"prompt_column": " "}, {"id_column": "metadata"}]
)
def test_a_column_has_one_meaning(named: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"_column (may not be|is empty)"):
        Layout(**named)


def test_what_happens_to_extra_columns_is_one_of_two() -> None:
    with pytest.raises(ConfigurationError, match="refuse or metadata"):
        Layout(extra="drop")  # type: ignore[arg-type]


# --- columns that the layout names ---------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [Layout(template="Do {txet}"), Layout(prompt_column="txet"), Layout(id_column="txet")],
)
def test_a_column_that_no_row_has_is_named_with_the_nearest(layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="'txet' is in no row") as caught:
        check_columns(layout, ["label", "text"])

    assert caught.value.hint == "Did you mean 'text'?"


def test_without_a_near_one_the_columns_are_listed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_columns(Layout(prompt_column="question"), ["b", "a"])

    assert caught.value.hint == "There are: 'a', 'b'."


def test_columns_that_are_there_are_fine() -> None:
    check_columns(Layout(template="{text}", id_column="key"), ["text", "key", "more"])


def test_where_each_row_has_all_columns_an_unknown_one_is_told_at_once() -> None:
    check_columns(Layout(), ["prompt", "label"])

    with pytest.raises(ConfigurationError, match="unknown column 'label'"):
        check_columns(Layout(), ["prompt", "label"], complete=True)


# --- columns that mean nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "columns", "said"),
    [
        (Layout(), ["prompt", "id", "metadata"], ""),
        (Layout(), ["messages"], ""),
        (Layout(), ["promt"], "unknown column 'promt'; did you mean 'prompt'?"),
        (Layout(), ["prompt", "Sytem"], "unknown column 'Sytem'; did you mean 'system'?"),
        (Layout(), ["prompt", "label"], "unknown column 'label': --keep-columns"),
        (Layout(), ["question", "answer"], "no column is the prompt"),
        (Layout(extra="metadata"), ["question"], "no column is the prompt"),
        (Layout(extra="metadata"), ["prompt", "label", "promt"], ""),
        (Layout(template="{text}"), ["text", "id"], ""),
        (Layout(template="{text}"), ["text", "label"], "unknown column 'label'"),
        (Layout(template="{text}"), ["text", "prompt"], "column 'prompt' beside"),
        (Layout(template="{prompt}"), ["prompt"], ""),
        (Layout(prompt_column="question"), ["question"], ""),
        (Layout(prompt_column="question"), ["question", "prompt"], "column 'prompt' beside"),
        (Layout(id_column="key"), ["prompt", "key"], ""),
        (Layout(id_column="key"), ["prompt", "key", "id"], "column 'id' beside"),
    ],
)
def test_what_is_said_of_a_rows_columns(layout: Layout, columns: list[str], said: str) -> None:
    reason = unknown_columns(layout, columns)

    assert reason.startswith(said)
    assert bool(reason) is bool(said)
