"""Where a batch's rows come from: a file, stdin, an iterable, a table of pandas, polars, pyarrow.

Rows are read one by one, and again from the beginning where the source can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from chutes_opencode.batch.item import BatchItem
from chutes_opencode.batch.items.formats import (
    BATCH_ROWS,
    Rows,
    arrow_rows,
    check_names,
    delimited_rows,
    json_rows,
    parquet_rows,
)
from chutes_opencode.batch.items.lines import BadRowError
from chutes_opencode.batch.items.plain import plain_row
from chutes_opencode.errors import ConfigurationError

FileFormat = Literal["jsonl", "csv", "tsv", "parquet"]
STDIN = "-"

_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
_SUFFIXES: Mapping[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_OURS = frozenset({"content_hash", "line"})


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's rows.

    Attributes:
        name: What messages and the manifest call it: the path as given, "stdin", "items", …
        format: "jsonl", "csv", "tsv", "parquet", "items" or "table".
        rows: Yields each row with its number, counted from 1: of a file the line on which it
            begins. One that cannot be read comes as a `BadRowError`.
        rereadable: Whether `rows` can be called again.
        tabular: Whether each row has all columns.
        folder: What relative paths in it are relative to; None: the current folder.
        path: The file, if it is one on a disk.
    """

    name: str
    format: str
    rows: Callable[[], Rows]
    rereadable: bool = True
    tabular: bool = False
    folder: Path | None = None
    path: Path | None = None


def open_source(given: Any, format: FileFormat | None = None) -> Source:
    """Make the source of what a caller gives; nothing is read yet.

    Args:
        given: A path, "-" (stdin), an iterable of prompts, mappings of columns or `BatchItem`s,
            or a table: a DataFrame of pandas or polars, a Table of pyarrow.
        format: Of a file or stdin; None: by the file's suffix, JSON lines for stdin.

    Raises:
        ConfigurationError: There is no such file, its format is not known, or it is nothing of
            that.
    """
    if format is not None and format not in _FORMATS:
        raise ConfigurationError(
            raw_message=f"unknown format {format!r}", hint=f"There are: {', '.join(_FORMATS)}."
        )
    if isinstance(given, str) and given == STDIN:
        return _stdin(format or "jsonl")
    if isinstance(given, str | Path):
        return _file(Path(given), str(given), format)
    if format is not None:
        raise ConfigurationError(
            raw_message="format says how a file is read, and the items are none",
            hint="Leave it out, or name a file.",
        )
    return _in_memory(given)


def _in_memory(given: Any) -> Source:
    if hasattr(given, "itertuples") and hasattr(given, "columns"):
        return _table("pandas", given.columns, lambda: given.itertuples(index=False, name=None))
    if hasattr(given, "iter_rows") and isinstance(getattr(given, "columns", None), list):
        return _table("polars", given.columns, given.iter_rows)
    if hasattr(given, "to_batches") and hasattr(given, "column_names"):
        check_names("the pyarrow table", given.column_names)
        batches = given.to_batches
        return Source(
            "pyarrow", "table", lambda: arrow_rows(batches(max_chunksize=BATCH_ROWS)), tabular=True
        )
    if isinstance(given, bytes | Mapping | BatchItem) or not isinstance(given, Iterable):
        raise ConfigurationError(
            raw_message=f"items must be a file or many prompts, not one {type(given).__name__}",
            hint="Give a path, a list of prompts or mappings, or a table.",
        )
    return Source("items", "items", lambda: _items(given), not isinstance(given, Iterator))


# --- files ---------------------------------------------------------------------------------------


def _stdin(file_format: FileFormat) -> Source:
    if file_format == "parquet":
        raise ConfigurationError(
            raw_message="a Parquet file cannot be read from stdin", hint="Name the file."
        )
    rows = _reader(file_format, "stdin", lambda: nullcontext(sys.stdin.buffer))
    return Source("stdin", file_format, rows, False, file_format != "jsonl")


def _file(path: Path, name: str, file_format: FileFormat | None) -> Source:
    try:
        path.stat()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            raw_message=f"{name:.200} cannot be read: {reason}",
            hint="Name a file of items; - is stdin.",
        ) from None
    if is_folder:
        raise ConfigurationError(
            raw_message=f"{name} is a folder", hint="Name one file of items; - is stdin."
        )
    # A pipe, as a shell's `<(…)` gives it, has no name to tell its format.
    file_format = (
        file_format or _SUFFIXES.get(path.suffix.lower()) or (None if is_file else "jsonl")
    )
    if file_format is None:
        raise ConfigurationError(
            raw_message=f"the format of {name} cannot be told from its name",
            hint=f"Name it with --format: {', '.join(_FORMATS)}.",
        )
    tabular = file_format != "jsonl"
    if file_format == "parquet":
        return Source(name, "parquet", lambda: parquet_rows(path), True, True, path.parent, path)
    rows = _reader(file_format, name, lambda: open_file(path))
    if not is_file:
        return Source(name, file_format, rows, False, tabular)
    return Source(name, file_format, rows, True, tabular, path.parent, path)


def _reader(
    file_format: FileFormat, name: str, opened: Callable[[], AbstractContextManager[BinaryIO]]
) -> Callable[[], Rows]:
    if file_format == "jsonl":
        return lambda: json_rows(opened, name)
    delimiter = "," if file_format == "csv" else "\t"
    return lambda: delimited_rows(opened, name, delimiter)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(
            raw_message=f"{path} cannot be read: {error.strerror}", hint="Check the file."
        ) from None


# --- what is in memory ---------------------------------------------------------------------------


def _table(kind: str, columns: Iterable[Any], tuples: Callable[[], Iterable[Any]]) -> Source:
    names = [str(name) for name in columns]
    check_names(f"the {kind} table", names)

    def rows() -> Rows:
        for number, values in enumerate(tuples(), 1):
            yield number, plain_row(number, dict(zip(names, values, strict=True)))

    return Source(kind, "table", rows, tabular=True)


def _items(given: Iterable[Any]) -> Rows:
    for number, item in enumerate(given, 1):
        if isinstance(item, str):
            yield number, {"prompt": str(item)}
        elif isinstance(item, BatchItem):
            yield number, plain_row(number, _columns_of(item))
        elif isinstance(item, Mapping):
            yield number, plain_row(number, item)
        else:
            reason = f"an item is a {type(item).__name__}, neither a prompt nor a mapping"
            yield number, BadRowError(number, reason)


def _columns_of(item: BatchItem) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {
        name: value
        for name, value in values.items()
        if name not in _OURS and value not in (None, "", ()) and value != {}
    }
