"""Answers that fit a schema: what is asked, what is found, what is refused."""

from __future__ import annotations

import json
from datetime import date
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.structured import INSTRUCTION, REPAIR, Parsed, Schema

ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
ANYTHING: dict[str, Any] = {}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Car(BaseModel):
    """A class with what JSON cannot say by itself."""

    model_config = ConfigDict(strict=True)

    colour: Colour
    built: date
    doors: tuple[int, ...] = Field(default=(), alias="doorNumbers")

    @field_validator("built")
    @classmethod
    def _not_too_old(cls, built: date) -> date:
        if built.year < 1900:
            raise ValueError("there were no cars then")
        return built


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


# ---------------------------------------------------------------- what is accepted as a schema


def test_a_schema_is_taken_as_it_is() -> None:
    schema = Schema.from_any(ANSWER)

    assert schema.json_schema == ANSWER
    assert Schema.from_any(schema) is schema


def test_a_later_change_of_the_callers_dict_does_not_reach_it() -> None:
    mine: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
    schema = Schema.from_any(mine)

    mine["properties"]["a"]["type"] = "string"

    assert schema.parse('{"a": 1}').ok


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}},
        {"$schema": "http://unknown.example/schema"},
        {"$defs": {"a": {}}, "allOf": [{"$ref": "#/$defs/a"}]},
        {"properties": {"$id": {}, "$ref": {"type": "string"}}},
        {"default": {"$ref": "#/not/a/reference"}},
        {"$id": "urn:x", "properties": {"a": {"$ref": "urn:x#/$defs/b"}}, "$defs": {"b": {}}},
        {"properties": {"a": {"$id": "urn:y", "$defs": {"k": {}}, "$ref": "#/$defs/k"}}},
    ],
    ids=str,
)
def test_valid_schemas_are_accepted(good: dict[str, Any]) -> None:
    assert Schema.from_any(good).parse("{}").ok


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"type": "nope"}, r"\$\.type"),
        ({"pattern": "["}, "regex"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"properties": {"a": {"items": [{"$ref": "#none"}]}}}, "not of type|leads nowhere"),
        ({"allOf": [{"$ref": "#/$defs/none"}]}, "leads nowhere"),
        ({"$dynamicRef": "#none"}, "leads nowhere"),
        ({"$ref": "http://127.0.0.1:9/never-fetched.json"}, "leads nowhere"),
        ({"$ref": "#"}, "without end"),
        ({"const": {1, 2}}, "not JSON"),
        ({"const": float("nan")}, "not JSON"),
        ({"title": "\ud800"}, "not JSON"),
        ([], "dict or a pydantic class"),
        ("{}", "dict or a pydantic class"),
        (True, "dict or a pydantic class"),
        (int, "dict or a pydantic class"),
        (Tree(name="an instance"), "dict or a pydantic class"),
        (BaseModel, "has no JSON Schema"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_before_anything_is_sent(bad: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Schema.from_any(bad)

    assert caught.value.raw_message.startswith("output_schema: ")


def test_a_class_that_has_no_schema_is_refused() -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        socket: Schema | memoryview

    with pytest.raises(ConfigurationError, match="Odd has no JSON Schema"):
        Schema.from_any(Odd)


# ---------------------------------------------------------------- what is asked


def test_the_instruction_is_the_documented_frame() -> None:
    schema = Schema.from_any({"title": "Größe {x}"})

    assert schema.instruction == INSTRUCTION.format(schema='{"title": "Größe {x}"}')


def test_the_instruction_follows_the_prompt_which_stays_as_it_is() -> None:
    schema = Schema.from_any(ANSWER)

    assert schema.instruct("  What is 6*7? {x}\r\n") == (
        f"  What is 6*7? {{x}}\r\n\n\n{schema.instruction}"
    )


def test_the_schema_of_a_class_is_in_the_instruction() -> None:
    assert '"doorNumbers"' in Schema.from_any(Car).instruction


def test_the_repair_prompt_holds_answer_errors_and_schema() -> None:
    schema = Schema.from_any(ANSWER)

    prompt = schema.repair_prompt('{"a": {errors}}', ("$: one", "$.a: two"))

    assert prompt == REPAIR.format(
        answer='{"a": {errors}}', errors="- $: one\n- $.a: two", instruction=schema.instruction
    )


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": 42}',
        ' \n{"answer": 42}\n',
        '```json\n{"answer": 42}\n```',
        '```\n{"answer": 42}\n```',
        'Here it is:\n\n```json\n{"answer": 42}\n```\nThat was it.',
        '```python\nprint(1)\n```\nso\n```json\n{"answer": 42}\n```',
        'The answer is {"answer": 42}. Any questions?',
        'See [1] and {braces}: {"answer": 42}',
        'Use { to open.\n{"answer": 42}',
        '{"wrong": 1}\n{"answer": 42}',
        '{"answer": 42} {"answer": 43}',
        '```json\n{"answer": 42}',
    ],
)
def test_the_value_is_found_in_what_models_write(text: str) -> None:
    assert Schema.from_any(ANSWER).parse(text) == Parsed({"answer": 42})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the answer holds no JSON value"),
        ("I cannot do that.", "the answer holds no JSON value"),
        ("[" * 100_000, "the answer holds no JSON value"),
        ("{}", "$: 'answer' is a required property"),
        ('{"answer": "42"}', "$.answer: '42' is not of type 'integer'"),
        ('{"answer": NaN}', "the answer holds no JSON value"),
        ("42", "$: 42 is not of type 'object'"),
        ('{"answer": ' + "9" * 5000 + "}", "the answer holds no JSON value"),
    ],
)
def test_what_does_not_fit_is_said(text: str, error: str) -> None:
    parsed = Schema.from_any(ANSWER).parse(text)

    assert not parsed.ok
    assert (parsed.value, parsed.errors[0]) == (None, error)


