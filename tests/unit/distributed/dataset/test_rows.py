"""Results as typed columns."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pydantic
import pytest

from chutes_opencode.distributed.dataset.rows import (
    RESULT_COLUMNS,
    ResultColumns,
    no_text,
    prompts_of,
    result_row,
    result_schema,
)
from chutes_opencode.errors import ConfigurationError, MaxOutputTokensError, RateLimitError
from chutes_opencode.results import Attempt, QueryResult, Usage


class City(pydantic.BaseModel):
    name: str


def make_result(**changes: Any) -> QueryResult:
    given: dict[str, Any] = {"result": "", "returncode": 0, "stderr": "", "stream_result": ""}
    return QueryResult(**{**given, **changes})


def test_an_answer_has_a_value_in_each_column() -> None:
    result = make_result(
        result="42",
        success=True,
        usage=Usage(input=3, output=2, num_turns=1, num_requests=1),
        cost_usd=0.25,
        model="m",
        served_model="m-1",
        finish_reason="stop",
        attempts=(Attempt(1, "serve", scope="request"), Attempt(1, "serve")),
        duration_s=1.5,
    )

    row = result_row(result, "node-1")

    assert tuple(row) == tuple(RESULT_COLUMNS)
    assert (row["result"], row["success"], row["cost_usd"]) == ("42", True, 0.25)
    assert (row["usage_input"], row["usage_output"], row["usage_estimated"]) == (3, 2, False)
    assert (row["attempts"], row["node_id"], row["error_type"]) == (1, "node-1", None)


def test_a_failure_keeps_what_was_written_and_says_why() -> None:
    error = RateLimitError(raw_message="too many", status=429, hint="Wait.")

    row = result_row(make_result(result="half an ans", error=error), "n")

    assert (row["success"], row["result"], row["partial_text"]) == (False, None, "half an ans")
    assert (row["error_type"], row["error_message"]) == ("RateLimitError", "too many")
    assert (row["error_status"], row["error_hint"]) == (429, "Wait.")


def test_an_error_without_a_status_or_a_reason_is_one_too() -> None:
    cut = MaxOutputTokensError(raw_message="cut", partial_text="what there is")

    assert result_row(make_result(error=cut), "n")["partial_text"] == "what there is"
    assert result_row(make_result(error=cut), "n")["error_status"] == 0
    assert result_row(make_result(), "n")["error_type"] == "UnknownOpenCodeError"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        ([], "[]"),
        (City(name="Łódź"), '{"name": "Łódź"}'),
        ("text", '"text"'),
    ],
)
def test_a_structured_value_is_json_text(value: Any, text: str | None) -> None:
    assert result_row(make_result(structured=value, success=True), "n")["structured"] == text


def test_no_secret_and_no_half_character_gets_into_a_row() -> None:
    key = "cpk_" + "a" * 40
    result = make_result(
        result=f"the key is {key} \ud800", structured={"key": key}, success=True, model="m"
    )

    row = result_row(result, "n")
    table = ResultColumns().added_to(pa.table({"prompt": ["p"]}), [row])

    assert key not in json.dumps(table.to_pylist())
    assert table.column("result").to_pylist() == ["the key is [masked] \\ud800"]


@pytest.mark.parametrize("rows", [0, 2])
def test_types_do_not_depend_on_values(rows: int) -> None:
    failed = result_row(make_result(error=RateLimitError(raw_message="no")), "n")
    prompts = pa.table({"prompt": pa.array(["p"] * rows, pa.string())})

    table = ResultColumns().added_to(prompts, [failed] * rows)

    assert table.schema == pa.schema([("prompt", pa.string()), *RESULT_COLUMNS.items()])


def test_chosen_columns_stand_in_their_order_under_their_prefix() -> None:
    assert result_schema(["cost_usd", "result"], "a_") == pa.schema(
        [("a_cost_usd", pa.float64()), ("a_result", pa.string())]
    )
    assert result_schema("result").names == ["result"]
    assert result_schema().names == list(RESULT_COLUMNS)


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (["results"], "a result has no column 'results'", "Did you mean 'result'?"),
        (["qqq"], "a result has no column 'qqq'", "There are: result,"),
        (["result", "result"], "the column 'result' is named twice", ""),
    ],
)
def test_a_column_that_is_none_is_refused(columns: list[str], message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        result_schema(columns)

    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["question"], "the dataset has no column 'prompt'"),
        (["promt"], "the dataset has no column 'prompt'"),
        (["prompt", "model", "result"], "columns that are there: result, model"),
    ],
)
def test_columns_of_the_dataset_are_held_against_those_of_results(
    columns: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ResultColumns().check(columns, "prompt")


def test_the_nearest_column_is_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        ResultColumns().check(["promt", "id"], "prompt")

    assert refused.value.hint == "Did you mean 'promt'?"


def test_a_block_without_the_column_has_rows_without_a_prompt() -> None:
    assert prompts_of(pa.table({"prompt": ["a", None]}), "prompt") == ["a", None]
    assert prompts_of(pa.table({"id": [1, 2]}), "prompt") == [None, None]


@pytest.mark.parametrize(("value", "kind"), [(None, "empty (None)"), (2.5, "no text but float")])
def test_what_is_no_text_is_named(value: Any, kind: str) -> None:
    assert no_text(value).raw_message == f"the prompt is {kind}"
