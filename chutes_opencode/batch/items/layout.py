"""How rows become items: which columns mean what, and the template. Pure."""

from __future__ import annotations

import difflib
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import orjson

from chutes_opencode.errors import ConfigurationError

COLUMNS = (
    *("id", "prompt", "messages", "system", "model", "params", "files"),
    *("work_dir", "output_schema", "repo", "commit", "metadata"),
)
"""Columns that mean something; all are optional but for a prompt or messages."""

_SHOWN = 60
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows become items.

    Attributes:
        template: The prompt, with columns in braces: `Translate {text}`; `{{` is a brace.
        prompt_column: Column that is the prompt; None: "prompt".
        id_column: Column that is the id; None: "id".
        extra: Whether columns that mean nothing are refused or go to the item's metadata.
        folder: What relative paths are relative to; None: the folder of the dataset's file.
    """

    template: str | None = None
    prompt_column: str | None = None
    id_column: str | None = None
    extra: Literal["refuse", "metadata"] = "refuse"
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigurationError: Names what is wrong.
        """
        if self.extra not in ("refuse", "metadata"):
            raise ConfigurationError(
                raw_message=f"extra must be refuse or metadata, not {self.extra!r}"
            )
        _check_named("prompt_column", self.prompt_column, {*COLUMNS} - {"prompt"})
        _check_named("id_column", self.id_column, {"metadata"})
        if self.template is None:
            return
        if self.prompt_column is not None:
            raise ConfigurationError(
                raw_message="template and prompt_column exclude each other",
                hint=f"Put {{{self.prompt_column}}} into the template.",
            )
        if not template_fields(self):
            raise ConfigurationError(
                raw_message="the template names no column: all prompts would be the same",
                hint='Name columns in braces: "Translate {text}".',
            )


def _check_named(what: str, name: str | None, taken: Collection[str]) -> None:
    if name is not None and not name.strip():
        raise ConfigurationError(raw_message=f"{what} is empty", hint="Name a column.")
    if name in taken:
        raise ConfigurationError(
            raw_message=f"{what} may not be {name!r}: that column has a meaning of its own",
            hint="Rename the column, or use a template.",
        )


@lru_cache(maxsize=8)
def template_fields(layout: Layout) -> frozenset[str]:
    """Return the columns that the layout's template names; none without one."""
    parts = () if layout.template is None else _parts(layout.template)
    return frozenset(name for _, name in parts if name is not None)


@lru_cache(maxsize=8)
def item_columns(layout: Layout) -> frozenset[str]:
    """Return the columns that are part of an item by their name: neither the template's nor extra.

    A template or a prompt column takes the place of "prompt", an id column that of "id".
    """
    columns = set(COLUMNS)
    if layout.prompt_column is not None or layout.template is not None:
        columns.discard("prompt")
    if layout.id_column is not None:
        columns.discard("id")
    given = (layout.prompt_column, layout.id_column)
    return frozenset(columns | {name for name in given if name is not None})


def fill(layout: Layout, values: Mapping[str, Any]) -> str:
    """Return the prompt that the layout's template makes of a row.

    Args:
        layout: It has a template.
        values: The row's values, absent ones left out; what is no text is written as JSON.

    Raises:
        KeyError: A field has no value; its argument is the name.
    """
    filled: list[str] = []
    for text, name in _parts(layout.template or ""):
        filled.append(text)
        if name is not None:
            value = values[name]
            filled.append(value if isinstance(value, str) else orjson.dumps(value).decode())
    return "".join(filled)


def check_columns(layout: Layout, columns: Collection[str], *, complete: bool = False) -> None:
    """Refuse a layout that names columns which no row has.

    Args:
        layout: How rows are read.
        columns: Columns that at least one row has.
        complete: Whether each row has all of them, so that an unknown one is an error, too.

    Raises:
        ConfigurationError: Names the column, and the nearest that there is.
    """
    named = [("the template's field", name) for name in sorted(template_fields(layout))]
    named += [("the prompt column", layout.prompt_column)] if layout.prompt_column else []
    named += [("the id column", layout.id_column)] if layout.id_column else []
    for what, name in named:
        if name not in columns:
            near = nearest(name, columns)
            there = ", ".join(shown(column) for column in sorted(columns)[:_LISTED])
            raise ConfigurationError(
                raw_message=f"{what} {shown(name)} is in no row",
                hint=f"Did you mean {near!r}?" if near else f"There are: {there or 'none'}.",
            )
    if complete and (reason := unknown_columns(layout, columns)):
        raise ConfigurationError(
            raw_message=reason,
            hint="Name the columns as they are read, or keep all others as metadata with "
            "--keep-columns.",
        )


def unknown_columns(layout: Layout, columns: Collection[str]) -> str:
    """Return why a row cannot have these columns; "": it can."""
    known = item_columns(layout) | template_fields(layout)
    unknown = [name for name in columns if name not in known]
    prompts = {layout.prompt_column or "prompt", "messages"}
    has_prompt = layout.template is not None or not prompts.isdisjoint(columns)
    if not unknown or (has_prompt and layout.extra == "metadata"):
        return ""
    for name in unknown:
        if name in COLUMNS:
            return f"column {name!r} beside a column or template that is used instead of it"
        if near := nearest(name, known - set(columns)):
            return f"unknown column {shown(name)}; did you mean {near!r}?"
    names = ", ".join(map(shown, unknown[:_LISTED]))
    if not has_prompt:
        return f"no column is the prompt: name it with --prompt-column or --template ({names})"
    return f"unknown column {names}: --keep-columns passes such to the results' metadata"


def nearest(name: str, names: Collection[str]) -> str | None:
    """Return the name most like `name`, if one is."""
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower()[:_SHOWN], by_lower, n=1)
    return by_lower[near[0]] if near else None


def shown(name: str) -> str:
    """Return a name as a message shows it."""
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")


@lru_cache(maxsize=8)
def _parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """Split a template into text and the column after it, if any."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _bad_template(str(error)) from None
    for _, name, form, conversion in parts:
        if name is not None and (not name.strip() or form or conversion):
            raise _bad_template("in braces stands the name of a column and nothing else")
    return tuple((text, name) for text, name, _, _ in parts)


def _bad_template(reason: str) -> ConfigurationError:
    return ConfigurationError(
        raw_message=f"the template cannot be read: {reason}",
        hint="Write {column} for a column, and {{ and }} for braces that are text.",
    )