def test_the_first_value_is_reported_on_when_none_fits() -> None:
    parsed = Schema.from_any(ANSWER).parse('{"answer": "a"} {"answer": "b"}')

    assert parsed.errors == ("$.answer: 'a' is not of type 'integer'",)


def test_errors_are_few_and_short() -> None:
    schema = Schema.from_any({"items": {"type": "integer"}})

    errors = schema.parse(json.dumps(["x" * 10_000] * 100)).errors

    assert len(errors) == 20
    assert max(len(error) for error in errors) < 520


@pytest.mark.parametrize("value", ["text", 42, 1.5, None, True, [], {}, [1, {"a": []}]])
def test_a_bare_value_of_any_type_is_found(value: object) -> None:
    parsed = Schema.from_any(ANYTHING).parse(json.dumps(value))

    assert parsed.ok
    assert parsed.value == value


def test_a_value_nested_too_deeply_is_an_error_not_a_crash() -> None:
    deep: dict[str, Any] = {"name": "x", "children": []}
    for _ in range(400):
        deep = {"name": "x", "children": [deep]}

    parsed = Schema.from_any(Tree).parse(json.dumps(deep))

    assert parsed.errors == ("the answer is nested too deeply",)


def test_a_class_gives_an_instance() -> None:
    text = '{"colour": "red", "built": "1999-05-01", "doorNumbers": [1, 2]}'

    parsed = Schema.from_any(Car).parse(text)

    assert parsed.value == Car(colour=Colour.RED, built=date(1999, 5, 1), doorNumbers=(1, 2))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            '{"colour": "red", "built": "1899-01-01"}',
            "$.built: Value error, there were no cars then",
        ),
        ('{"colour": "green", "built": "1999-01-01"}', "$.colour: 'green' is not one of"),
        ('{"colour": "red", "built": "yesterday"}', "$.built: Input should be a valid date"),
    ],
)
def test_a_class_has_its_own_opinion(text: str, error: str) -> None:
    (told,) = Schema.from_any(Car).parse(text).errors

    assert told.startswith(error)


def test_places_inside_lists_are_spelled_as_json_paths() -> None:
    class Cars(BaseModel):
        cars: list[Car]

    text = '{"cars": [{"colour": "red", "built": "1899-01-01"}]}'

    (told,) = Schema.from_any(Cars).parse(text).errors

    assert told.startswith("$.cars[0].built: ")


def test_a_recursive_class_works() -> None:
    tree = Schema.from_any(Tree).parse('{"name": "a", "children": [{"name": "b"}]}').value

    assert tree == Tree(name="a", children=[Tree(name="b")])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
containers = json_values.filter(lambda value: isinstance(value, list | dict))
prose = st.text().filter(lambda text: not set(text) & set("{[`"))


@given(json_values)
def test_any_value_comes_back_as_it_was_written(value: object) -> None:
    schema = Schema.from_any(ANYTHING)

    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        parsed = schema.parse(text)
        assert parsed.ok
        assert parsed.value == value


@given(containers, prose, prose)
def test_a_value_is_found_inside_any_prose(value: object, before: str, behind: str) -> None:
    text = f"{before}\n{json.dumps(value)}\n{behind}"

    assert Schema.from_any(ANYTHING).parse(text).value == value


@given(json_values, prose, prose)
def test_a_value_is_found_in_a_fence(value: object, before: str, behind: str) -> None:
    text = f"{before}\n```json\n{json.dumps(value)}\n```\n{behind}"

    assert Schema.from_any(ANYTHING).parse(text).value == value


@given(st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    parsed = Schema.from_any(ANSWER).parse(text)

    assert parsed.ok == (not parsed.errors)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_a_repair_prompt_holds_the_answer_exactly(text: str, errors: list[str]) -> None:
    prompt = Schema.from_any(ANSWER).repair_prompt(text, tuple(errors))

    assert f"<answer>\n{text}\n</answer>" in prompt
    assert all(f"- {error}" in prompt for error in errors)
