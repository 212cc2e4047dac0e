"""Read `providers.toml`: one table `[providers.<id>]` per provider.

The registry's own entries are in the very same format (`data/providers.toml`). What a field may
be is `providers.Provider`'s matter; here, only the form of the file is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.toml_file import TomlFile, read_toml, snake_case

TABLE = "providers"


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """What one file, or one call, says about a provider.

    Attributes:
        id: The provider's.
        values: Its fields, in snake_case.
        source: Where it is from, for people.
        places: Where each field stands, as errors name it.
        place: Where the entry itself stands.
    """

    id: str
    values: Mapping[str, Any]
    source: str
    places: Mapping[str, str]
    place: str

    def field_place(self, field: str) -> str:
        """Return where a field stands; of one that is not there, where the entry does."""
        return self.places.get(field, f"{self.place}.{field}")


def read_entries(path: Path) -> tuple[ProviderEntry, ...]:
    """Read one file.

    Raises:
        ConfigurationError: There is no such file, or its form is wrong; names file, line and key.
    """
    try:
        file = read_toml(path)
    except FileNotFoundError:
        raise ConfigurationError(raw_message=f"{path}: no such file") from None
    for key in file.values:
        if key != TABLE:
            raise ConfigurationError(
                raw_message=f"{file.place(key)}: {key}: unknown table{did_you_mean(key, [TABLE])}",
                hint=f"Write each provider as a table [{TABLE}.<id>].",
            )
    entries = _table(file, TABLE)
    return tuple(_entry(file, identifier) for identifier in entries)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _table(file: TomlFile, *keys: str) -> Mapping[str, Any]:
    """Return the table at `keys`; there is none in an empty file."""
    table: Any = file.values
    for key in keys:
        table = table.get(key, {})
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            raw_message=f"{file.place(*keys)}: {'.'.join(keys)}: should be a table",
            hint=f"Write each provider as a table [{TABLE}.<id>].",
        )
    return table


def _entry(file: TomlFile, identifier: str) -> ProviderEntry:
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    name = f"{TABLE}.{identifier}"
    for key, value in _table(file, TABLE, identifier).items():
        field, place = snake_case(key), f"{file.place(TABLE, identifier, key)}: {name}.{key}"
        if field in values:
            raise ConfigurationError(raw_message=f"{place}: set twice in this file")
        values[field], places[field] = value, place
    source = file.place(TABLE, identifier)
    return ProviderEntry(identifier, values, source, places, f"{source}: {name}")
