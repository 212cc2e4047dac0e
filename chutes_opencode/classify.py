"""What went wrong: an HTTP answer, an opencode error or a finish reason becomes a typed error.

Pure. One order everywhere: the HTTP status picks the family; an exactly known body may only
refine it; words alone count only where no status was told; what nobody knows stays unknown. The
known bodies of a provider are data (`ProviderPatterns`) and come as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from types import MappingProxyType
from typing import Any

from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    InvalidRequestError,
    MaxOutputTokensError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    StructuredOutputError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.http_answer import (
    ErrorBody,
    describe_status,
    load_json,
    plain_headers,
    read_moment,
    read_status,
    retry_after_seconds,
    split_phrase,
    unwrap,
)
from chutes_opencode.patterns import (
    CHUTES_PATTERNS,
    OPENCODE_NAMES,
    OPENCODE_WORDS,
    BodyPattern,
    ErrorClass,
    ProviderPatterns,
)

_BY_STATUS: Mapping[int, ErrorClass] = {
    401: AuthenticationError,
    402: BillingError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    408: ServerError,
    425: ServerError,
    429: RateLimitError,
    499: ServerError,
}

# Only for an error of the API that opencode calls final and tells no status of.
_BILLING_WORDS = re.compile(r"\b(billing|quotas?|balance|payment|credits?)\b", re.IGNORECASE)

_NAMED = re.compile(r"(?:Error: )?([\w.]*(?:Error|Failed)): (.*)", re.DOTALL)
_SUGGESTED = re.compile(r"Did you mean: ([^?\n]+)")

_HINT_NO_SUCH_PATH = "Check the base URL (it ends in /v1): the server knows no such path."


@dataclass(frozen=True, slots=True)
class _Scene:
    """What every error of one classification shares."""

    now: datetime
    node_id: str = "unknown"
    model: str | None = None
    exit_code: int = -1
    stderr: str = ""
    partial_text: str = ""
    patterns: ProviderPatterns = CHUTES_PATTERNS


def classify_response(
    status: int,
    body: str | None,
    headers: Mapping[str, str],
    *,
    now: datetime,
    model: str | None = None,
    node_id: str = "unknown",
    exit_code: int = -1,
    patterns: ProviderPatterns = CHUTES_PATTERNS,
) -> OpenCodeError:
    """Turn an HTTP answer that is no good answer into its error.

    Args:
        status: HTTP status; 2xx means an answer that is not what was asked for (HTML, error JSON).
        body: Text of the answer, None if it was not kept.
        headers: Its headers, in any case.
        now: The time (aware), to make times out of seconds.
        model: The model that was asked.
        node_id: The machine.
        exit_code: opencode's exit code, if it ran.
        patterns: How the provider words its errors.

    Returns:
        The error with status, body, request id and the provider's hint when to come back.
    """
    scene = _Scene(now, node_id, model, exit_code, patterns=patterns)
    return _from_answer(status, body or "", scene, headers=plain_headers(headers), body=body)


def classify_error(
    error: Any,
    *,
    returncode: int = 0,
    stderr: str = "",
    partial_text: str = "",
    node_id: str = "unknown",
    model: str | None = None,
    now: datetime | None = None,
    patterns: ProviderPatterns = CHUTES_PATTERNS,
) -> OpenCodeError:
    """Turn opencode's error object `{name, data}` into its error; never raises.

    Args:
        error: The object, from the run stream, an export or the server; may be malformed.
        returncode: opencode's exit code.
        stderr: What opencode wrote there; its error log tells the cause behind a `ref`.
        partial_text: What the model had written.
        node_id: The machine.
        model: The model that was asked.
        now: The time (aware); None: now.
        patterns: How the provider words its errors.

    Returns:
        The error; `UnknownOpenCodeError` when nothing in the object is known.
    """
    at = now or datetime.now(UTC)
    scene = _Scene(at, node_id, model, returncode, stderr, partial_text, patterns)
    payload = error if isinstance(error, Mapping) else {}
    data = payload.get("data")
    data = data if isinstance(data, Mapping) else {}
    name, message = payload.get("name"), data.get("message") or payload.get("message")
    name = name if isinstance(name, str) else ""
    if not isinstance(message, str):
        bare = isinstance(error, Mapping) and not data
        message = (name or "an error without content") if bare else repr(error)[:2000]
    return _from_payload(name, message, data, scene)


def classify_reason(
    reason: str,
    *,
    now: datetime | None = None,
    model: str | None = None,
    node_id: str = "unknown",
    exit_code: int = -1,
    stderr: str = "",
    patterns: ProviderPatterns = CHUTES_PATTERNS,
) -> OpenCodeError:
    """Turn the words of opencode's log into an error: "AI_APICallError: Too Many Requests".

    A reason phrase of HTTP stands for its status.

    Args:
        reason: The words.
        now: The time (aware); None: now.
        model: The model that was asked.
        node_id: The machine.
        exit_code: opencode's exit code.
        stderr: Kept in an unknown error.
        patterns: How the provider words its errors.
    """
    scene = _Scene(now or datetime.now(UTC), node_id, model, exit_code, stderr, "", patterns)
    return _from_payload("", reason, {}, scene)


def classify_finish(
    finish_reason: str | None,
    *,
    text: str,
    model: str | None = None,
    node_id: str = "unknown",
    exit_code: int = 0,
) -> OpenCodeError | None:
    """Judge the finish reason of the last turn; spelled with `-` (opencode) or `_` (the API).

    =====================  ===========================================================
    stop                   None: a whole answer
    length, max_tokens     `MaxOutputTokensError` with the partial text
    content-filter         `ContentFilterError`
    tool-calls             `TruncatedStreamError`: the agent ended before its answer
    None, unknown, other,  `TruncatedStreamError`: the stream ended without a reason,
    error, anything else   or with one that no one knows
    =====================  ===========================================================

    Args:
        finish_reason: Finish reason of the last assistant message.
        text: What it says.
        model: The model that was asked.
        node_id: The machine.
        exit_code: opencode's exit code.
    """
    scene = _Scene(datetime.min, node_id, model, exit_code, partial_text=text)
    reason = (finish_reason or "").lower().replace("_", "-")
    if reason == "stop":
        return None
    if reason in ("length", "max-tokens"):
        return _build(MaxOutputTokensError, "the answer was cut at the output limit", scene)
    if reason == "content-filter":
        return _build(ContentFilterError, "the provider's content filter ended the answer", scene)
    if reason in ("tool-calls", "function-call"):
        return _build(TruncatedStreamError, "the agent ended after a tool call, unanswered", scene)
    told = f"finish reason {finish_reason!r}" if finish_reason else "no finish reason"
    return _build(TruncatedStreamError, f"the answer ended with {told}", scene)


def _from_payload(name: str, message: str, data: Mapping[str, Any], scene: _Scene) -> OpenCodeError:
    status = read_status(data.get("statusCode"))
    told = data.get("responseBody")
    body = told if isinstance(told, str) else None
    leading, words = _split_name(message)
    if status is not None:
        text = split_phrase(words)[1] if body is None else body
        headers = plain_headers(data.get("responseHeaders"))
        return _from_answer(status, text, scene, headers=headers, body=body, message=message)
    cls = OPENCODE_NAMES.get(name) or OPENCODE_NAMES.get(leading)
    if cls is not None:
        return _build(cls, message, scene, response_body=body, **_suggested(message))
    cause = _logged_cause(data.get("ref"), scene.stderr)
    if cause:
        return _from_payload("", cause, {}, scene)
    if _is_event(body or words):
        return _from_answer(None, body or words, scene, body=body, message=message)
    return _from_words(words, message, scene) or _from_flags(name, message, data, scene)


def _from_words(words: str, message: str, scene: _Scene) -> OpenCodeError | None:
    status, rest = split_phrase(words)
    if status is not None:
        return _from_answer(status, rest, scene, message=message)
    for regex, cls in OPENCODE_WORDS:
        if re.search(regex, words):
            return _build(cls, message, scene, **_suggested(message))
    known = _known_body(None, (words,), scene)
    return None if known is None else _from_answer(None, words, scene, message=message)


def _from_flags(name: str, message: str, data: Mapping[str, Any], scene: _Scene) -> OpenCodeError:
    """Judge by what opencode says of an API error that has no status and unknown words."""
    retryable = data.get("isRetryable")
    if name != "APIError" or not isinstance(retryable, bool):
        return _build(UnknownOpenCodeError, message, scene)
    if retryable:
        return _build(ServerError, message, scene)
    return _build(
        BillingError if _BILLING_WORDS.search(message) else InvalidRequestError, message, scene
    )


def _from_answer(
    status: int | None,
    text: str,
    scene: _Scene,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    body: str | None = None,
    message: str = "",
) -> OpenCodeError:
    """Judge an answer, or (status None) an error that was told inside a stream.

    `text` is what is judged, `body` what is known to be the whole body, `message` opencode's words.
    """
    said = unwrap(text)
    # A 2xx says nothing; the error inside it may repeat a status.
    judged = said.status if status is None or 200 <= status < 300 else status
    known = _known_body(judged, said.texts, scene)
    wait_s = retry_after_seconds(headers, scene.now)
    no_such_path = judged == 404 and not known and body is not None and _is_blank(said)
    return _build(
        known.error if known else _family(judged),
        message or said.text or describe_status(status, said.html),
        scene,
        status=status,
        response_body=body,
        request_id=_request_id(headers, scene),
        reset_time=_reset_time(said, wait_s, known, scene),
        retry_after=wait_s,
        hint=_HINT_NO_SUCH_PATH if no_such_path else "",
    )


def _is_blank(said: ErrorBody) -> bool:
    return said.text in ("", "Not Found")


def _request_id(headers: Mapping[str, str], scene: _Scene) -> str | None:
    names = scene.patterns.request_id_headers
    return next((headers[name] for name in names if headers.get(name)), None)


def _family(status: int | None) -> ErrorClass:
    if status is None or 500 <= status < 600:
        return ServerError
    if 400 <= status < 500:
        return _BY_STATUS.get(status, InvalidRequestError)
    return UnknownOpenCodeError


def _known_body(status: int | None, texts: tuple[str, ...], scene: _Scene) -> BodyPattern | None:
    return next((p for p in scene.patterns.bodies if p.matches(status, texts)), None)


def _reset_time(
    said: ErrorBody, wait_s: float | None, known: BodyPattern | None, scene: _Scene
) -> datetime | None:
    told = (read_moment(said.fields.get(name)) for name in scene.patterns.reset_fields)
    moment = next((moment for moment in told if moment is not None), None)
    if moment is not None or wait_s is not None:
        return moment or scene.now + timedelta(seconds=wait_s or 0.0)
    if known is not None and known.until_midnight:
        tomorrow = scene.now.astimezone(UTC).date() + timedelta(days=1)
        return datetime.combine(tomorrow, time.min, UTC)
    return None


# Which constructor takes which of the facts beside the common ones.
_OWN_FIELDS: tuple[tuple[str, tuple[ErrorClass, ...]], ...] = (
    ("reset_time", (RateLimitError, BillingError)),
    ("retry_after", (ServerError,)),
    ("partial_text", (MaxOutputTokensError, StructuredOutputError)),
    ("stderr", (UnknownOpenCodeError,)),
    ("suggestions", (ModelNotFoundError,)),
)


def _build(cls: ErrorClass, message: str, scene: _Scene, **found: Any) -> OpenCodeError:
    known = {"partial_text": scene.partial_text, "stderr": scene.stderr, **found}
    for field, owners in _OWN_FIELDS:
        if not issubclass(cls, owners):
            known.pop(field, None)
    make: Callable[..., OpenCodeError] = cls
    return make(
        node_id=scene.node_id,
        exit_code=scene.exit_code,
        raw_message=message,
        model=scene.model,
        **known,
    )


def _split_name(message: str) -> tuple[str, str]:
    """Split "AI_APICallError: Too Many Requests" into the error's name and its words."""
    named = _NAMED.match(message)
    return (named[1], named[2]) if named else ("", message)


def _is_event(text: str) -> bool:
    """Tell an error event of a stream, which opencode hands on as JSON."""
    return isinstance(load_json(text), Mapping | str)


def _logged_cause(ref: object, stderr: str) -> str | None:
    """Find what opencode's error log says of a `ref`: `ref=err_x error="the cause"`."""
    if not isinstance(ref, str) or not ref:
        return None
    found = re.search(rf'\bref={re.escape(ref)}\b.*? error=("(?:[^"\\]|\\.)*"|\S+)', stderr)
    if not found:
        return None
    cause = load_json(found[1])
    return cause if isinstance(cause, str) else found[1]


def _suggested(message: str) -> dict[str, Any]:
    found = _SUGGESTED.search(message)
    return {"suggestions": tuple(re.split(r",\s*", found[1].strip()))} if found else {}
