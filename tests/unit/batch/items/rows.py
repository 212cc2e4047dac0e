"""Rows of a file, as a source reads them."""

from __future__ import annotations

from pathlib import Path

from chutes_opencode.batch.items.formats import Row
from chutes_opencode.batch.items.lines import BadRowError
from chutes_opencode.batch.items.sources import Source, open_source


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(source: Source) -> list[tuple[int, Row | str]]:
    """The rows; of a bad one what is said of it."""
    return [
        (number, row.reason if isinstance(row, BadRowError) else row)
        for number, row in source.rows()
    ]


def rows_in(folder: Path, name: str, content: bytes | str) -> list[tuple[int, Row | str]]:
    return rows_of(open_source(written(folder, name, content)))
