"""A run's results as other programs read them."""

from __future__ import annotations

import builtins
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

from chutes_opencode.batch import exports
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.exports import COLUMNS, FILE_NAMES, export, write
from chutes_opencode.batch.record import FAILED, Record, RecordedError
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.results import Usage

OK_RECORD = Record(
    "q-1",
    "acme/a",
    content_hash="ab" * 16,
    result="It is 42.",
    structured={"n": [42]},
    usage=Usage(input=20, output=5, num_requests=1),
    cost_usd=0.25,
    attempts=1,
    started_at=1_800_000_000.5,
    duration_s=1.5,
    metadata={"topic": "sums", "weight": 2},
    transcript="0001.jsonl:0",
)
FAILED_RECORD = Record(
    "q-2",
    "acme/a",
    status=FAILED,
    error=RecordedError("ServerError", "broke", hint="Wait.", status=500, partial_text="It"),
    metadata={"topic": None, "weight": 0.5},
)


class Results:
    """Results in memory; notes how often they were read."""

    def __init__(self, *records: Record) -> None:
        self._records = records
        self.read = 0

    def records(self) -> Iterator[Record]:
        self.read += 1
        yield from self._records


def written(file_format: str, *records: Record, **options: Any) -> bytes:
    stream = io.BytesIO()
    write(Results(*records), file_format, stream, **options)
    return stream.getvalue()


def csv_rows(*records: Record) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written("csv", *records).decode(), newline="")))


def lines(file_format: str, *records: Record, **options: Any) -> list[Any]:
    return [json.loads(line) for line in written(file_format, *records, **options).splitlines()]


def test_a_line_is_flat_and_named_as_pandas_names_it() -> None:
    (row,) = lines("jsonl", OK_RECORD)

    assert (row["id"], row["result"], row["structured"]) == ("q-1", "It is 42.", {"n": [42]})
    assert (row["usage.input"], row["usage.num_requests"], row["cost_usd"]) == (20, 1, 0.25)
    assert (row["error.type"], row["error.partial_text"]) == (None, None)
    assert (row["metadata.topic"], row["metadata.weight"]) == ("sums", 2)
    assert list(row)[: len(COLUMNS)] == list(COLUMNS)


def test_a_failure_has_its_class_its_message_and_what_was_written() -> None:
    (row,) = lines("jsonl", FAILED_RECORD)

    assert (row["status"], row["error.type"], row["error.status"]) == ("failed", "ServerError", 500)
    assert (row["error.message"], row["error.partial_text"]) == ("broke", "It")


def test_csv_has_a_column_for_all_that_any_result_has() -> None:
    more = replace(OK_RECORD, id="q-3", metadata={"late": True, "deep": {"x": 1}})

    first, second, third = csv_rows(OK_RECORD, FAILED_RECORD, more)

    assert (first["metadata.topic"], first["metadata.weight"]) == ("sums", "2")
    assert (second["metadata.topic"], second["metadata.late"]) == ("", "")
    assert (third["metadata.late"], third["metadata.deep"]) == ("true", '{"x":1}')
    assert (first["structured"], second["cost_usd"]) == ('{"n":[42]}', "")
    assert (first["usage.estimated"], second["error.type"]) == ("false", "ServerError")


@pytest.mark.parametrize("text", ['a,"b"\nc\r\nd', " lead", "Zoë 😀 \u2028", "\x00"])
def test_csv_keeps_text_as_it_is(text: str) -> None:
    (row,) = csv_rows(replace(OK_RECORD, result=text))

    assert row["result"] == text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("＝1", "'＝1"),
        ("- a list", "'- a list"),
        ("-42", "-42"),
        ("+4.5e-3", "+4.5e-3"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_of_a_spreadsheet(text: str, cell: str) -> None:
    record = replace(OK_RECORD, id=f"x{text}", result=text, metadata={"m": text})

    (row,) = csv_rows(record)

    assert (row["result"], row["metadata.m"]) == (cell, cell)


def read_parquet(path: Path) -> Any:
    return parquet.read_table(path)


def test_parquet_has_types(tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"

    count = export(Results(OK_RECORD, FAILED_RECORD), "parquet", out)

    first, second = read_parquet(out).to_pylist()
    assert count == 2
    assert (first["usage.input"], first["usage.estimated"], first["cost_usd"]) == (20, False, 0.25)
    assert (first["structured"], second["structured"]) == ('{"n":[42]}', None)
    assert (second["error.status"], second["cost_usd"]) == (500, None)
    assert (first["metadata.weight"], second["metadata.weight"]) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([1, None, 3], [1, None, 3]),
        ([1, 2.5], [1.0, 2.5]),
        ([True, None], [True, None]),
        ([True, 1], ["true", "1"]),
        (["a", 1], ["a", "1"]),
        ([{"x": 1}, [2]], ['{"x":1}', "[2]"]),
        ([2**63], [str(2**63)]),
        ([None, None], [None, None]),
    ],
)
def test_a_metadata_column_has_the_type_of_its_values(
    tmp_path: Path, values: list[Any], cells: list[Any]
) -> None:
    records = [replace(OK_RECORD, id=str(n), metadata={"m": v}) for n, v in enumerate(values)]

    export(Results(*records), "parquet", tmp_path / "p")

    assert read_parquet(tmp_path / "p").column("metadata.m").to_pylist() == cells


