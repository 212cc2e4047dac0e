"""Transcripts: a line for each result, in files of at most 64 MiB or one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from chutes_opencode.batch.durable import StoreError, make_folder, storing, sync_folder
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.journal import Journal
from chutes_opencode.batch.store.record_json import (
    error_fields,
    line_of,
    masked,
    recorded_error,
    usage_fields,
    written,
)
from chutes_opencode.results import (
    Attempt,
    Exchange,
    Message,
    Part,
    QueryResult,
    TextPart,
    ToolPart,
)

FOLDER = "transcripts"
SHARD_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024

_SHARD = re.compile(r"\d{4,}\.jsonl")
_EXCHANGE = tuple(
    each.name for each in fields(Exchange) if each.name not in ("usage", "headers", "tools")
)
# What goes first when a transcript is too long: (whether only tools' texts, characters that stay
# of a text, entries that stay of a list).
_CUTS = (
    (True, 256 * 1024, None),
    (True, 16 * 1024, None),
    (True, 2 * 1024, None),
    (False, 64 * 1024, None),
    (False, 4 * 1024, 2000),
    (False, 256, 200),
    (False, 64, 20),
)


def transcript_line(record: Record, result: QueryResult, max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Return the line of a result's transcript, secrets masked.

    Args:
        record: Whose it is.
        result: Holds messages, attempts and exchanges.
        max_bytes: Of a longer one the tools' outputs are cut, then more; `cut` in it says how.
    """
    values: dict[str, Any] = {
        "id": written(record.id),
        "model": written(record.model),
        "sample": record.sample,
        "messages": [_message(each) for each in result.transcript.messages],
        "attempts": [_attempt(each) for each in result.attempts],
        "exchanges": [_exchange(each) for each in result.exchanges],
        "cut": "",
    }
    line = line_of(values)
    for only_tools, characters, entries in _CUTS:
        if len(line) <= max_bytes:
            return line
        line = line_of(_cut_down(values, only_tools, characters, entries))
    if len(line) > max_bytes:
        line = line_of(values | {"messages": [], "attempts": [], "exchanges": [], "cut": "all"})
    return line


def _message(message: Message) -> dict[str, Any]:
    return {
        "role": message.role,
        "parts": [_part(part) for part in message.parts],
        "usage": usage_fields(message.usage),
        "cost_usd": message.cost_usd,
        "finish_reason": masked(message.finish_reason),
        "model": masked(message.model),
        "error": masked(message.error),
    }


def _part(part: Part) -> dict[str, Any]:
    if not isinstance(part, ToolPart):
        kind = "text" if isinstance(part, TextPart) else "reasoning"
        return {"type": kind, "text": masked(part.text)}
    return {
        "type": "tool",
        "tool": masked(part.tool),
        "call_id": masked(part.call_id),
        "status": masked(part.status),
        "input": masked(part.input),
        "output": masked(part.output),
        "error": masked(part.error),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "engine": attempt.engine,
        "scope": attempt.scope,
        "model": masked(attempt.model),
        "session_id": masked(attempt.session_id),
        "error": None if attempt.error is None else error_fields(recorded_error(attempt.error)),
        "usage": usage_fields(attempt.usage),
        "cost_usd": attempt.cost_usd,
        "duration_s": attempt.duration_s,
        "waited_s": attempt.waited_s,
    }


def _exchange(exchange: Exchange) -> dict[str, Any]:
    return {
        **{name: masked(getattr(exchange, name)) for name in _EXCHANGE},
        "headers": masked(exchange.headers),
        "tools": masked(exchange.tools),
        "usage": None if exchange.usage is None else usage_fields(exchange.usage),
    }


# --- too long ones -------------------------------------------------------------------------------


def _cut_down(
    values: Mapping[str, Any], only_tools: bool, characters: int, entries: int | None
) -> dict[str, Any]:
    """Return a transcript with its long texts and lists cut in their midst."""
    if only_tools:
        messages = [
            {**each, "parts": [_cut_tool(part, characters) for part in each["parts"]]}
            for each in values["messages"]
        ]
        return {**values, "messages": messages, "cut": f"tools' texts at {characters} characters"}
    how = f"texts at {characters} characters"
    how += f", lists at {entries} entries" if entries else ""
    return {
        **values,
        **{
            name: _cut(values[name], characters, entries)
            for name in ("messages", "attempts", "exchanges")
        },
        "cut": how,
    }


def _cut_tool(part: dict[str, Any], characters: int) -> dict[str, Any]:
    if part["type"] != "tool":
        return part
    cut = {name: _cut(part[name], characters, None) for name in ("input", "output", "error")}
    return part | cut


def _cut(value: Any, characters: int, entries: int | None) -> Any:
    if isinstance(value, str):
        return _cut_text(value, characters)
    if isinstance(value, dict):
        return {key: _cut(each, characters, entries) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    if entries and len(value) > entries:
        value = value[: entries // 2] + value[-(entries // 2) :]
    return [_cut(each, characters, entries) for each in value]


def _cut_text(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


# --- the files -----------------------------------------------------------------------------------


class TranscriptShards:
    """The files of a run's transcripts and their one writer."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Look for the last file and mend its end; nothing is made before the first line.

        Args:
            folder: `transcripts/` of a run.
            shard_bytes: A file of that size is followed by another one.

        Raises:
            StoreError: The files cannot be read or mended.
        """
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._shard: Journal | None = None
        self._number = _last_number(folder)
        self.repaired = 0
        if self._number:
            self._shard = Journal(folder / _name(self._number))
            self.repaired = self._shard.repair()

    def add(self, line: bytes) -> str:
        """Take a line, its end included; `commit` makes it durable.

        Returns:
            Where it will be: "FILE:OFFSET".

        Raises:
            StoreError: A file cannot be made or written.
        """
        if self._shard is None or self._shard.size >= self._shard_bytes:
            self._shard = self._next_shard()
        return f"{self._shard.path.name}:{self._shard.add(line)}"

    def commit(self) -> None:
        """Wait until what was added is on the disk.

        Raises:
            StoreError: It does not get there.
        """
        if self._shard is not None:
            self._shard.commit()

    def close(self) -> None:
        """Close the file."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _next_shard(self) -> Journal:
        """Begin a file; the one before is whole on the disk first: only the last may be torn."""
        self.commit()
        self.close()
        make_folder(self._folder)
        self._number += 1
        shard = Journal(self._folder / _name(self._number))
        with storing(shard.path):
            sync_folder(self._folder)
        return shard


def _name(number: int) -> str:
    return f"{number:04}.jsonl"


def _last_number(folder: Path) -> int:
    with storing(folder):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name.split(".")[0]) for name in names if _SHARD.fullmatch(name)), default=0)


def read_transcript(folder: Path, reference: str) -> dict[str, Any]:
    """Return a transcript.

    Args:
        folder: `transcripts/` of a run.
        reference: `Record.transcript`.

    Raises:
        StoreError: There is none.
    """
    name, _, offset = reference.partition(":")
    if not _SHARD.fullmatch(name) or not offset.isdecimal():
        raise StoreError(raw_message=f"{reference!r} is no place of a transcript")
    path = folder / name
    with storing(path), path.open("rb") as file:
        file.seek(int(offset))
        line = file.readline()
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise StoreError(
            raw_message=f"{path} holds no transcript at {offset}",
            hint="The file was changed or copied in part; the results stand without it.",
        )
    return values
