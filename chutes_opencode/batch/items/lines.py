"""One row of a dataset, checked and turned into a `BatchItem`. Reads nothing but named files.

A value that is null, NaN or (but for a template's field) empty counts as absent. Where a column
holds an object or a list, text that is its JSON does as well: a CSV file has nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from chutes_opencode.arguments import check_prompt, check_text, split_messages
from chutes_opencode.batch.item import BatchItem
from chutes_opencode.batch.items.layout import (
    Layout,
    check_columns,
    fill,
    item_columns,
    shown,
    unknown_columns,
)
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.opencode.config import body_options
from chutes_opencode.options import check_params
from chutes_opencode.request import Params
from chutes_opencode.structured import Schema

__all__ = ["BadRowError", "Layout", "check_columns", "params_of", "parse_row"]

# Larger whole numbers a float does not hold exactly.
_EXACT = 2**53
# What is stored later holds these values some levels deeper, and the depth of JSON is limited.
_LEVELS = 8
_MAX_REASON = 500
_GITHUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # as datasets of issues name repositories


class BadRowError(ValueError):
    """A row that is no item.

    Attributes:
        line: Where it stands in its source, 1 for the first.
        reason: What is wrong with it, and what helps.
    """

    def __init__(self, line: int, reason: str) -> None:
        """Take both; a reason may quote a value of any length."""
        reason = reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + "…"
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        """Return both as a sentence."""
        return f"line {self.line}: {self.reason}"


class _RefusedError(ValueError):
    """Says what is wrong with a row, where its line is not known."""


def parse_row(
    row: Mapping[str, Any], *, line: int, layout: Layout, files_must_exist: bool = True
) -> BatchItem:
    """Turn a row into an item.

    Args:
        row: Plain JSON values by column.
        line: Where it stands in its source.
        layout: How it is read; without a folder, relative paths are so to the current one.
        files_must_exist: Whether a missing file or folder is an error; else the prompt will
            fail of it.

    Raises:
        BadRowError: It is no item; says why.
    """
    try:
        return _item(row, line, layout, files_must_exist)
    except _RefusedError as error:
        raise BadRowError(line, str(error)) from None
    except (InvalidRequestError, ConfigurationError) as error:
        own_hint = "" if error.hint == error.default_hint else f" ({error.hint})"
        raise BadRowError(line, error.raw_message + own_hint) from None


def params_of(values: Mapping[str, Any]) -> Params:
    """Return sampling parameters by the names of OpenAI's chat body, checked.

    Args:
        values: Null ones count as absent; unknown ones are sent as they are.

    Raises:
        ConfigurationError: One that no provider takes, or that is not the caller's to set.
        InvalidRequestError: One is no JSON.
    """
    given = {name: value for name, value in values.items() if value is not None}
    params = Params().updated(given)
    check_params(params)
    body_options(params)
    return params


def _item(row: Mapping[str, Any], line: int, layout: Layout, must_exist: bool) -> BatchItem:
    if not item_columns(layout).issuperset(row) and (reason := unknown_columns(layout, list(row))):
        raise _RefusedError(reason)
    values = {  # only NaN is not itself
        name: value for name, value in row.items() if value is not None and value == value
    }
    asked = _asked(values, layout)
    files = _files(values, layout.folder) if "files" in values else []
    digests = [[path.name, _digest(path, must_exist)] for path in files]
    hashed = _json({**asked, "files": digests} if files else asked, "the row")
    content_hash = sha256(hashed).hexdigest()[:32]
    for name in asked.keys() & {"work_dir", "repo"}:
        asked[name] = _folder(layout.folder, asked[name], name, must_exist)
    if "messages" in asked:
        asked["messages"] = tuple(asked["messages"])
    return BatchItem(
        id=_id(values, layout) or content_hash,
        **asked,
        files=tuple(str(path.absolute()) for path in files),
        metadata=_metadata(row, values, layout),
        content_hash=content_hash,
        line=line,
    )


def _asked(values: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return what is asked but for files, by the names of `BatchItem`, absent ones left out."""
    asked = {"prompt": _prompt(values, layout)}
    for name, read in _READERS.items():
        if name in values:
            asked[name] = read(values, name)
    asked = {name: value for name, value in asked.items() if value not in (None, "", [])}
    _check_chat(asked)
    _check_folders(asked)
    return asked


# --- single columns ------------------------------------------------------------------------------


def _id(values: Mapping[str, Any], layout: Layout) -> str | None:
    name = layout.id_column or "id"
    value = values.get(name, "")
    whole = isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    )
    if whole and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str):
        raise _RefusedError(f"{shown(name)} must be text or a whole number, not {_kind(value)}")
    if layout.id_column is not None and not value:
        raise _RefusedError(f"there is no {shown(name)}, which is the id")
    check_text("the id", value)
    return value or None


