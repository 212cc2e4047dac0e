"""Read a TOML file of the user's, and find the line of a field for the error about it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file as it was read.

    Attributes:
        path: Where it is.
        values: What it holds.
        lines: The line on which each key is set first, by its path through the tables.
    """

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]

    def place(self, *keys: str) -> str:
        """Return `<path>:<line>` of the statement that sets `keys`."""
        return f"{self.path}:{self.lines[keys]}"


def read_toml(path: Path) -> TomlFile:
    """Read a file.

    Raises:
        FileNotFoundError: There is none.
        ConfigurationError: It cannot be read, or is no TOML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigurationError(raw_message=f"{path}: cannot be read: {reason}") from None
    try:
        return TomlFile(path, tomllib.loads(text), _statement_lines(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = found[1] if found else max(1, len(text.splitlines()))
        # `from None`: newer Pythons keep the whole file, key included, in that error.
        raise ConfigurationError(raw_message=f"{path}:{line}: not TOML: {error}") from None


def snake_case(name: str) -> str:
    """Return the name of a field that a file may spell in camelCase."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _statement_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line on which each table and key is set first.

    `tomllib` tells no lines, so each statement is parsed by itself: that way every spelling
    (tables, dotted and quoted keys, inline tables) is understood.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    begin, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # its end is on a later line
        is_header = statement.lstrip().startswith("[")
        paths = [(() if is_header else table) + path for path in _paths(values)]
        table = paths[-1] if is_header else table
        for path in paths:
            found.setdefault(path, begin)
        begin, statement = number + 1, ""
    return found


def _paths(values: Any) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key, outer ones first."""
    values = values[0] if isinstance(values, list) and values else values
    for key, value in values.items() if isinstance(values, Mapping) else ():
        yield (key,)
        yield from ((key, *path) for path in _paths(value))
