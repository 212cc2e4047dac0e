"""Tables: fitted to a terminal, whole in a pipe, or Markdown."""

from __future__ import annotations

import re
import sys

import pytest

from chutes_opencode.cli import tables
from chutes_opencode.cli.output import print_table
from chutes_opencode.cli.tables import Column, fitting, print_columns, print_markdown
from chutes_opencode.masking import register_secret

COLUMNS = [
    Column("model", ["chutes/a", "chutes/bb"]),
    Column("price", ["0.10", "12.00"], right=True),
    Column("features", ["tools, reasoning", "-"], rank=2),
    Column("context", ["40,960", "-"], right=True, rank=1),
]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (5, ["model", "price"]),
        (24, ["model", "price"]),
        (25, ["model", "price", "context"]),
        (42, ["model", "price", "context"]),
        (43, ["model", "price", "features", "context"]),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(width: int, headings: list[str]) -> None:
    assert [column.heading for column in fitting(COLUMNS, width)] == headings


def test_a_wide_letter_takes_two_cells() -> None:
    assert Column("x", ["模型"]).width == 4


def test_a_pipe_gets_every_column_and_no_blanks_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_columns(COLUMNS)

    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "model      price  features          context",
        "chutes/a    0.10  tools, reasoning   40,960",
        "chutes/bb  12.00  -                       -",
    ]
    assert shown.err == ""


def test_without_a_stdout_a_table_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    print_columns(COLUMNS)


def test_a_pipe_is_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([Column("x", ["a" * 3000]), Column("y", ["b" * 3000], rank=1)])

    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [3003, 6002]


def test_what_a_terminal_has_no_room_for_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "terminal_width", lambda **_: 30)

    print_columns(COLUMNS)

    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "model      price  context"
    assert "no room for: features" in shown.err


def test_markdown_has_every_column_and_escapes_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    print_markdown([Column("model", ["a|b", "c\nd"]), Column("price", ["1", "2"], right=True)])

    assert capsys.readouterr().out.splitlines() == [
        "| model | price |",
        "| --- | ---: |",
        "| a\\|b | 1 |",
        "| c d | 2 |",
    ]


def test_nothing_secret_is_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    register_secret("table-secret-0001")
    columns = [Column("x", ["table-secret-0001"])]

    print_columns(columns)
    print_markdown(columns)

    assert "table-secret" not in capsys.readouterr().out


def test_a_table_without_headings_begins_with_its_first_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("", ""), [("a", "1"), ("bb", "[red]2")])

    assert capsys.readouterr().out == "a   1\nbb  [red]2\n"


@pytest.mark.parametrize(("columns", "dropped"), [("30", True), ("200", False)])
def test_a_terminal_is_as_wide_as_it_says(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    dropped: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    print_columns(COLUMNS)

    shown = capsys.readouterr()
    assert ("tools, reasoning" not in shown.out) is dropped
    assert ("no room for: features" in shown.err) is dropped
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.out)  # bold headings
    assert max(len(line) for line in text.splitlines()) <= int(columns)
