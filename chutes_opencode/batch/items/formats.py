"""The file formats of a dataset, read row by row: JSON lines, CSV and TSV, Parquet.

A row that cannot be read comes as a `BadRowError` in its place; a file that cannot be read is a
`ConfigurationError`. No more than one line, or one group of a Parquet file, is held in memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from chutes_opencode.batch.items.layout import shown
from chutes_opencode.batch.items.lines import BadRowError
from chutes_opencode.batch.items.plain import plain_row
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

Row = Mapping[str, Any]
Rows = Iterator[tuple[int, Row | BadRowError]]
Opened = Callable[[], AbstractContextManager[BinaryIO]]

MAX_LINE = 64 * 1024 * 1024
"""Bytes of a line; a longer one is a bad row."""

BATCH_ROWS = 256
PARQUET_HINT = "pip install 'chutes-opencode[parquet]'"

_BOM = b"\xef\xbb\xbf"
_TOO_LONG = f"the line is longer than {MAX_LINE // 2**20} MiB"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"


def raw_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield each line: its number, where it begins (bytes), and itself; None: it is too long.

    Raises:
        ConfigurationError: The file is compressed or no UTF-8 from its beginning on.
    """
    number, offset = 0, 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        begin, offset = offset, offset + len(line)
        if number == 1:
            _check_start(line, name)
            begin = len(_BOM) if line.startswith(_BOM) else 0
            line = line[begin:]
        if len(line) <= MAX_LINE:
            yield number, begin, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
            offset += len(line)
        yield number, begin, None


def _check_start(line: bytes, name: str) -> None:
    if line.startswith(_UTF16):
        raise ConfigurationError(
            raw_message=f"{name} is UTF-16", hint="Save it as UTF-8, and run it again."
        )
    if line.startswith(_GZIP):
        raise ConfigurationError(
            raw_message=f"{name} is compressed",
            hint=f"Give its content instead: `zcat {name} | chutes-opencode batch run - …`.",
        )


# --- JSON lines ----------------------------------------------------------------------------------


def json_rows(opened: Opened, name: str) -> Rows:
    """Yield the rows of JSON lines; blank lines are none.

    Args:
        opened: Opens the file.
        name: What messages call it.

    Raises:
        ConfigurationError: It is one JSON array.
    """
    first = True
    with opened() as stream:
        for number, _, line in raw_lines(stream, name):
            if line is not None and not line.strip():
                continue
            if first and line is not None and line.lstrip().startswith(b"["):
                raise ConfigurationError(
                    raw_message=f"{name} is one JSON array, not a JSON object on each line",
                    hint=f"Turn it into lines: `jq -c '.[]' {name} > items.jsonl`.",
                )
            first = False
            yield number, json_row(number, line)


def json_row(number: int, line: bytes | None) -> Row | BadRowError:
    """Return the row of a line that is not blank; None is one that is too long."""
    if line is None:
        return BadRowError(number, _TOO_LONG)
    try:
        row = orjson.loads(line)
    except ValueError as error:
        row = _with_nan(line) if b"NaN" in line else None
        if row is None:
            return BadRowError(number, _json_reason(line, error))
    if not isinstance(row, dict):
        kind = "a list" if isinstance(row, list) else "a single value"
        return BadRowError(number, f"a row must be an object of columns, not {kind}")
    return row


def _with_nan(line: bytes) -> Any:
    """Read what `json.dumps` writes of a float that is none, as null; None: that is not all."""

    def constant(name: str) -> None:
        if name != "NaN":
            raise ValueError(name)

    try:
        return json.loads(line, parse_constant=constant)
    except (ValueError, RecursionError):
        return None


def _json_reason(line: bytes, error: ValueError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return f"not UTF-8: byte 0x{line[bad.start]:02x} at {bad.start + 1}"
    place = f" at {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
    return f"no JSON: {getattr(error, 'msg', error)}{place}"


# --- CSV and TSV ---------------------------------------------------------------------------------


def delimited_rows(opened: Opened, name: str, delimiter: str) -> Rows:
    """Yield the rows of a CSV file (RFC 4180, with a header); all values are text.

    Args:
        opened: Opens the file.
        name: What messages call it.
        delimiter: Between two cells.

    Raises:
        ConfigurationError: Its header cannot be used.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # the module knows only one
    header: list[str] | None = None
    with opened() as stream:
        lines = _TextLines(stream, name)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            number = lines.read + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise _bad_header(name, f"cannot be read: {error}") from None
                reason = str(error)
                if reason == "unexpected end of data":
                    reason = f"a quote is not closed before line {lines.read}, the last"
                yield number, BadRowError(number, f"no CSV: {reason}")
                continue
            if not cells:
                continue
            if header is None:
                header = _checked_header(cells, name)
            else:
                yield number, _cells(number, header, cells)


class _TextLines:
    """The lines of a file as text; bytes that are no UTF-8 become lone surrogates.

    No generator: the reader goes on after an error.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._lines = raw_lines(stream, name)
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.read, _, line = next(self._lines)
        if line is None:
            raise csv.Error(_TOO_LONG)
        return line.decode("utf-8", "surrogateescape")


def _cells(number: int, header: list[str], cells: list[str]) -> Row | BadRowError:
    if len(cells) != len(header):
        return BadRowError(number, f"{len(cells)} cells, but the header has {len(header)}")
    if not _is_utf8(cells):
        return BadRowError(number, "not UTF-8 (save the file as UTF-8)")
    return dict(zip(header, cells, strict=True))


def _is_utf8(cells: list[str]) -> bool:
    text = "".join(cells)
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _checked_header(cells: list[str], name: str) -> list[str]:
    if not _is_utf8(cells):
        raise _bad_header(name, "is not UTF-8: save the file as UTF-8")
    if len(cells) == 1 and ";" in cells[0]:
        raise _bad_header(name, "has semicolons between its columns: save it with commas")
    for place, cell in enumerate(cells, 1):
        if not cell.strip():
            raise _bad_header(name, f"has no name for column {place} (pandas: index=False)")
    check_names(f"the header of {name}", cells)
    return cells


def _bad_header(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        raw_message=f"the header of {name} {reason}",
        hint="The first line names the columns, each once.",
    )


# --- Parquet -------------------------------------------------------------------------------------


def parquet_rows(path: Path) -> Rows:
    """Yield the rows of a Parquet file.

    Raises:
        ConfigurationError: pyarrow is missing, or the file cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            raw_message="Parquet files need pyarrow", hint=PARQUET_HINT
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_names(str(path), file.schema_arrow.names)
            yield from arrow_rows(file.iter_batches(BATCH_ROWS))
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(
            raw_message=f"{path} cannot be read: {error!s:.200}", hint="Is it a Parquet file?"
        ) from None


def arrow_rows(batches: Iterable[Any]) -> Rows:
    """Yield the rows of pyarrow's record batches."""
    number = 0
    for batch in batches:
        maps = [column.name for column in batch.schema if str(column.type).startswith("map<")]
        for row in batch.to_pylist():
            number += 1
            row |= {name: dict(row[name]) for name in maps if row[name] is not None}
            yield number, plain_row(number, row)


def check_names(name: str, columns: Sequence[str]) -> None:
    """Refuse a table two of whose columns have the same name.

    Raises:
        ConfigurationError: Names the column.
    """
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ConfigurationError(
            raw_message=f"{name} has two columns {shown(twice[0])}",
            hint="Give each column a name of its own.",
        )