def _prompt(values: Mapping[str, Any], layout: Layout) -> str:
    if layout.template is not None:
        try:
            return fill(layout, values)
        except KeyError as error:
            raise _RefusedError(f"there is no {shown(error.args[0])} for the template") from None
        except TypeError as error:
            raise _RefusedError(f"a field of the template is no JSON: {error}") from None
    name = layout.prompt_column or "prompt"
    prompt = values.get(name, "")
    if not isinstance(prompt, str):
        raise _RefusedError(f"{shown(name)} must be text, not {_kind(prompt)}")
    return prompt


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise _RefusedError(f"{name} must be text, not {_kind(value)}")
    check_text(name, value)
    return value


def _word(values: Mapping[str, Any], name: str) -> str:
    """Return text of which white space alone is none."""
    value = _text(values, name)
    return value if value.strip() else ""


def _list(values: Mapping[str, Any], name: str) -> Any:
    return _structured(values, name, list)


def _params(values: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    given = _structured(values, name, dict) or {}
    params = {name: value for name, value in given.items() if value is not None}
    params_of(params)
    params |= params.pop("extra_body", {})  # flat, as the body has them
    return params or None


def _schema(values: Mapping[str, Any], name: str) -> Any:
    schema = _structured(values, name, dict)
    if schema is not None:
        _check_schema(_json(schema, name))
    return schema


def _structured(values: Mapping[str, Any], name: str, kind: type) -> Any:
    value = values.get(name, "")
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = orjson.loads(value)
        except ValueError as error:
            raise _RefusedError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, kind):
        wanted = "a list" if kind is list else "an object"
        raise _RefusedError(f"{name} must be {wanted}, not {_kind(value)}")
    return value


def _files(values: Mapping[str, Any], folder: Path | None) -> list[Path]:
    value = values["files"]
    names: list[Any]
    if isinstance(value, str) and not value.lstrip().startswith("["):
        names = [value] if value.strip() else []
    else:
        names = _structured(values, "files", list) or []
    for name in names:
        if not (isinstance(name, str) and name.strip()):
            raise _RefusedError(f"files must be paths, not {_kind(name)}")
        check_text("files", name)
    return [(folder or Path()) / name for name in names]


def _metadata(
    row: Mapping[str, Any], values: Mapping[str, Any], layout: Layout
) -> Mapping[str, Any]:
    given: dict[str, Any] = {}
    if "metadata" in values:
        given = _structured(values, "metadata", dict) or given
    if layout.extra == "metadata":
        extra = row.keys() - item_columns(layout)
        given = {name: row[name] for name in row if name in extra} | given
    if given:
        _json(given, "metadata")
    return given


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "messages": _list,
    "system": _text,
    "model": _word,
    "params": _params,
    "output_schema": _schema,
    "work_dir": _word,
    "repo": _word,
    "commit": _word,
}
"""How each column of what is asked is read, but for the prompt and files."""


# --- checks --------------------------------------------------------------------------------------


def _check_chat(asked: Mapping[str, Any]) -> None:
    """Refuse what a prompt would be refused for."""
    if "messages" not in asked:
        check_prompt(asked.get("prompt", ""))
        return
    text, system, history = split_messages(asked.get("prompt", ""), asked["messages"])
    check_prompt(text)
    check_text("the system message", system or "")
    for message in history:
        check_text("a message", message.text)


def _check_folders(asked: Mapping[str, Any]) -> None:
    if "repo" in asked and "work_dir" in asked:
        raise _RefusedError("repo and work_dir exclude each other: the agent works in one folder")
    if "commit" in asked and "repo" not in asked:
        raise _RefusedError("commit needs a repo")
    for name in ("repo", "commit"):
        if asked.get(name, "").startswith("-"):
            raise _RefusedError(f"{name} may not begin with a dash: git would read an option")


def _folder(base: Path | None, name: str, column: str, must_exist: bool) -> str:
    """Return an absolute path; a repository's address as it is."""
    if column == "repo" and ("://" in name or ":" in name.partition("/")[0]):  # as git tells them
        return name
    path = ((base or Path()) / name).absolute()
    if must_exist and not path.is_dir():
        hint = f"; on GitHub it is https://github.com/{name}" if _GITHUB.fullmatch(name) else ""
        raise _RefusedError(f"{column} {path} is no folder{hint if column == 'repo' else ''}")
    return str(path)


def _digest(path: Path, must_exist: bool) -> str:
    """Return the sha256 of a file; "" where it may be missing and is."""
    try:
        state = path.stat()
        return _read_digest(path.absolute(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        if must_exist:
            raise _RefusedError(f"the file {path} cannot be read: {error.strerror}") from None
        return ""


@lru_cache(maxsize=256)  # a file that many items share is read once
def _read_digest(path: Path, size: int, changed_ns: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=64)  # a schema costs a millisecond, and mostly all items have the same
def _check_schema(schema: bytes) -> None:
    Schema.from_any(orjson.loads(schema))


def _json(value: Any, name: str) -> bytes:
    """Return the JSON of a value, keys sorted, if it can also be stored."""
    nested = value
    for _ in range(_LEVELS):
        nested = [nested]
    try:
        return orjson.dumps(nested, option=orjson.OPT_SORT_KEYS)[_LEVELS:-_LEVELS]
    except TypeError as error:
        raise _RefusedError(f"{name} is no JSON: {error}") from None


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "null")
