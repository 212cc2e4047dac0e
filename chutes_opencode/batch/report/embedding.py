"""What the page carries of each item, packed: gzip in base64, in parts that are read when needed.

Two budgets keep the file small whatever is in the run: one for the rows of the table, one for
texts and transcripts. Rows and texts are offered the slowest, the dearest and the failed items
first, then all others in the order of results.jsonl.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import orjson

from chutes_opencode.batch.record import OK, Record
from chutes_opencode.batch.report.summary import Summary, input_tokens, latency, output_tokens

# With plotly.js (2 MB packed) and all figures, below 20 MB.
ROW_BYTES = 8_000_000
"""Base64 characters that the table's rows may take: some 100,000 rows."""
ALL_BYTES = 17_000_000
"""Base64 characters that rows, texts and transcripts may take together."""
# What all rows will take is a guess while texts go in: this much of it may be wrong.
_SPARE = 0.12

_ROW_BYTES_GUESS = 70
_ROWS_PART = 262_144
# A part is unpacked whole to show one item of it.
_TEXTS_PART = 262_144
ITEM_CHARACTERS = 100_000
"""Characters of one item's texts; the rest is left out, and said."""
TEXT_CHARACTERS = 20_000
"""Characters of one message, answer or tool output."""
ID_CHARACTERS = 300
EXCERPT_CHARACTERS = 64

Transcripts = Callable[[Record], Mapping[str, Any] | None]
"""Reads a record's transcript; None: there is none."""


class Packed:
    """JSON values packed in parts, as many as a budget allows.

    Attributes:
        parts: What is packed, base64.
        size: Characters of that.
        packed: Values in it.
    """

    def __init__(self, budget: int, part_bytes: int) -> None:
        """Start with nothing.

        Args:
            budget: Characters after which it is full; a last part may go beyond it.
            part_bytes: Bytes of JSON from which on a part is packed.
        """
        self.budget = budget
        self.parts: list[str] = []
        self.size = 0
        self.packed = 0
        self._part_bytes = part_bytes
        self._open: list[bytes] = []
        self._open_bytes = 0

    @property
    def full(self) -> bool:
        """Whether nothing more goes in."""
        return self.size >= self.budget

    def add(self, value: Any) -> int:
        """Put a value in, and return the number of its part."""
        number = len(self.parts)
        data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str)
        self._open.append(data)
        self._open_bytes += len(data)
        if self._open_bytes >= self._part_bytes:
            self.close()
        return number

    def close(self) -> None:
        """Pack what is open."""
        if not self._open:
            return
        data = gzip.compress(b"[" + b",".join(self._open) + b"]", 6, mtime=0)
        part = base64.b64encode(data).decode("ascii")
        self.parts.append(part)
        self.size += len(part)
        self.packed += len(self._open)
        self._open, self._open_bytes = [], 0


@dataclass(slots=True)
class Embedded:
    """What goes into the page.

    Attributes:
        rows: A row per item, for the table.
        texts: An item's texts and its transcript.
        num_rows: Items that have a row.
        num_texts: Items whose texts are there.
    """

    rows: Packed
    texts: Packed
    num_rows: int = 0
    num_texts: int = 0


def embed(
    records: Callable[[], Iterable[Record]],
    transcripts: Transcripts,
    summary: Summary,
    *,
    row_bytes: int = ROW_BYTES,
    all_bytes: int = ALL_BYTES,
) -> Embedded:
    """Pack the items of a run.

    Args:
        records: Begins to read results.jsonl; only as many lines count as the summary has seen.
        transcripts: Reads a transcript.
        summary: Of the same lines.
        row_bytes: Budget of the rows.
        all_bytes: Budget of rows and texts together.
    """
    packer = _Packer(transcripts, summary, row_bytes, all_bytes)
    ranked = {each.position: each.record for each in (*summary.slowest, *summary.dearest)}
    for position, record in chain(
        ranked.items(),
        _lines(records, summary, ranked, failed=True),
        _lines(records, summary, ranked, failed=False),
    ):
        if not packer.add(position, record):
            break
    packer.embedded.rows.close()
    packer.embedded.texts.close()
    return packer.embedded


def _lines(
    records: Callable[[], Iterable[Record]],
    summary: Summary,
    ranked: Mapping[int, Record],
    *,
    failed: bool,
) -> Iterator[tuple[int, Record]]:
    """Yield the failed lines, or the others; none that was moved since the summary was made."""
    for position, (key, record) in enumerate(zip(summary.keys, records(), strict=False)):
        if (record.status != OK) is failed and position not in ranked and key == hash(record.key):
            yield position, record


