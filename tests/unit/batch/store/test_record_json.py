"""Records as JSON: every field, always; read back as they were; never a secret, never a failure."""

from __future__ import annotations

import datetime
import json
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.record import CUT, FAILED, OK, Record, RecordedError
from chutes_opencode.batch.store.record_json import (
    TOO_DEEP,
    from_json,
    from_line,
    masked,
    record_line,
    record_of,
    to_json,
)
from chutes_opencode.errors import MaxOutputTokensError, ServerError
from chutes_opencode.results import Attempt, Exchange, QueryResult, Usage

FULL = Record(
    id="é",
    model="m",
    sample=3,
    content_hash="ab" * 16,
    status=FAILED,
    result="text",
    structured={"answer": [1, 2.5, None, True]},
    diff="--- a\n+++ b\n",
    error=RecordedError("ServerError", "broke", "wait", 503, 1, "req_1", "par"),
    usage=Usage(1, 2, 3, 4, 5, 6, 7, True),
    failed_usage=Usage(1),
    cost_usd=0.5,
    served_model="m2",
    finish_reason="stop",
    attempts=2,
    num_retries=4,
    session_id="ses_1",
    started_at=1_767_225_600.25,
    duration_s=1.5,
    queued_s=0.5,
    first_token_s=0.25,
    metadata={"row": 7, "tags": ["x"]},
    transcript="0001.jsonl:0",
)
TASK = Task(BatchItem("a", content_hash="cd" * 16, metadata={"row": 7}), "m", 2)


@pytest.mark.parametrize("record", [FULL, Record("a", "")], ids=["full", "empty"])
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    line = record_line(record)

    assert from_line(line) == record
    assert list(json.loads(line)) == [each.name for each in fields(Record)]
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")


def test_fields_of_later_versions_are_left_out_and_missing_ones_have_their_default() -> None:
    values = {"id": "a", "model": "m", "colour": "red", "usage": {"input": 3, "dreams": 1}}
    values["error"] = {"type": "X", "message": "y", "mood": "bad"}

    assert from_json(values) == Record("a", "m", usage=Usage(3), error=RecordedError("X", "y"))


@pytest.mark.parametrize(
    "values",
    [
        None,
        7,
        [],
        {},
        {"id": "a"},
        {"id": 7, "model": "m"},
        {"id": "a", "model": None},
        {"id": "a", "model": "m", "usage": 7},
        {"id": "a", "model": "m", "error": "broke"},
        {"id": "a", "model": "m", "error": {"type": "X"}},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="no record"):
        from_json(values)


@pytest.mark.parametrize("line", [b"", b"no", b'{"id"'])
def test_a_line_that_is_no_json_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_line(line)


class Odd:
    def __str__(self) -> str:
        return "odd \ud800"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2**64 - 1, 2**64 - 1),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (float("nan"), None),
        (Fraction(1, 2), 0.5),
        (Decimal("1.10"), "1.10"),
        ("\ud800", "\\ud800"),
        ({1: "x", None: "y"}, {"1": "x", "None": "y"}),
        ({"\udfff": 1}, {"\\udfff": 1}),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        ({3}, [3]),
        (Path("a/b"), "a/b"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Odd(), "odd \\ud800"),
        (True, True),
    ],
    ids=repr,
)
def test_any_metadata_can_be_written(value: Any, written: Any) -> None:
    line = record_line(replace(FULL, metadata={"it": value}))

    assert orjson.loads(line)["metadata"] == {"it": written}


def test_what_is_nested_too_deeply_is_cut() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    line = record_line(replace(FULL, structured=deep))

    assert line.count(b"[") < 300
    assert TOO_DEEP.encode() in line


def test_secrets_are_masked_wherever_text_is() -> None:
    key = "cpk_0123456789abcdef.key"
    error = RecordedError("X", key, key, partial_text=key)
    leaky = replace(
        FULL, result=key, structured=[key], diff=key, error=error, metadata={key: {"x": key}}
    )

    assert key not in record_line(leaky).decode()
    assert key in to_json(replace(FULL, id=key))["id"]  # or a resume would not find it


def test_masked_leaves_plain_values_as_they_are() -> None:
    value = {"a": [1, 2.5, "x", None, False, {"b": ["é"]}]}

    assert masked(value) == value


# --- of a result ---------------------------------------------------------------------------------


def test_an_answer_is_recorded_with_its_figures() -> None:
    result = QueryResult(
        "42",
        0,
        "",
        "",
        True,
        usage=Usage(5, num_requests=3),
        cost_usd=0.1,
        served_model="m2",
        session_id="ses_1",
        finish_reason="stop",
        attempts=(
            Attempt(1, "serve", "request", error=ServerError(), usage=Usage(2)),
            Attempt(1, "serve", error=ServerError(), usage=Usage(3)),
            Attempt(2, "serve", usage=Usage(2)),
        ),
        exchanges=(Exchange(503), Exchange(200, first_byte_s=0.3), Exchange(200, first_byte_s=9)),
        structured={"x": 1},
        duration_s=2.0,
        queued_s=0.5,
    )

    assert record_of(TASK, result, started_at=7.0, diff="d") == Record(
        id="a",
        model="m",
        sample=2,
        content_hash="cd" * 16,
        status=OK,
        result="42",
        structured={"x": 1},
        diff="d",
        usage=Usage(5, num_requests=3),
        failed_usage=Usage(3),
        cost_usd=0.1,
        served_model="m2",
        finish_reason="stop",
        attempts=2,
        num_retries=2,
        session_id="ses_1",
        started_at=7.0,
        duration_s=2.0,
        queued_s=0.5,
        first_token_s=0.3,
        metadata={"row": 7},
    )


@pytest.mark.parametrize(
    ("error", "partial"),
    [
        (ServerError("n", 3, "down", status=503, request_id="r", hint="wait"), "written so far"),
        (MaxOutputTokensError("n", 3, "cut", "half", status=200, request_id="r"), "half"),
    ],
)
def test_a_failure_keeps_its_error_and_what_was_written(
    error: ServerError | MaxOutputTokensError, partial: str
) -> None:
    result = QueryResult("written so far", 3, "", "", error=error)

    record = record_of(TASK, result, started_at=7.0)

    assert (record.status, record.result) == (FAILED, "")
    assert record.error == RecordedError(
        type(error).__name__, error.raw_message, error.hint, error.status, 3, "r", partial
    )


def test_what_we_ended_is_cut() -> None:
    result = QueryResult("", -1, "", "", error=ServerError())

    assert record_of(TASK, result, started_at=7.0, status=CUT).status == CUT


def test_no_success_without_a_reason_is_a_failure_too() -> None:
    record = record_of(TASK, QueryResult("", 1, "", ""), started_at=7.0)

    assert record.status == FAILED
    assert record.error is not None
    assert record.error.type == "UnknownOpenCodeError"
