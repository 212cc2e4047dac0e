"""Results as columns of a table: flat, typed, the same whatever the answers were."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from chutes_opencode.batch.store.record_json import masked, recorded_error, usage_fields
from chutes_opencode.errors import (
    ConfigurationError,
    InvalidRequestError,
    OpenCodeError,
    UnknownOpenCodeError,
)
from chutes_opencode.results import QueryResult

# Whole numbers and truths are never null: pandas, which writes JSON Lines for Ray, would make
# floats and objects of them.
RESULT_COLUMNS: dict[str, pa.DataType] = {
    "result": pa.string(),
    "success": pa.bool_(),
    "structured": pa.string(),
    "partial_text": pa.string(),
    "error_type": pa.string(),
    "error_message": pa.string(),
    "error_hint": pa.string(),
    "error_status": pa.int64(),
    "model": pa.string(),
    "served_model": pa.string(),
    "finish_reason": pa.string(),
    "cost_usd": pa.float64(),
    "usage_input": pa.int64(),
    "usage_output": pa.int64(),
    "usage_reasoning": pa.int64(),
    "usage_cache_read": pa.int64(),
    "usage_cache_write": pa.int64(),
    "usage_num_turns": pa.int64(),
    "usage_num_requests": pa.int64(),
    "usage_estimated": pa.bool_(),
    "attempts": pa.int64(),
    "duration_s": pa.float64(),
    "queued_s": pa.float64(),
    "node_id": pa.string(),
}
"""The columns that a result becomes, with their types."""


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """Which columns a dataset gets for its results.

    Attributes:
        names: Of `RESULT_COLUMNS`, in this order.
        prefix: Stands before each name.
    """

    names: tuple[str, ...] = tuple(RESULT_COLUMNS)
    prefix: str = ""

    @classmethod
    def chosen(cls, names: Sequence[str] | None, prefix: str) -> Self:
        """Return the columns that a caller names.

        Args:
            names: None: all.
            prefix: Stands before each name.

        Raises:
            ConfigurationError: There is no such column, or one is named twice.
        """
        given = (names,) if isinstance(names, str) else tuple(names or RESULT_COLUMNS)
        for number, name in enumerate(given):
            _check_known(name, tuple(RESULT_COLUMNS), whose="a result")
            if name in given[:number]:
                raise ConfigurationError(raw_message=f"the column {name!r} is named twice")
        return cls(given, prefix)

    @property
    def schema(self) -> pa.Schema:
        """Their names in the dataset, and their types."""
        return pa.schema([(self.prefix + name, RESULT_COLUMNS[name]) for name in self.names])

    def check(self, input_columns: Sequence[str], prompt_column: str) -> None:
        """Hold them against a dataset's own columns.

        Args:
            input_columns: The dataset's.
            prompt_column: The one that is to hold the prompts.

        Raises:
            ConfigurationError: The prompts' column is not there, or two would have one name.
        """
        _check_known(prompt_column, input_columns, whose="the dataset")
        clash = [name for name in self.schema.names if name in input_columns]
        if clash:
            raise ConfigurationError(
                raw_message=f"results would have columns that are there: {', '.join(clash)}",
                hint='Name them otherwise, prefix="answer_", or take fewer, columns=["result"].',
            )

    def added_to(self, table: pa.Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Return a table with these columns after its own.

        Args:
            table: The input rows.
            rows: Of `result_row`, one for each.
        """
        for name, field in zip(self.names, self.schema, strict=True):
            table = table.append_column(field, pa.array([row[name] for row in rows], field.type))
        return table


def result_schema(columns: Sequence[str] | None = None, prefix: str = "") -> pa.Schema:
    """Return the columns that `prompt_dataset` adds, to read JSON Lines with the same types.

    Args:
        columns: As `prompt_dataset`'s.
        prefix: As `prompt_dataset`'s.

    Raises:
        ConfigurationError: There is no such column, or one is named twice.
    """
    return ResultColumns.chosen(columns, prefix).schema


def _check_known(name: str, known: Sequence[str], *, whose: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigurationError(
            raw_message=f"{whose} has no column {name!r}",
            hint=f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}.",
        )


def result_row(result: QueryResult, node_id: str) -> dict[str, Any]:
    """Return a result as the values of `RESULT_COLUMNS`, secrets masked.

    Args:
        result: What a prompt has come to; the text of a failed one becomes `partial_text`.
        node_id: Where it ran.
    """
    failed = result.error is not None or not result.success
    values: dict[str, Any] = {
        "result": None if failed else masked(result.result),
        "success": not failed,
        "structured": _as_json(result.structured),
        "model": result.model or None,
        "served_model": masked(result.served_model),
        "finish_reason": masked(result.finish_reason),
        "cost_usd": result.cost_usd,
        "attempts": sum(attempt.scope != "request" for attempt in result.attempts),
        "duration_s": result.duration_s,
        "queued_s": result.queued_s,
        "node_id": node_id,
        "error_status": 0,
    }
    values |= {f"usage_{name}": value for name, value in usage_fields(result.usage).items()}
    if failed:
        error = result.error or UnknownOpenCodeError(raw_message="no success, and no reason told")
        values |= _error_values(error, result.result)
    return {name: values.get(name) for name in RESULT_COLUMNS}


def _error_values(error: OpenCodeError, text: str) -> dict[str, Any]:
    told = recorded_error(error, text)
    return {
        "partial_text": masked(told.partial_text),
        "error_type": told.type,
        "error_message": masked(told.message),
        "error_hint": masked(told.hint),
        "error_status": told.status or 0,
    }


def _as_json(value: Any) -> str | None:
    if value is None:
        return None
    if hasattr(value, "model_dump"):  # an instance of the pydantic class that was the schema
        value = value.model_dump(mode="json")
    return json.dumps(masked(value), ensure_ascii=False)


def prompts_of(table: pa.Table, column: str) -> list[Any]:
    """Return the values that are to be prompts; None for each row of a block without the column."""
    if column not in table.column_names:
        return [None] * table.num_rows
    values: list[Any] = table.column(column).to_pylist()
    return values


def no_text(value: Any) -> InvalidRequestError:
    """Return the error of a row whose prompt is no text."""
    kind = "empty (None)" if value is None else f"no text but {type(value).__name__}"
    return InvalidRequestError(
        raw_message=f"the prompt is {kind}",
        hint="Fill the column with texts, or filter such rows out before.",
    )
