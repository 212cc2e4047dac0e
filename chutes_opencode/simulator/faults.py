"""Faults as data: every way in which the API is known to fail, by name.

Names of whole answers begin with their HTTP status (`429-capacity`), those of streams that break
mostly with `stream-`. Any fault is reached by the model id `sim/fault/<name>` or by a scenario.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from chutes_opencode.simulator.answers import (
    Answer,
    Cut,
    End,
    Fault,
    Sent,
    detail,
    engine_detail,
    engine_error,
    nginx_page,
    openai_error,
)

_OVERFLOW_VLLM = (
    "This model's maximum context length is {limit} tokens. However, you requested {total} tokens "
    "({tokens} in the messages, {max_tokens} in the completion). "
    "Please reduce the length of the messages or completion."
)
_OVERFLOW_SGLANG_INPUT = (
    "The input ({tokens} tokens) is longer than the model's context length ({limit} tokens)."
)
_OVERFLOW_SGLANG_TOTAL = (
    "Requested token count exceeds the model's maximum context length of {limit} tokens. You "
    "requested a total of {total} tokens: {tokens} tokens from the input messages and {max_tokens} "
    "tokens for the completion. Please reduce the number of tokens in the input messages or the "
    "completion to fit within the limit."
)
_RETRY_SECONDS = 2


def _chutes(name: str, value: object, about: str) -> Fault:
    return Fault(name, about, Answer(int(name[:3]), detail(value)))


def _openai(name: str, message: str, kind: str, about: str, **headers: str) -> Fault:
    fields = tuple((key.replace("_", "-"), value) for key, value in headers.items())
    return Fault(name, about, Answer(int(name[:3]), openai_error(message, kind), headers=fields))


_REFUSALS = (
    _chutes("401-required", "Authentication required.", "No key was sent."),
    _chutes("401-not-found", "Invalid token or user not found", "The key belongs to nobody."),
    _chutes("401-invalid", "Invalid token.", "The key is malformed."),
    _chutes("401-expired", "Token expired.", "The key is too old."),
    _chutes(
        "402-quota",
        {
            "message": "Quota exceeded and account balance is $0.0, please pay with fiat or send "
            "tao to 5SimulatorSimulatorSimulatorSimulatorSimulator00",
            "quota_reset_timestamp": "{midnight}",
        },
        "The day's quota is used and there is no balance; resets at UTC midnight.",
    ),
    _chutes(
        "402-cap",
        "Subscription usage cap exceeded. Please add balance to continue.",
        "The subscription's four-hour or monthly cap is reached.",
    ),
    _chutes(
        "402-tier-tee",
        "TEE models require an active subscription or positive balance.",
        "The account may not use TEE models.",
    ),
    _chutes(
        "402-tier-model",
        "This model requires a higher subscription tier or positive balance.",
        "The account may not use this model.",
    ),
    _chutes(
        "402-creator",
        "Chute unavailable because the creator of this chute has zero balance.",
        "The model's owner has not paid.",
    ),
    _chutes("404-model", "model not found: {model}", "The model was removed or is mistyped."),
    _chutes("404-chute", "No matching chute found!", "The model's deployment is gone."),
    Fault(
        "400-invalid",
        "The engine refuses the request; its error comes as text.",
        Answer(400, engine_detail("temperature must be non-negative, got -1.0.")),
    ),
    Fault(
        "400-invalid-object",
        "The engine refuses the request; its error comes as an object.",
        Answer(400, detail(engine_error("temperature must be non-negative, got -1.0."))),
    ),
    Fault(
        "400-overflow-vllm",
        "Context overflow in vLLM's words.",
        Answer(400, engine_detail(_OVERFLOW_VLLM)),
    ),
    Fault(
        "400-overflow-sglang-input",
        "Context overflow in SGLang's words: the input alone.",
        Answer(400, engine_detail(_OVERFLOW_SGLANG_INPUT)),
    ),
    Fault(
        "400-overflow-sglang-total",
        "Context overflow in SGLang's words: input and output together.",
        Answer(400, detail(engine_error(_OVERFLOW_SGLANG_TOTAL))),
    ),
    _chutes(
        "429-capacity",
        "Infrastructure is at maximum capacity, try again later",
        "Every instance is full.",
    ),
    _chutes("429-infra-overload", "infra_overload", "Every instance is full (older word)."),
    _chutes("429-no-targets", "no_targets", "No instance takes requests now."),
    _chutes("429-maintenance", "model is under maintenance", "The model is being worked on."),
    _chutes(
        "429-free-limit",
        "Free models limit reached for today - maintain >= $10 balance or upgrade subscription to "
        "pro to unlock more.",
        "The day's free requests are used.",
    ),
    Fault(
        "429-nginx",
        "The edge server limits requests, with an HTML page.",
        nginx_page(429, "Too Many Requests"),
    ),
    _chutes(
        "503-cold",
        "No instances available (yet) for chute_id='{chute_id}'",
        "No instance is up; a warm-up call of the model ends it.",
    ),
    _chutes("503-disabled", "This chute is currently disabled.", "The model is switched off."),
    _chutes(
        "500-exhausted",
        "exhausted all available targets to no avail",
        "Every instance failed.",
    ),
    _chutes("500-no-result", "No result returned from upstream", "The instance said nothing."),
    Fault("504-html", "The edge server waited too long.", nginx_page(504, "Gateway Time-out")),
    Fault("502-html", "The edge server cannot connect.", nginx_page(502, "Bad Gateway")),
)

_OTHER_PROVIDERS = (
    _openai("403", "Country not supported.", "forbidden", "OpenAI's shape: forbidden."),
    _openai("408", "Request timed out.", "timeout", "OpenAI's shape: the server gave up waiting."),
    _openai("409", "The resource is locked.", "conflict", "OpenAI's shape: conflict."),
    _openai("413", "Request body too large.", "invalid_request_error", "OpenAI's shape: too big."),
    _openai("422", "Unprocessable entity.", "invalid_request_error", "OpenAI's shape: invalid."),
    _openai("425", "Too early.", "too_early", "OpenAI's shape: the request came too early."),
    _openai("499", "Client closed request.", "cancelled", "Shape of OpenAI, status of nginx."),
    _openai(
        "429-retry-after-seconds",
        "Rate limit reached for requests.",
        "rate_limit_exceeded",
        "OpenAI's shape with Retry-After in seconds.",
        retry_after=str(_RETRY_SECONDS),
    ),
    _openai(
        "429-retry-after-date",
        "Rate limit reached for requests.",
        "rate_limit_exceeded",
        "OpenAI's shape with Retry-After as an HTTP date.",
        retry_after="{http_date}",
    ),
)

_FALSE_SUCCESSES = (
    Fault("html-200", "An HTML page with status 200.", nginx_page(200, "Welcome to nginx!")),
    Fault(
        "json-200",
        "An error in JSON with status 200.",
        Answer(200, openai_error("The engine is restarting.", "server_error")),
    ),
)

_BARE_ERROR = json.dumps(
    {"error": "Unhandled exception during response stream: instance disconnected"}
)
_ERROR_EVENT = openai_error(
    "The server had an error while processing your request.", "server_error"
)
_HALF_CHUNK = 'data: {"id":"chatcmpl-broken","object":"chat.completion.chunk","choices":[{"delta":'
_DONE = "data: [DONE]\n\n"

_BROKEN_STREAMS = (
    Fault(
        "stream-bare-error-line",
        "Half a reply, then a bare line of JSON without `data:`, then the end.",
        cut=Cut(Sent.HALF, End.CLEAN, _BARE_ERROR),
    ),
    Fault(
        "stream-bare-end",
        "Half a reply, then the end, without finish reason and [DONE].",
        cut=Cut(Sent.HALF, End.CLEAN),
    ),
    Fault(
        "stream-close",
        "Half a reply, then the connection closes in the middle of the body.",
        cut=Cut(Sent.HALF, End.CLOSE),
    ),
    Fault("stream-reset", "Half a reply, then a TCP reset.", cut=Cut(Sent.HALF, End.RESET)),
    Fault("stream-stall", "Half a reply, then silence.", cut=Cut(Sent.HALF, End.STALL)),
    Fault("stream-stall-first-byte", "Nothing is ever answered.", never_answers=True),
    Fault(
        "stream-error-event",
        "Half a reply, then an error event in OpenAI's shape.",
        cut=Cut(Sent.HALF, End.CLEAN, f"data: {_ERROR_EVENT}\n\n"),
    ),
    Fault("empty-stream", "An event stream without a byte.", cut=Cut(Sent.NOTHING, End.CLEAN)),
    Fault("only-done", "Nothing but [DONE].", cut=Cut(Sent.NOTHING, End.CLEAN, _DONE)),
    Fault(
        "wrong-json",
        "Half a reply, then a chunk that is not JSON, then [DONE].",
        cut=Cut(Sent.HALF, End.CLEAN, f"{_HALF_CHUNK}\n\n{_DONE}"),
    ),
)

_ODD_ENDS = (
    Fault("no-finish-reason", "A whole reply that names no finish reason.", finish_reason=""),
    Fault("unknown-finish-reason", "Finish reason `weird`.", finish_reason="weird"),
    Fault(
        "finish-length",
        "Half a reply that ends with finish reason `length`.",
        finish_reason="length",
        halved=True,
    ),
    Fault(
        "finish-content-filter",
        "Half a reply that ends with finish reason `content_filter`.",
        finish_reason="content_filter",
        halved=True,
    ),
    Fault("slow-first-byte", "Three seconds pass before the answer.", first_byte_delay_s=3.0),
    Fault("slow-tokens", "A quarter of a second before each chunk.", token_delay_s=0.25),
    Fault("endless-tools", "Each reply calls a tool, for ever.", endless_tools=True),
    Fault("empty-answer", "A stop without any text.", empty=True),
)

_GROUPS = (_REFUSALS, _OTHER_PROVIDERS, _FALSE_SUCCESSES, _BROKEN_STREAMS, _ODD_ENDS)

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {fault.name: fault for group in _GROUPS for fault in group}
)
"""Every fault by its name."""


def fault_names() -> tuple[str, ...]:
    """Names of all faults, in the order of the documentation."""
    return tuple(FAULTS)


def overflow_text(engine: str) -> str:
    """Body of the 400 with which `engine` (`vllm`, else SGLang) refuses too long an input."""
    text = _OVERFLOW_VLLM if engine == "vllm" else _OVERFLOW_SGLANG_INPUT
    return engine_detail(text)
