"""Where rows come from: files, stdin, iterables, tables."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from chutes_opencode.batch.item import BatchItem
from chutes_opencode.batch.items.formats import Row
from chutes_opencode.batch.items.sources import FileFormat, open_source
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.items.rows import rows_of, written

# --- which source it is ---------------------------------------------------------------------------


def test_a_file_is_described(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "prompt\na\n")

    source = open_source(str(path))

    assert (source.name, source.format, source.folder, source.path) == (
        *(str(path), "csv"),
        *(tmp_path, path),
    )
    assert source.rereadable
    assert source.tabular
    assert rows_of(source) == rows_of(source)


def test_a_format_that_is_named_wins(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "prompt\na\n")

    assert rows_of(open_source(path, "csv")) == [(2, {"prompt": "a"})]


@pytest.mark.parametrize(
    ("name", "file_format", "said"),
    [
        ("a.txt", None, "format of .*a.txt cannot be told"),
        ("missing.jsonl", None, "missing.jsonl cannot be read: No such file"),
        ("sub", None, "sub is a folder"),
        ("a.txt", "xml", "unknown format 'xml'"),
        ("a\0b", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, name: str, file_format: Any, said: str
) -> None:
    written(tmp_path, "a.txt", "a")
    (tmp_path / "sub").mkdir()

    with pytest.raises(ConfigurationError, match=said):
        open_source(f"{tmp_path}/{name}", file_format)


def test_a_file_that_goes_away_is_told(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, "a.jsonl", "{}"))
    (tmp_path / "a.jsonl").unlink()

    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        rows_of(source)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)  # so that nobody waits for another end
    try:
        source = open_source(path)
        assert (source.format, source.rereadable, source.path) == ("jsonl", False, None)
        assert source.folder is None
        os.write(end, b'{"a": 1}\n')
        assert next(source.rows()) == (1, {"a": 1})
    finally:
        os.close(end)


@pytest.mark.parametrize(
    ("file_format", "content", "rows"),
    [
        (None, b'{"a": 1}\n\n{"b": 2}\n', [(1, {"a": 1}), (3, {"b": 2})]),
        ("csv", b"a\n1\n", [(2, {"a": "1"})]),
        ("tsv", b"a\tb\n1\t2\n", [(2, {"a": "1", "b": "2"})]),
    ],
)
def test_stdin(
    monkeypatch: pytest.MonkeyPatch,
    file_format: FileFormat | None,
    content: bytes,
    rows: list[tuple[int, Row]],
) -> None:
    with io.TextIOWrapper(io.BytesIO(content)) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        source = open_source("-", file_format)

        assert (source.name, source.rereadable, source.folder) == ("stdin", False, None)
        assert rows_of(source) == rows
        assert not stream.buffer.closed


def test_parquet_does_not_come_from_stdin() -> None:
    with pytest.raises(ConfigurationError, match="stdin"):
        open_source("-", "parquet")


# --- what is in memory ----------------------------------------------------------------------------


def test_items_are_prompts_mappings_and_batch_items() -> None:
    item = BatchItem("x", "p", params={"seed": 1}, files=("f",), content_hash="h", line=3)

    source = open_source(["a", {"prompt": "b", 5: np.int64(6)}, item, 7, b"x", None])

    rows = rows_of(source)
    assert rows[:3] == [
        (1, {"prompt": "a"}),
        (2, {"prompt": "b", "5": 6}),
        (3, {"id": "x", "prompt": "p", "params": {"seed": 1}, "files": ["f"]}),
    ]
    assert [row for _, row in rows[3:]] == [
        f"an item is a {kind}, neither a prompt nor a mapping"
        for kind in ("int", "bytes", "NoneType")
    ]
    assert source.rereadable


def test_a_generator_is_read_once_and_only_as_far_as_it_is_asked() -> None:
    made = []

    def prompts() -> Iterator[str]:
        for number in range(5):
            made.append(number)
            yield str(number)

    source = open_source(prompts())
    assert not source.rereadable
    assert made == []

    assert next(source.rows()) == (1, {"prompt": "0"})
    assert made == [0]


@pytest.mark.parametrize("given_items", [5, b"abc", {"prompt": "a"}, BatchItem("a"), None])
def test_one_item_is_no_batch(given_items: object) -> None:
    with pytest.raises(ConfigurationError, match="items must be a file or many prompts"):
        open_source(given_items)


def test_a_format_is_a_files() -> None:
    with pytest.raises(ConfigurationError, match="format says how a file is read"):
        open_source(["a"], "csv")


# --- tables ---------------------------------------------------------------------------------------

COLUMNS = {"prompt": ["a", None], "n": [1, 2], "score": [0.5, float("nan")]}
ROWS = [
    (1, {"prompt": "a", "n": 1, "score": 0.5}),
    (2, {"prompt": None, "n": 2, "score": None}),
]


@dataclass
class PolarsFrame:
    """What is used of a DataFrame of polars."""

    data: dict[str, list[Any]]

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    def iter_rows(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.data.values(), strict=True)


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table, PolarsFrame])
def test_tables_are_read_row_by_row_and_nan_is_absent(make: Any) -> None:
    source = open_source(make(COLUMNS))

    assert rows_of(source) == ROWS
    assert rows_of(source) == ROWS
    assert (source.format, source.tabular, source.rereadable) == ("table", True, True)


def test_the_types_of_pandas_are_plain() -> None:
    frame = pd.DataFrame(
        {
            "id": pd.array([1, None], dtype="Int64"),
            "day": pd.to_datetime(["2026-11-21", None]),
            "kind": pd.Categorical(["x", "y"]),
            3: [np.array([1.5, 2]), [np.bool_(True)]],
        },
        index=[7, 8],
    )

    assert rows_of(open_source(frame)) == [
        (1, {"id": 1, "day": "2026-11-21T00:00:00", "kind": "x", "3": [1.5, 2.0]}),
        (2, {"id": None, "day": None, "kind": "y", "3": [True]}),
    ]


def test_a_series_of_prompts_is_an_iterable() -> None:
    assert rows_of(open_source(pd.Series(["a", "b"]))) == [
        (1, {"prompt": "a"}),
        (2, {"prompt": "b"}),
    ]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    ],
)
def test_a_table_has_no_column_twice(table: object) -> None:
    with pytest.raises(ConfigurationError, match="two columns 'a'"):
        open_source(table)
