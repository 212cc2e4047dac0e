"""What the guard plugin is told: which requests to watch, and what may be in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import (
    KEY_VARIABLE,
    RESERVED_BODY_KEYS,
    Target,
    body_options,
    caller_keys,
    tool_prefix,
)
from chutes_opencode.request import Params, PromptRequest

OPENCODE_BODY_KEYS = (RESERVED_BODY_KEYS - {"n"}) | {"max_tokens"}

# What opencode adds by itself to the options of a native package: thinking costs money.
NATIVE_OPTIONS = (
    *("thinking", "effort", "thinkingConfig"),
    *("reasoningEffort", "reasoningSummary", "textVerbosity"),
)
# What opencode may put into a body whose keys stand side by side, as in the OpenAI wire's. The
# caller's values are put in by the guard: for the newest Claude models opencode adds thinking after
# its plugins were asked, whereupon the package leaves temperature out, and for GPT-5 and later
# OpenAI's package leaves out temperature and top_p (seen).
_COMMON_KEYS = ("model", "stream", "tools", "tool_choice")
NATIVE_BODY_KEYS: Mapping[str, frozenset[str]] = {
    "@ai-sdk/anthropic": frozenset({*_COMMON_KEYS, "max_tokens", "system", "messages"}),
    "@ai-sdk/openai": frozenset(
        {*_COMMON_KEYS, "max_output_tokens", "instructions", "input"}
        # Keeps nothing at the provider, yet lets a reasoning model go on after a tool's result.
        | {"store", "include", "prompt_cache_key"}
    ),
}
NATIVE_RESERVED = frozenset(
    {"system", "instructions", "input", "contents", "systemInstruction", "toolConfig"}
)

# How the streams of native packages tell that they are whole; without that mark opencode would
# repeat the step without end (seen: 260 requests in 12 s). Of other packages nothing is known.
NATIVE_FINISH: Mapping[str, Mapping[str, Any]] = {
    "@ai-sdk/anthropic": {
        "pattern": r'"stop_reason":\s*"(\w+)"',
        "tool": '"tool_use"',
        "words": {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "pause_turn": "stop",
            "tool_use": "tool_calls",
            "max_tokens": "length",
            "model_context_window_exceeded": "length",
            "refusal": "content_filter",
        },
    },
    "@ai-sdk/google": {
        "pattern": r'"finishReason":\s*"(\w+)"',
        "tool": '"functionCall"',
        "words": {
            "STOP": "stop",
            "MAX_TOKENS": "length",
            **dict.fromkeys(
                ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
                "content_filter",
            ),
        },
    },
    "@ai-sdk/openai": {
        "pattern": r'"type":\s*"response\.(completed|incomplete)"',
        "tool": '"function_call"',
        "words": {"completed": "stop", "incomplete": "length"},
    },
}


def guard_spec(request: PromptRequest, target: Target, attachments: Path) -> dict[str, Any]:
    """Return what `guard.json` holds.

    Args:
        request: What is run.
        target: Where its model requests go.
        attachments: The folder of its attachments; opencode's words about it are dropped.

    Raises:
        ConfigurationError: A parameter that the provider's native wire has no place for.
        InvalidRequestError: A parameter that cannot be sent.
    """
    common = {
        "keyVariable": KEY_VARIABLE,
        "maxRequests": request.max_requests,
        "maxFailures": request.max_failures,
        "toolPrefixes": [tool_prefix(server.name) for server in request.tools],
        "system": request.system_message,
        "context": request.context,
        "attachments": str(attachments),
    }
    native = target.provider.wire == "native"
    return common | (_native(request, target) if native else _openai(request, target))


def _openai(request: PromptRequest, target: Target) -> dict[str, Any]:
    keys = caller_keys(request)
    return {
        "completionsUrl": f"{target.base_url}/chat/completions",
        "bodyKeys": None if keys is None else sorted(OPENCODE_BODY_KEYS | keys),
    }


def _native(request: PromptRequest, target: Target) -> dict[str, Any]:
    params, npm = request.params, target.provider.npm
    _check_native(params, target.provider.name)
    keys = NATIVE_BODY_KEYS.get(npm)
    asked = {"temperature": params.temperature, "top_p": params.top_p} if keys else {}
    added = {name: value for name, value in asked.items() if value is not None}
    added |= params.extra_body or {}
    variant = caller_keys(request) is None
    return {
        "nativeRoot": f"{target.base_url}/",
        "sampling": {"temperature": params.temperature, "topP": params.top_p},
        "dropped": [] if variant else list(NATIVE_OPTIONS),
        "bodyKeys": None if variant or keys is None else sorted(keys | added.keys()),
        "extraBody": added,
        "finish": NATIVE_FINISH.get(npm),
    }


def _check_native(params: Params, provider: str) -> None:
    body_options(params)
    for name in ("stop", "seed", "reasoning_effort"):
        if getattr(params, name) is not None:
            raise ConfigurationError(
                raw_message=f"params.{name} cannot be sent to {provider} over its own wire",
                hint=f"Leave {name} out, or put {provider}'s own body key into extra_body.",
            )
    reserved = sorted(NATIVE_RESERVED & (params.extra_body or {}).keys())
    if reserved:
        raise ConfigurationError(
            raw_message=f"extra_body may not hold {', '.join(reserved)}: opencode sets it"
        )
