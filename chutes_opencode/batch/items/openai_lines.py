"""Lines of OpenAI's Batch API: requests as they are, and results in its form. Pure.

A request reads `{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {…}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chutes_opencode.batch.fingerprints import fingerprint
from chutes_opencode.batch.record import OK, Record
from chutes_opencode.results import Usage

METHOD, URL = "POST", "/v1/chat/completions"
_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})
# Columns of ours that a request line may have beside its own.
_BESIDE = frozenset({"metadata", "files", "work_dir", "repo", "commit"})
_OF_THE_BODY = frozenset({"id", "prompt", "system", "messages", "model", "params", "output_schema"})

# Keys of the body that ask for what is not done, and the values of them that ask for nothing.
_NOT_HONOURED: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stream_options": (),
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
# What a finish reason is in OpenAI's words, where it is not the same.
_FINISH = {"tool-calls": "tool_calls", "content-filter": "content_filter", "unread": "stop"}
_FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


class RequestLineError(ValueError):
    """A request line that asks for something which cannot be done; its text says what."""


def is_request(row: Mapping[str, Any]) -> bool:
    """Tell a request line from a row of a dataset: it has a body, and an envelope around it."""
    return isinstance(row.get("body"), Mapping) and not row.keys().isdisjoint(_ENVELOPE - {"body"})


def item_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request line as a row for `parse_row`.

    Args:
        row: The line. Beside the request it may hold metadata, files, work_dir, repo, commit, and
            columns that the layout has to know; `body.metadata` is metadata, too.

    Returns:
        The row: sampling parameters in `params`, a response format's schema in `output_schema`.

    Raises:
        RequestLineError: Another method or address, or a body that cannot be honoured.
    """
    _check_envelope(row)
    body = {name: value for name, value in row["body"].items() if value is not None}
    refused = [
        name
        for name, harmless in _NOT_HONOURED.items()
        if name in body and not _is_among(body.pop(name), harmless)
    ]
    if refused:
        raise RequestLineError(f"body.{', body.'.join(refused)} cannot be honoured here")
    taken = {name: body.pop(name, None) for name in ("messages", "model", "metadata")}
    if taken["messages"] is None:
        raise RequestLineError("body.messages is missing")
    schema = _output_schema(body.pop("response_format", None))
    if "max_completion_tokens" in body:
        if "max_tokens" in body:
            raise RequestLineError("body.max_tokens and body.max_completion_tokens are the same")
        body["max_tokens"] = body.pop("max_completion_tokens")
    found = {name: value for name, value in row.items() if name not in _ENVELOPE}
    return found | {
        "id": row["custom_id"],
        "messages": taken["messages"],
        "model": taken["model"],
        "params": body,
        "output_schema": schema,
        "metadata": _both(taken["metadata"], row.get("metadata")),
    }


def output_line(record: Record) -> dict[str, Any]:
    """Return a result as a line of OpenAI's Batch output.

    Args:
        record: What an item came to.

    Returns:
        `id`, `custom_id`, and either `response`, whose body is a chat completion, or `error`.
    """
    own_id = f"{fingerprint(record.id, record.model, str(record.sample)):016x}"
    error = None
    if record.status != OK:
        failure = record.error
        error = {
            "code": failure.type if failure else record.status,
            "message": failure.message if failure else "",
        }
    return {
        "id": f"batch_req_{own_id}",
        "custom_id": record.id,
        "response": _response(record, own_id) if error is None else None,
        "error": error,
    }


def _check_envelope(row: Mapping[str, Any]) -> None:
    given = row.get("custom_id")
    if not isinstance(given, str) or not given:
        raise RequestLineError("custom_id must be text")
    if row.get("method") != METHOD:
        raise RequestLineError(f"method must be {METHOD}, not {row.get('method')!r:.60}")
    if row.get("url") != URL:
        raise RequestLineError(f"url must be {URL}, not {row.get('url')!r:.60}")
    if twice := sorted(_OF_THE_BODY & row.keys()):
        raise RequestLineError(f"{', '.join(twice)} cannot stand beside a body")


def _is_among(value: Any, harmless: tuple[Any, ...]) -> bool:
    """Tell whether a value is one of these; `True` is not `1` here."""
    return any(type(value) is type(one) and value == one for one in harmless)


def _output_schema(response_format: Any) -> Any:
    """Return the schema that a response format asks for; any object for the mode without one."""
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        described = response_format.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if isinstance(schema, Mapping):
            return schema
        raise RequestLineError("body.response_format.json_schema.schema is missing")
    raise RequestLineError("body.response_format cannot be honoured here: its type is unknown")


def _both(of_the_body: Any, of_the_line: Any) -> Any:
    if of_the_body is None or of_the_line is None:
        return of_the_line if of_the_body is None else of_the_body
    if isinstance(of_the_body, Mapping) and isinstance(of_the_line, Mapping):
        return {**of_the_body, **of_the_line}
    raise RequestLineError("metadata must be an object")


def _response(record: Record, own_id: str) -> dict[str, Any]:
    finish = record.finish_reason or "stop"
    finish = _FINISH.get(finish, finish)
    message = {"role": "assistant", "content": record.result, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish if finish in _FINISHES else "stop",
    }
    body = {
        "id": f"chatcmpl-{own_id}",
        "object": "chat.completion",
        "created": int(record.started_at + record.duration_s),
        "model": record.served_model or record.model,
        "choices": [choice],
        "usage": _usage(record.usage),
    }
    return {"status_code": 200, "request_id": record.session_id or f"req_{own_id}", "body": body}


def _usage(usage: Usage) -> dict[str, Any]:
    completion = usage.output + usage.reasoning
    return {
        "prompt_tokens": usage.total - completion,
        "completion_tokens": completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