def test_parquet_is_written_a_row_group_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "GROUP_ROWS", 4)
    monkeypatch.setattr(exports, "GROUP_CHARACTERS", 5_000)
    long = replace(OK_RECORD, result="x" * 6_000)

    export(Results(*[OK_RECORD] * 9, long, OK_RECORD), "parquet", tmp_path / "p")

    groups = parquet.ParquetFile(tmp_path / "p").metadata
    sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    assert sizes == [4, 4, 2, 1]


def test_metadata_with_too_many_keys_stays_together(tmp_path: Path) -> None:
    records = [replace(OK_RECORD, id=str(n), metadata={f"k{n}": n}) for n in range(300)]

    export(Results(*records), "parquet", tmp_path / "p")

    table = read_parquet(tmp_path / "p")
    assert table.column_names == [*COLUMNS, "metadata"]
    assert table.column("metadata").to_pylist()[299] == '{"k299":299}'


def test_all_forms_are_read_by_pandas_alike(tmp_path: Path) -> None:
    for name in ("parquet", "csv", "jsonl"):
        export(Results(OK_RECORD, FAILED_RECORD), name, tmp_path / name)

    frames = [
        pd.read_parquet(tmp_path / "parquet"),
        pd.read_csv(tmp_path / "csv"),
        pd.read_json(tmp_path / "jsonl", lines=True),
    ]

    for frame in frames:
        assert list(frame["id"]) == ["q-1", "q-2"]
        assert list(frame["usage.input"]) == [20, 0]
        assert list(frame["metadata.weight"]) == [2.0, 0.5]
        assert set(COLUMNS) < set(frame.columns)


def test_a_run_without_results_has_a_header(tmp_path: Path) -> None:
    assert written("csv").decode().splitlines()[0].split(",") == list(COLUMNS)
    assert export(Results(), "parquet", tmp_path / "p") == 0
    assert read_parquet(tmp_path / "p").num_rows == 0


def test_openai_lines_are_those_of_a_batch() -> None:
    first, second = lines("openai", OK_RECORD, FAILED_RECORD)

    assert first["custom_id"] == "q-1"
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "It is 42."
    assert (second["custom_id"], second["response"]) == ("q-2", None)
    assert second["error"]["message"] == "broke"


def test_predictions_are_what_swebench_reads() -> None:
    patched = replace(OK_RECORD, id="django__1", diff="diff --git a b\n")
    untouched = replace(OK_RECORD, id="django__2", diff="")

    shown = lines("swebench", patched, untouched, FAILED_RECORD)

    assert shown == [
        {
            "instance_id": "django__1",
            "model_name_or_path": "acme/a",
            "model_patch": "diff --git a b\n",
        },
        {"instance_id": "django__2", "model_name_or_path": "acme/a", "model_patch": ""},
    ]


def test_a_prediction_names_a_model_also_where_none_was_asked_by_name() -> None:
    record = replace(OK_RECORD, model="", served_model="acme/served", diff="x")

    (shown,) = lines("swebench", record)

    assert shown["model_name_or_path"] == "acme/served"


def test_predictions_of_several_models_are_one_file_each() -> None:
    record = replace(OK_RECORD, diff="x")
    other = replace(record, model="acme/b", diff="y")

    with pytest.raises(ConfigurationError, match="one prediction for an instance") as raised:
        written("swebench", record, other)

    assert "--model" in raised.value.hint
    assert [line["model_patch"] for line in lines("swebench", record, other, model="acme/b")] == [
        "y"
    ]


def test_without_a_diff_there_are_no_predictions() -> None:
    with pytest.raises(ConfigurationError, match="no result has a diff"):
        written("swebench", OK_RECORD)


def test_samples_may_be_chosen() -> None:
    samples = [replace(OK_RECORD, sample=number) for number in range(3)]

    assert [row["sample"] for row in lines("jsonl", *samples, sample=1)] == [1]


def test_a_format_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no export format 'xlsx'") as raised:
        written("xlsx")

    assert all(name in raised.value.hint for name in FILE_NAMES)


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "predictions.jsonl"
    out.write_text("before")

    with pytest.raises(ConfigurationError):
        export(Results(OK_RECORD), "swebench", out)

    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert out.read_text() == "before"


def test_what_holds_answers_is_its_owners_alone(tmp_path: Path) -> None:
    export(Results(OK_RECORD), "csv", tmp_path / "x.csv")

    assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"x\.csv"):
        export(Results(OK_RECORD), "csv", tmp_path / "nowhere" / "x.csv")


@pytest.fixture
def without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra."""
    real: Callable[..., Any] = builtins.__import__

    def load(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", load)
    monkeypatch.delitem(sys.modules, "pyarrow")


def test_without_pyarrow_the_command_that_installs_it_is_named(without_pyarrow: None) -> None:
    with pytest.raises(ConfigurationError, match="Parquet needs pyarrow") as raised:
        written("parquet", OK_RECORD)

    assert raised.value.hint == "pip install 'chutes-opencode[parquet]'"
