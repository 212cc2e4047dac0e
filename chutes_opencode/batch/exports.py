"""A run's results in the forms that other programs read: one pass, or two where a header needs it.

Columns are named as pandas names them when it flattens a line of results.jsonl: `usage.input`,
`error.type`, `metadata.KEY`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, get_args, get_type_hints

import orjson

from chutes_opencode.batch.durable import (
    FILE_MODE,
    adopt_draft,
    draft_of,
    drop_draft,
    storing,
    sync,
)
from chutes_opencode.batch.items.openai_lines import output_line
from chutes_opencode.batch.record import Record, RecordedError
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.results import Usage

FILE_NAMES = {
    "parquet": "results.parquet",
    "csv": "results.csv",
    "jsonl": "results.flat.jsonl",
    "openai": "openai-output.jsonl",
    "swebench": "predictions.jsonl",
}
"""Each format, and the file in the run's folder that it is written to."""

RUN_FILES = (
    *("run.json", "results.jsonl", "attempts.jsonl", "items.jsonl"),
    *("status.json", ".in_flight", ".lock"),
)
"""What the run itself is made of, and an export never replaces."""

PARQUET_HINT = "pip install 'chutes-opencode[parquet]'"
# More keys than this are no columns but data: they stay together in one, as JSON.
MAX_METADATA_COLUMNS = 256
# Bounds of a row group, and with them of the memory.
GROUP_ROWS = 2_000
GROUP_CHARACTERS = 16 * 1024 * 1024

_WHOLE = range(-(2**63), 2**63)
# What a spreadsheet takes for a formula, full-width signs too, and what hides one from sight.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Run(Protocol):
    """Where the results are: a `RunFolder`, or anything that can be read more than once."""

    def records(self) -> Iterable[Record]:
        """Yield the results from the first on, each time it is called."""
        ...


