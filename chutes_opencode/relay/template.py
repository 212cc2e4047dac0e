"""An answer in its stored form: with numbers in the place of the strings that change. Pure.

A changing string stands in an answer in one piece, or in pieces: spread over the events of a
stream, as models speak, or escaped. In the first case the answer is stored byte for byte. In the
second its pieces are put together first, so that it says the same in other bytes; see `merged`.
Where even then a changing string stands somewhere in pieces, there is no stored form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chutes_opencode.masking import mask
from chutes_opencode.relay.merged import merge

_PLACEHOLDER = "{{chutes-opencode:%d}}"
_PLACEHOLDER_BEGINNING = "{{chutes-opencode:"
_PLACEHOLDERS = re.compile(rb"\{\{chutes-opencode:(\d{1,6})\}\}")
# Not splitlines: a text may hold a line end of another alphabet.
_DATA = re.compile(r"(?:\A\ufeff?|[\r\n])data:([^\r\n]*)")
_DONE = "[DONE]"
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4}))?")


def make_template(body: bytes, names: Sequence[str]) -> bytes | None:
    """Replace the changing strings of an answer by their numbers.

    Args:
        body: A whole JSON answer, or a whole event stream.
        names: The changing strings.

    Returns:
        The stored form; None: what would be replayed from it would not be true, or it holds a
        secret.
    """
    try:
        answer = _read(body.decode())
        if not all(map(_is_storable, answer.said)):
            return None
        if not answer.holds(names):
            return body
        stored = _read(numbered(answer.text, names))
        if stored.holds(names):
            stored = _read(_rewritten(answer, names))
    except (ValueError, RecursionError):  # no text, no JSON, or nothing that can be written as JSON
        return None
    return None if stored.holds(names) else stored.text.encode()


def fill_template(body: bytes, names: Sequence[str]) -> bytes | None:
    """Replace numbers by this run's strings; None where one is missing or needs an escape."""
    known = {number: name.encode() for number, name in enumerate(names) if _is_plain(name)}
    if any(int(match[1]) not in known for match in _PLACEHOLDERS.finditer(body)):
        return None
    return _PLACEHOLDERS.sub(lambda match: known[int(match[1])], body)


def numbered(value: Any, names: Sequence[str]) -> Any:
    """Return a JSON value with its strings' changing parts replaced by their numbers."""
    if not names:
        return value
    numbers = {name: _PLACEHOLDER % number for number, name in enumerate(names)}
    # Longest first: one may be the beginning of another.
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            return pattern.sub(lambda found: numbers[found[0]], item)
        if isinstance(item, list):
            return [walk(one) for one in item]
        if isinstance(item, Mapping):
            return {walk(str(key)): walk(one) for key, one in item.items()}
        return item

    return walk(value)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the strings in a value, each with its place; a list's items may tell their index."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, (*place, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            told = item.get("index") if isinstance(item, Mapping) else None
            yield from leaves(item, (*place, told if isinstance(told, int) else number))


def _is_plain(name: str) -> bool:
    """Tell whether a string stands in JSON, and in JSON inside JSON, as it is."""
    return name.isprintable() and not set(name) & {'"', "\\"}


def _is_storable(text: str) -> bool:
    return _PLACEHOLDER_BEGINNING not in text and mask(text) == text


# --- what an answer says -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, read.

    Attributes:
        text: As it came.
        documents: The JSON answer, or the stream's chunks.
        ends: The stream's end mark; None: it is no stream.
        said: `text`, and what its pieces say together: one text for each place in a chunk.
    """

    text: str
    documents: list[Any]
    ends: list[str] | None
    said: list[str]

    def holds(self, names: Sequence[str]) -> bool:
        """Tell whether a changing string stands in it, as it is or escaped."""
        return any(_holds(said, names) for said in self.said)


def _read(text: str) -> _Answer:
    """Read a JSON answer, or the chunks of a stream.

    Raises:
        ValueError: A chunk is no JSON, so nobody knows what it says.
    """
    ends = None
    try:
        documents = [json.loads(text)]
    except ValueError:
        rows = [row.strip() for row in _DATA.findall(text)]
        ends = [row for row in rows if row == _DONE]
        documents = [json.loads(row) for row in rows if row != _DONE]
    said: dict[tuple[Any, ...], list[str]] = {}
    for document in documents:
        for place, piece in leaves(document):
            said.setdefault(place, []).append(piece)
    return _Answer(text, documents, ends, [text, *map("".join, said.values())])


def _holds(text: str, names: Sequence[str]) -> bool:
    bare = _bare(text)
    return any(name in text or _bare(name) in bare for name in names)


def _bare(text: str) -> str:
    """Return a text without its escapes, at any depth; good for comparing only."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "", text)


# --- the same in other bytes ---------------------------------------------------------------------


def _rewritten(answer: _Answer, names: Sequence[str]) -> str:
    """Say the same with every changing string in one piece, and its number in its place.

    Raises:
        ValueError: That is not possible.
    """
    if answer.ends is None:
        return _dump(_numbered_answer(answer.documents[0], names))
    chunks = merge(answer.documents)
    if chunks is None:
        raise ValueError("a stream that cannot be merged")
    rows = [_dump(_numbered_answer(chunk, names)) for chunk in chunks]
    return "".join(f"data: {row}\n\n" for row in (*rows, *answer.ends))


def _numbered_answer(value: Any, names: Sequence[str]) -> Any:
    """Number an answer's strings; a tool call's arguments are JSON inside of JSON."""
    if isinstance(value, list):
        return [_numbered_answer(item, names) for item in value]
    if isinstance(value, Mapping):
        return {
            name: _numbered_arguments(item, names)
            if name == "arguments" and isinstance(item, str)
            else _numbered_answer(item, names)
            for name, item in value.items()
        }
    return numbered(value, names)


def _numbered_arguments(text: str, names: Sequence[str]) -> str:
    plain: str = numbered(text, names)
    if not _holds(plain, names):
        return plain
    return _dump(numbered(json.loads(text), names))


def _dump(value: Any) -> str:
    # In ASCII: a lone surrogate has no other form.
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
