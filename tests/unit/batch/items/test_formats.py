"""Rows of files: JSON lines, CSV and TSV, Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.items import formats
from chutes_opencode.batch.items.lines import BadRowError
from chutes_opencode.batch.items.sources import open_source
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.items.rows import rows_in, rows_of

# --- JSON lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a"}\n{"prompt": "\xc3\xa9"}\n',
        b'{"prompt": "a"}\n{"prompt": "\xc3\xa9"}',
        b'{"prompt": "a"}\r\n{"prompt": "\xc3\xa9"}\r\n',
        b'\xef\xbb\xbf{"prompt": "a"}\n{"prompt": "\xc3\xa9"}\n',
        b'{"prompt": "a"}\n  {"prompt": "\\u00e9"} \n',
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.JSONL"])
def test_json_lines(tmp_path: Path, name: str, content: bytes) -> None:
    assert rows_in(tmp_path, name, content) == [(1, {"prompt": "a"}), (2, {"prompt": "é"})]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    content = b'\n{"prompt": "a"}\n \t\r\n\r\n{"prompt": "b"}\n\n'

    assert rows_in(tmp_path, "a.jsonl", content) == [(2, {"prompt": "a"}), (5, {"prompt": "b"})]


def test_nan_in_json_is_null(tmp_path: Path) -> None:
    content = json.dumps({"prompt": "NaN", "label": float("nan"), "all": [float("nan"), 1]})

    assert rows_in(tmp_path, "a.jsonl", content) == [
        (1, {"prompt": "NaN", "label": None, "all": [None, 1]})
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "no JSON: "),
        (b"hello", "no JSON: "),
        (b'{"prompt": NaN, "a": Infinity}', "no JSON: "),
        (b'{"prompt": "NaN"', "no JSON: "),
        (b"5", "a row must be an object of columns, not a single value"),
        (b'"text"', "a row must be an object of columns, not a single value"),
        (b"[1]", "a row must be an object of columns, not a list"),
        (b'{"prompt": "a\xff"}', "not UTF-8: byte 0xff at 14"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "no JSON: "),
        (b'{"prompt": "\\ud800"}', "no JSON: "),
    ],
)
def test_a_bad_line_is_told_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    rows = rows_in(tmp_path, "a.jsonl", b'{"a": 1}\n' + line + b'\n{"b": 2}\n')

    assert [rows[0], rows[2]] == [(1, {"a": 1}), (3, {"b": 2})]
    assert str(rows[1][1]).startswith(reason)


def test_a_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE", 100)
    longest = b'{"a": "' + b"x" * 90 + b'"}\n'  # of 100 bytes
    content = longest + b'{"a": "' + b"x" * 5000 + b'"}\n' + longest + b'{"a": ' + b"x" * 200

    rows = rows_in(tmp_path, "a.jsonl", content)

    assert [isinstance(row, str) for _, row in rows] == [False, True, False, True]
    assert "the line is longer than" in str(rows[1][1])


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (b'[{"prompt": "a"}]', "one JSON array", "jq -c"),
        (b'\n [\n {"prompt": "a"}]', "one JSON array", "jq -c"),
        ('{"prompt": "a"}'.encode("utf-16"), "UTF-16", "UTF-8"),
        (b"\x1f\x8b\x08\x00\x00", "compressed", "zcat"),
    ],
)
def test_a_file_of_something_else_is_told_with_what_helps(
    tmp_path: Path, content: bytes, said: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        rows_in(tmp_path, "a.jsonl", content)

    assert hint in caught.value.hint


@given(st.binary())
def test_any_bytes_are_rows_or_bad_rows(content: bytes) -> None:
    for name in ("jsonl", "csv"):
        opened = lambda: io.BytesIO(content)  # noqa: E731
        rows = (
            formats.json_rows(opened, "f")
            if name == "jsonl"
            else formats.delimited_rows(opened, "f", ",")
        )
        try:
            read = list(rows)
        except ConfigurationError:
            continue
        assert all(isinstance(row, dict | BadRowError) for _, row in read)
        assert [number for number, _ in read] == sorted({number for number, _ in read})


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63 - 1))))
def test_any_json_lines_come_back(given_rows: list[dict[str, Any]]) -> None:
    content = "\n".join(json.dumps(row) for row in given_rows).encode()

    read = [row for _, row in formats.json_rows(lambda: io.BytesIO(content), "f")]

    assert read == given_rows


# --- CSV and TSV ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"id,prompt\n1,a\n", [(2, {"id": "1", "prompt": "a"})]),
        (b"\xef\xbb\xbfid,prompt\r\n1,a\r\n", [(2, {"id": "1", "prompt": "a"})]),
        (b'prompt\n"a ""b"", c"\n', [(2, {"prompt": 'a "b", c'})]),
        (b'prompt\n"a\nb"\n\nc\n', [(2, {"prompt": "a\nb"}), (5, {"prompt": "c"})]),
        (b'prompt\r\n"a\r\nb"\r\n', [(2, {"prompt": "a\r\nb"})]),
        (b'prompt\n5" pipe\n', [(2, {"prompt": '5" pipe'})]),
        (b'"my prompt",x\na,\n', [(2, {"my prompt": "a", "x": ""})]),
        (b"\n\nprompt\na\n", [(4, {"prompt": "a"})]),
        ("prompt\né\n".encode(), [(2, {"prompt": "é"})]),
        (b"prompt\n", []),
        (b"", []),
    ],
)
def test_csv(tmp_path: Path, content: bytes, rows: list[Any]) -> None:
    assert rows_in(tmp_path, "a.csv", content) == rows


@pytest.mark.parametrize("name", ["a.tsv", "a.tab"])
def test_tsv_has_tabs(tmp_path: Path, name: str) -> None:
    content = b'id\tprompt\n1\ta, b\n2\t"c\td"\n'

    assert rows_in(tmp_path, name, content) == [
        (2, {"id": "1", "prompt": "a, b"}),
        (3, {"id": "2", "prompt": "c\td"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "1 cells, but the header has 2"),
        (b"1,a,b", "3 cells, but the header has 2"),
        (b'1,"a"b', "no CSV: "),
        (b"1,a\xff", "not UTF-8 (save the file as UTF-8)"),
    ],
)
def test_a_bad_row_of_csv_is_told_and_the_next_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    rows = rows_in(tmp_path, "a.csv", b"id,prompt\n" + line + b"\n2,b\n")

    assert str(rows[0][1]).startswith(reason)
    assert [rows[0][0], rows[1]] == [2, (3, {"id": "2", "prompt": "b"})]


def test_a_quote_that_is_never_closed_is_told_with_its_line(tmp_path: Path) -> None:
    rows = rows_in(tmp_path, "a.csv", b'prompt\na\n"b\nc\nd\n')

    assert [number for number, _ in rows] == [2, 3]
    assert str(rows[1][1]).startswith("no CSV: ")


def test_a_line_of_csv_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE", 100)

    rows = rows_in(tmp_path, "a.csv", b"prompt\na\n" + b"x" * 5000 + b"\nb\n")

    assert [rows[0], rows[2]] == [(2, {"prompt": "a"}), (4, {"prompt": "b"})]
    assert "the line is longer than" in str(rows[1][1])


def test_a_quote_without_an_end_tells_how_far_it_reaches(tmp_path: Path) -> None:
    rows = rows_in(tmp_path, "a.csv", b'prompt\na\n"b\nc\nd\n')

    assert rows[0] == (2, {"prompt": "a"})
    assert [str(row) for _, row in rows[1:]] == [
        "no CSV: a quote is not closed before line 5, the last"
    ]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"prompt,id,prompt", "two columns 'prompt'"),
        (b",prompt", "no name for column 1"),
        (b"id;prompt", "semicolons"),
        (b"prompt\xff", "not UTF-8"),
        (b'"prompt"x', "cannot be read"),
        ("prompt,id".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_header_that_cannot_be_used_is_told(tmp_path: Path, header: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        rows_in(tmp_path, "a.csv", header + b"\n1,a\n")


cells = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(cells, cells)), st.sampled_from([",", "\t"]))
def test_any_text_comes_back_from_csv(given_rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("a", "b"), *given_rows])
    content = text.getvalue().encode()

    read = [row for _, row in formats.delimited_rows(lambda: io.BytesIO(content), "f", delimiter)]

    assert read == [{"a": a, "b": b} for a, b in given_rows]


# --- Parquet -------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    day = datetime(2026, 11, 21, tzinfo=UTC)
    table = pa.table(
        {
            "id": list(range(600)),
            "prompt": ["a"] * 600,
            "params": [{"temperature": 0.5, "seed": None}] * 600,
            "files": [["x", "y"]] * 600,
            "score": [float("nan"), *[1.0] * 599],
            "day": [day] * 600,
        }
    )
    pq.write_table(table, path, row_group_size=500)

    rows = rows_of(open_source(path))

    assert rows[0] == (
        1,
        {
            "id": 0,
            "prompt": "a",
            "params": {"temperature": 0.5, "seed": None},
            "files": ["x", "y"],
            "score": None,
            "day": "2026-11-21T00:00:00+00:00",
        },
    )
    assert [number for number, _ in rows] == list(range(1, 601))
    assert isinstance(rows[599][1], dict)
    assert rows[599][1]["id"] == 599


def test_a_map_of_parquet_is_an_object(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    maps = pa.array([[("lang", "fr")], None, []], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "metadata": maps}), path)

    assert [row for _, row in rows_of(open_source(path))] == [
        {"prompt": "a", "metadata": {"lang": "fr"}},
        {"prompt": "b", "metadata": None},
        {"prompt": "c", "metadata": {}},
    ]


def test_a_broken_parquet_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a\.parquet cannot be read"):
        rows_in(tmp_path, "a.parquet", b"PAR1 no more")


def test_without_pyarrow_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigurationError, match="need pyarrow") as caught:
        rows_in(tmp_path, "a.parquet", b"")

    assert caught.value.hint == "pip install 'chutes-opencode[parquet]'"