class _Packer:
    def __init__(
        self, transcripts: Transcripts, summary: Summary, row_bytes: int, all_bytes: int
    ) -> None:
        self.embedded = Embedded(Packed(row_bytes, _ROWS_PART), Packed(all_bytes, _TEXTS_PART))
        self._transcripts = transcripts
        self._finished = summary.finished
        self._default_model = summary.default_model
        self._all_bytes = all_bytes
        self._models = {each.model: number for number, each in enumerate(summary.models)}
        self._classes = {each.type: number for number, each in enumerate(summary.errors)}

    def add(self, position: int, record: Record) -> bool:
        """Pack an item; False: there is room for nothing more."""
        into = self.embedded
        part = -1
        if into.rows.full or into.rows.size + into.texts.size >= self._all_bytes:
            return False
        if into.texts.size < self._all_bytes * (1 - _SPARE) - self._rows_at_the_end():
            part = into.texts.add(item_texts(position, record, self._transcripts))
            into.num_texts += 1
        into.rows.add(self._row(position, record, part))
        into.num_rows += 1
        return True

    def _rows_at_the_end(self) -> int:
        """Guess what all rows will take, from those that are packed."""
        rows = self.embedded.rows
        each = rows.size / rows.packed if rows.packed else _ROW_BYTES_GUESS
        return min(rows.budget, int(each * self._finished))

    def _row(self, position: int, record: Record, part: int) -> list[Any]:
        error = record.error
        shown = record.result if record.status == OK else (error.message if error else "")
        kind = -1 if record.status == OK else self._classes.get(error.type if error else "", -1)
        return [
            position,
            record.id[:ID_CHARACTERS],
            self._models.get(record.model or self._default_model, -1),
            record.sample,
            int(record.status != OK),
            kind,
            round(latency(record), 3),
            None if record.first_token_s is None else round(record.first_token_s, 3),
            input_tokens(record.usage),
            output_tokens(record.usage),
            None if record.cost_usd is None else float(f"{record.cost_usd:.4g}"),
            round(record.started_at),
            part,
            " ".join(shown[: 3 * EXCERPT_CHARACTERS].split())[:EXCERPT_CHARACTERS],
        ]


class _Cutter:
    """Cuts an item's texts until its share is used up."""

    def __init__(self) -> None:
        self.left = ITEM_CHARACTERS
        self.cut = False

    def text(self, value: Any) -> str:
        """Return a text, its middle left out where it is too long."""
        whole = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
        room = max(min(TEXT_CHARACTERS, self.left), 0)
        if len(whole) > room:
            self.cut = True
            head, tail = room * 3 // 4, room // 4
            gap = f"\n… {len(whole) - head - tail:,} characters left out …\n"
            whole = whole[:head] + gap + (whole[-tail:] if tail else "")
        self.left -= len(whole)
        return whole


def item_texts(position: int, record: Record, transcripts: Transcripts) -> dict[str, Any]:
    """Return what the detail pane shows of an item: only keys that hold something.

    Args:
        position: Of its line in results.jsonl.
        record: What it came to.
        transcripts: Reads its transcript.
    """
    cutter = _Cutter()
    shown: dict[str, Any] = {
        "result": cutter.text(record.result),
        "error": _error(record, cutter),
        "structured": None if record.structured is None else cutter.text(record.structured),
        "diff": None if record.diff is None else cutter.text(record.diff),
        "metadata": cutter.text(dict(record.metadata)) if record.metadata else None,
        "session": record.session_id,
        "served": record.served_model if record.served_model != record.model else None,
        "finish": record.finish_reason,
        "tries": record.attempts,
        "retries": record.num_retries,
        "queued": round(record.queued_s, 3) or None,
        "where": record.transcript,
    }
    told = transcripts(record)
    if told is not None:
        shown["messages"] = [_message(each, cutter) for each in _mappings(told.get("messages"))]
        shown["attempts"] = [_attempt(each, cutter) for each in _mappings(told.get("attempts"))]
    shown["cut"] = cutter.cut
    return {"n": position, **{key: value for key, value in shown.items() if value}}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _error(record: Record, cutter: _Cutter) -> dict[str, Any] | None:
    error = record.error
    if error is None:
        return None
    told = {
        "type": error.type,
        "message": cutter.text(error.message),
        "hint": error.hint,
        "status": error.status,
        "request": error.request_id,
        "partial": cutter.text(error.partial_text) if error.partial_text else "",
    }
    return {key: value for key, value in told.items() if value}


def _message(message: Mapping[str, Any], cutter: _Cutter) -> dict[str, Any]:
    told = {
        "role": str(message.get("role", "")),
        "parts": [_part(part, cutter) for part in _mappings(message.get("parts"))],
        "error": cutter.text(message["error"]) if message.get("error") else None,
    }
    return {key: value for key, value in told.items() if value}


def _part(part: Mapping[str, Any], cutter: _Cutter) -> dict[str, Any]:
    if "tool" not in part:
        kind = "thinking" if part.get("type") == "reasoning" else "text"
        return {"kind": kind, "text": cutter.text(part.get("text", ""))}
    told = {
        "kind": "tool",
        "tool": str(part["tool"]),
        "status": str(part.get("status", "")),
        "input": cutter.text(part.get("input") or {}),
        "output": cutter.text(part.get("output") or ""),
        "error": cutter.text(part["error"]) if part.get("error") else None,
    }
    return {key: value for key, value in told.items() if value}


def _attempt(attempt: Mapping[str, Any], cutter: _Cutter) -> dict[str, Any]:
    error = attempt.get("error")
    if isinstance(error, Mapping):
        error = f"{error.get('type', '')}: {error.get('message', '')}"
    told = {
        "scope": str(attempt.get("scope", "")),
        "engine": str(attempt.get("engine", "")),
        "model": str(attempt.get("model", "")),
        "error": cutter.text(error) if error else None,
        "seconds": attempt.get("duration_s"),
        "waited": attempt.get("waited_s"),
        "cost": attempt.get("cost_usd"),
    }
    return {key: value for key, value in told.items() if value}
