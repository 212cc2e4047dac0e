"""Records as lines of JSON, and back. Secrets are masked on the way out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import orjson

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import FAILED, OK, Record, RecordedError
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.masking import mask
from chutes_opencode.results import QueryResult, Usage

_FIELDS = tuple(each.name for each in fields(Record))
_KNOWN = frozenset(_FIELDS)
_USAGE = tuple(each.name for each in fields(Usage))
_ERROR = tuple(each.name for each in fields(RecordedError))
# These name a task: masked or mended, a resume would not find it again.
_NAMES = ("id", "model", "content_hash")
# These may hold what a model, a tool or a user wrote.
_FREE = ("result", "structured", "diff", "metadata", "served_model", "finish_reason", "session_id")
# The JSON library takes 254.
MAX_DEPTH = 200
TOO_DEEP = "[nested too deeply]"


def record_of(
    task: Task,
    result: QueryResult,
    *,
    started_at: float,
    diff: str | None = None,
    status: str | None = None,
) -> Record:
    """Return what a task came to.

    Args:
        task: What was asked.
        result: What came back; a failure is in its `error`.
        started_at: Seconds since the epoch.
        diff: What the agent changed in the item's repository.
        status: "cut" for a task that we ended; None: "ok" or "failed", as the result tells.
    """
    failed = result.error is not None or not result.success
    prompts = [each for each in result.attempts if each.scope != "request"]
    return Record(
        id=task.item.id,
        model=task.model,
        sample=task.sample,
        content_hash=task.item.content_hash,
        status=status or (FAILED if failed else OK),
        result="" if failed else result.result,
        structured=result.structured,
        diff=diff,
        error=_recorded(result) if failed else None,
        usage=result.usage,
        failed_usage=result.failed_usage,
        cost_usd=result.cost_usd,
        served_model=result.served_model,
        finish_reason=result.finish_reason,
        attempts=len(prompts),
        num_retries=max(0, len(result.attempts) - 1),
        session_id=result.session_id,
        started_at=started_at,
        duration_s=result.duration_s,
        queued_s=result.queued_s,
        first_token_s=_first_byte(result),
        metadata=task.item.metadata,
    )


def recorded_error(error: OpenCodeError, partial_text: str = "") -> RecordedError:
    """Return an error as it is stored; `partial_text` if it carries none itself."""
    return RecordedError(
        type=type(error).__name__,
        message=error.raw_message,
        hint=error.hint,
        status=error.status,
        exit_code=error.exit_code,
        request_id=error.request_id,
        partial_text=getattr(error, "partial_text", "") or partial_text,
    )


def _recorded(result: QueryResult) -> RecordedError:
    if result.error is None:
        return RecordedError("UnknownOpenCodeError", "no success, and no reason told")
    return recorded_error(result.error, result.result)


def _first_byte(result: QueryResult) -> float | None:
    waits = (each.first_byte_s for each in result.exchanges if each.first_byte_s is not None)
    return next(waits, None)


# --- to JSON -------------------------------------------------------------------------------------


def to_json(record: Record) -> dict[str, Any]:
    """Return a record's fields, all of them, as JSON has them; secrets masked, but for its key."""
    values = {name: getattr(record, name) for name in _FIELDS}
    for name in _NAMES:
        values[name] = written(values[name])
    for name in _FREE:
        values[name] = masked(values[name])
    values["usage"] = usage_fields(record.usage)
    values["failed_usage"] = usage_fields(record.failed_usage)
    values["error"] = None if record.error is None else error_fields(record.error)
    return values


def record_line(record: Record) -> bytes:
    """Return a record as a line of JSON, its end included."""
    return line_of(to_json(record))


def line_of(values: Mapping[str, Any]) -> bytes:
    """Return JSON values as a line, its end included."""
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return a usage as JSON has it."""
    return {name: getattr(usage, name) for name in _USAGE}


def error_fields(error: RecordedError) -> dict[str, Any]:
    """Return an error as JSON has it, secrets masked."""
    return {name: masked(getattr(error, name)) for name in _ERROR}


def written(text: str) -> str:
    """Return a text as UTF-8 can have it: half a character becomes its escape."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def masked(value: Any, depth: int = 0) -> Any:
    """Return any value as JSON can have it, secrets masked.

    What JSON does not know becomes its text, and so do whole numbers of more than 64 bits.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return written(mask(value))
    if isinstance(value, Integral):
        number = int(value)
        return number if -(2**63) <= number < 2**64 else str(number)
    if isinstance(value, Real):
        return float(value)
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return written(mask(str(value)))
    if depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, Mapping):
        return {written(mask(str(key))): masked(each, depth + 1) for key, each in value.items()}
    return [masked(each, depth + 1) for each in value]


# --- from JSON -----------------------------------------------------------------------------------


def from_json(values: Any) -> Record:
    """Return the record that `to_json` made this of; fields that nobody knows are left out.

    Raises:
        ValueError: It is none.
    """
    try:
        known = {name: value for name, value in values.items() if name in _KNOWN}
        for name in ("usage", "failed_usage"):
            if name in known:
                known[name] = _usage(known[name])
        if known.get("error") is not None:
            known["error"] = _error(known["error"])
        record = Record(**known)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no record: {error}") from error
    if not all(isinstance(getattr(record, name), str) for name in _NAMES):
        raise ValueError("no record: its id, model or content_hash is no text")
    return record


def from_line(line: bytes) -> Record:
    """Return the record that stands in a line.

    Raises:
        ValueError: There is none.
    """
    return from_json(orjson.loads(line))


def _usage(values: Any) -> Usage:
    return Usage(**{name: value for name, value in values.items() if name in _USAGE})


def _error(values: Any) -> RecordedError:
    return RecordedError(**{name: value for name, value in values.items() if name in _ERROR})