def export(
    run: Run, file_format: str, out: Path, *, model: str | None = None, sample: int | None = None
) -> int:
    """Write a run's results to a file, whole or not at all.

    Args:
        run: Where they are.
        file_format: A key of `FILE_NAMES`.
        out: The file; one that is there is replaced.
        model: Only results of this model.
        sample: Only samples with this number.

    Returns:
        How many results are in it.

    Raises:
        ConfigurationError: There is no such format, pyarrow is missing, or the results do not go
            into the format; a `StoreError`: the file cannot be written.
    """
    with storing(out):
        try:
            descriptor = os.open(draft_of(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
            with os.fdopen(descriptor, "wb") as stream:
                count = write(run, file_format, stream, model=model, sample=sample)
                stream.flush()
                sync(descriptor)
            adopt_draft(out)
        except BaseException:
            drop_draft(out)
            raise
    return count


def write(
    run: Run,
    file_format: str,
    stream: BinaryIO,
    *,
    model: str | None = None,
    sample: int | None = None,
) -> int:
    """Write a run's results to an open file or a pipe; arguments and errors as in `export`."""
    if file_format not in _WRITERS:
        raise ConfigurationError(
            raw_message=f"there is no export format {file_format!r}",
            hint=f"There are: {', '.join(_WRITERS)}.",
        )
    return _WRITERS[file_format](_Selected(run, model, sample), stream)


@dataclass(frozen=True, slots=True)
class _Selected:
    """The results of one model, one sample, or all."""

    run: Run
    model: str | None
    sample: int | None

    def records(self) -> Iterator[Record]:
        for record in self.run.records():
            if self.model in (None, record.model) and self.sample in (None, record.sample):
                yield record


_NESTED: Mapping[str, type] = {"error": RecordedError, "usage": Usage, "failed_usage": Usage}


def _columns() -> dict[str, type]:
    """Return the columns that every run has, with the Python type of their cells."""
    columns: dict[str, Any] = {}
    for name, hint in get_type_hints(Record).items():
        if name in _NESTED:
            inner = get_type_hints(_NESTED[name])
            columns |= {f"{name}.{part.name}": inner[part.name] for part in fields(_NESTED[name])}
        elif name != "metadata":
            columns[name] = hint
    return {name: _plain(hint) for name, hint in columns.items()}


def _plain(hint: Any) -> type:
    """Return `float` of `float | None`; `object` of what may be anything."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in (str, int, float, bool) else object


COLUMNS: Mapping[str, type] = _columns()
"""Every run's columns in their order, `metadata.KEY` left out."""


def flat_row(record: Record) -> dict[str, Any]:
    """Return a result without nested objects, but for `structured` and values in the metadata."""
    row: dict[str, Any] = {}
    for column in COLUMNS:
        name, _, part = column.partition(".")
        value = getattr(record, name)
        row[column] = getattr(value, part, None) if part else value
    return row | {f"metadata.{key}": value for key, value in record.metadata.items()}


def _metadata_columns(run: Run) -> dict[str, type]:
    """Return a column for each key of the metadata, with the type of all its values."""
    kinds: dict[str, type] = {}
    for record in run.records():
        for key, value in record.metadata.items():
            name = f"metadata.{key}"
            kinds[name] = _common(kinds.get(name), _kind(value))
        if len(kinds) > MAX_METADATA_COLUMNS:
            return {"metadata": object}
    return kinds


def _kind(value: Any) -> type:
    """Return the type of a cell; `NoneType` says nothing."""
    if isinstance(value, int) and not isinstance(value, bool) and value not in _WHOLE:
        return object
    return type(value) if isinstance(value, str | bool | int | float | None) else object


def _common(first: type | None, second: type) -> type:
    """Return the type that holds values of both."""
    if first is None or first in (type(None), second):
        return second
    if second is type(None):
        return first
    return float if {first, second} == {int, float} else object


def _rows(run: Run, metadata: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    for record in run.records():
        row = flat_row(record)
        if "metadata" in metadata:
            row["metadata"] = dict(record.metadata)
        yield row


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _write_jsonl(run: Run, stream: BinaryIO) -> int:
    return _write_lines((flat_row(record) for record in run.records()), stream)


def _write_openai(run: Run, stream: BinaryIO) -> int:
    return _write_lines((output_line(record) for record in run.records()), stream)


def _write_lines(rows: Iterable[Any], stream: BinaryIO) -> int:
    count = 0
    for row in rows:
        stream.write(orjson.dumps(row) + b"\n")
        count += 1
    return count


def _write_csv(run: Run, stream: BinaryIO) -> int:
    """Write CSV; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    metadata = _metadata_columns(run)
    columns = [*COLUMNS, *metadata]
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)  # with other line ends, it would not quote a lone "\r"
    writer.writerow(columns)
    count = 0
    for row in _rows(run, metadata):
        writer.writerow([_csv_cell(row.get(column)) for column in columns])
        count += 1
    text.detach()
    return count


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _json(value)
    harmless = not _FORMULA.match(text) or _NUMBER.fullmatch(text)
    return text if harmless else f"'{text}"


def _write_parquet(run: Run, stream: BinaryIO) -> int:
    """Write Parquet, a row group at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError(
            raw_message="Parquet needs pyarrow, which is not installed", hint=PARQUET_HINT
        ) from error
    metadata = _metadata_columns(run)
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    types |= {bool: pyarrow.bool_(), type(None): pyarrow.null()}
    kinds = {**COLUMNS, **metadata}
    schema = pyarrow.schema(
        [(name, types.get(kind, pyarrow.string())) for name, kind in kinds.items()]
    )
    count = 0
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _groups(_rows(run, metadata)):
            cells = {
                name: [_parquet_cell(row.get(name), kind) for row in group]
                for name, kind in kinds.items()
            }
            writer.write_table(pyarrow.table(cells, schema=schema))
            count += len(group)
    return count


def _parquet_cell(value: Any, kind: type) -> Any:
    """Return what a cell holds; in a column of mixed values, what is no text is JSON."""
    return value if value is None or kind is not object or isinstance(value, str) else _json(value)


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Gather rows, as many as the bounds of a row group allow."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(group) >= GROUP_ROWS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_swebench(run: Run, stream: BinaryIO) -> int:
    """Write SWE-bench's predictions: the results that have a diff, one for each instance."""
    series = {(record.model, record.sample) for record in run.records() if record.diff is not None}
    if not series:
        raise ConfigurationError(
            raw_message="no result has a diff: SWE-bench's predictions are patches",
            hint="Give the items a repo (a path or URL) and a commit.",
        )
    if len(series) > 1:
        shown = ", ".join(f"{model} (sample {n})" for model, n in islice(sorted(series), 5))
        raise ConfigurationError(
            raw_message=f"SWE-bench takes one prediction for an instance; the run has {shown}",
            hint="Choose one: --model ID, --sample N.",
        )
    with_diff = (record for record in run.records() if record.diff is not None)
    return _write_lines(map(_prediction, with_diff), stream)


def _prediction(record: Record) -> dict[str, Any]:
    return {
        "instance_id": record.id,
        "model_name_or_path": record.model or record.served_model or "chutes-opencode",
        "model_patch": record.diff,
    }


_WRITERS: Mapping[str, Callable[[Run, BinaryIO], int]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "openai": _write_openai,
    "swebench": _write_swebench,
}
