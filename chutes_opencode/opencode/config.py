"""The opencode config of one run, as a dict and as text. Pure.

Facts that it rests on were seen with the real opencode; DESIGN rule numbers and the tests in
`tests/integration` name them.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import find
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.opencode.models import DEFAULT_OUTPUT_LENGTH, model_entry, output_length
from chutes_opencode.request import McpServer, Params, PromptRequest

# Variable that holds the key; the config only refers to it.
KEY_VARIABLE = "CHUTES_OPENCODE_LEASE"

# opencode's name for whatever lies outside of the agent's folder.
OUTSIDE = "external_directory"

SCHEMA_URL = "https://opencode.ai/config.json"

# What opencode, not the caller, decides about a request.
RESERVED_BODY_KEYS = frozenset(
    {"model", "messages", "stream", "stream_options", "tools", "tool_choice", "n"}
)
# What opencode's package for the OpenAI wire renames on its way into the body.
_RENAMED = {"reasoningEffort": "reasoning_effort", "textVerbosity": "verbosity"}
_TOOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Milliseconds; the relay holds a request back while a limit of the provider lasts.
_PATIENCE = {"headerTimeout": 86_400_000, "chunkTimeout": 86_400_000}
# A brace of JSON itself is followed by a quote, a line's end or its counterpart; any other brace
# stands in a string.
_BRACE_IN_STRING = re.compile(r'\{(?=[^"}\n])')


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go.

    Attributes:
        provider: The registry's entry.
        base_url: The API's root, without a trailing slash.
        models: What the provider offers; the requested model is added if it is not among them.
    """

    provider: Provider
    base_url: str
    models: tuple[Model, ...] = ()


def build_config(
    request: PromptRequest, target: Target, *, plugin: Path | None, key: str, patient: bool = False
) -> dict[str, Any]:
    """Build the config of a run.

    Args:
        request: What to run.
        target: Where its model requests go.
        plugin: The guard; None: no plugin at all.
        key: What stands for the key, see `render_config`.
        patient: Whether opencode shall wait for an answer as long as it takes; else it breaks off
            after 300 s and asks again, whoever pays.

    Returns:
        The dict for `render_config`.

    Raises:
        ConfigurationError: A tool name or permission that cannot be written.
        InvalidRequestError: A parameter that cannot be sent.
    """
    provider = target.provider
    config: dict[str, Any] = {
        "$schema": SCHEMA_URL,
        # Only our provider: opencode brings free models of its own.
        "enabled_providers": [provider.id],
        "model": f"{provider.id}/{request.model}",
        "small_model": f"{provider.id}/{request.model}",
        "provider": {provider.id: _provider(request, target, key, patient=patient)},
        "agent": {request.agent_name: _agent(request.system_message)},
        # An agent name that opencode does not find silently runs the default one.
        "default_agent": request.agent_name,
        # Top level, not the agent's: a sub-agent does not inherit the agent's denies (rule 3).
        "permission": permission_rules(request),
        "mcp": {server.name: tool_server_entry(server) for server in checked_tools(request.tools)},
        "plugin": [plugin.as_uri()] if plugin else [],
        "instructions": [str(request.rules_file)] if request.rules_file else [],
        "share": "disabled",
        "autoupdate": False,
        "snapshot": False,
        # At the context's end opencode would ask for summaries without end.
        "compaction": {"auto": False, "prune": False},
        "lsp": False,
        "formatter": False,
    }
    return config


def render_config(config: Mapping[str, Any], *, key: str) -> str:
    """Write the config as JSON in which nothing is expanded but the key's own reference.

    Args:
        config: From `build_config`.
        key: The placeholder that `build_config` was given; becomes `{env:…}`.
    """
    return unexpanded_json(config).replace(key, f"{{env:{KEY_VARIABLE}}}")


def unexpanded_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Write JSON in which opencode expands nothing.

    opencode replaces `{env:X}` and `{file:path}` anywhere in the text, a system message included;
    a brace written as an escape arrives as a plain brace (seen).

    Args:
        value: What to write.
        indent: Spaces per level; None: all in one line.
    """
    return _BRACE_IN_STRING.sub(r"\\u007b", json.dumps(value, indent=indent))


def key_placeholder() -> str:
    """Return a random word that no foreign string holds."""
    return f"key-{uuid.uuid4().hex}"


def permission_rules(request: PromptRequest) -> dict[str, Any]:
    """Return opencode's permission rules; a later rule wins over an earlier one.

    Nothing can be asked of anybody, so "ask" means "deny" and the question tool is denied.

    Raises:
        ConfigurationError: Rules of a wrong shape, or for built-in tools that are switched off.
    """
    asked = request.permission
    rules: Mapping[str, Any] = {"*": asked} if isinstance(asked, str) else asked or {}
    base: dict[str, Any] = {} if "*" in rules else {"*": "allow"}
    if not request.builtin_tools:
        names = [tool_prefix(server.name) for server in request.tools]
        base = {"*": "deny"} | {f"{name}*": "allow" for name in names}
        foreign = [rule for rule in rules if not any(rule.startswith(name) for name in names)]
        if foreign:
            raise ConfigurationError(
                raw_message=f"permission names {foreign[0]!r}, but builtin_tools is False"
            )
    merged: dict[str, Any] = {}
    for name, rule in (base | dict(rules)).items():
        merged[name] = _rule(name, rule)
        if name == "*" and request.builtin_tools and OUTSIDE not in rules:
            # Whatever "*" says: outside of the folder only what is allowed by its own name.
            merged[OUTSIDE] = "deny"
    merged.pop("question", None)
    return merged | {"question": "deny"}


def rule_list(rules: Mapping[str, Any], *, outputs: Path | None = None) -> list[dict[str, str]]:
    """Write permission rules as a session's ruleset; as there, a later one wins.

    Args:
        rules: From `permission_rules`.
        outputs: The folder in which opencode keeps tool outputs that it has cut. By itself it lets
            an agent read them after what the config says, but not after what a session says.

    Returns:
        Dicts of `permission`, `pattern` and `action`, in the order of the rules.
    """
    flat = [
        {"permission": name, "pattern": pattern, "action": action}
        for name, rule in rules.items()
        for pattern, action in (rule if isinstance(rule, Mapping) else {"*": rule}).items()
    ]
    if outputs is not None:
        pattern = str(outputs / "*")
        flat.append({"permission": OUTSIDE, "pattern": pattern, "action": "allow"})
    return flat


def holds_for_sub_agents(rules: Mapping[str, Any]) -> bool:
    """Tell whether sub-agents of a session with these rules may do what the session may.

    opencode hands on the denials and what is said of folders outside, but nothing else (seen): of
    `{"*": "deny", "read": "allow"}` a sub-agent gets "nothing is allowed". Rules in the config hold
    for all alike.

    Args:
        rules: From `permission_rules`.
    """
    flat = rule_list(rules)
    about_task = [rule for rule in flat if fnmatchcase("task", rule["permission"])]
    if about_task and (about_task[-1]["pattern"], about_task[-1]["action"]) == ("*", "deny"):
        return True  # there will be none
    first = {"permission": "*", "pattern": "*", "action": "allow"}
    later = flat[1:] if flat[:1] == [first] else flat
    return all(rule["action"] == "deny" or rule["permission"] == OUTSIDE for rule in later)


def _rule(name: str, rule: Any) -> Any:
    if isinstance(rule, Mapping):
        return {pattern: _action(f"{name}.{pattern}", action) for pattern, action in rule.items()}
    return _action(name, rule)


def _action(name: str, rule: Any) -> str:
    if rule not in ("allow", "ask", "deny"):
        raise ConfigurationError(
            raw_message=f"permission {name!r} must be allow, ask or deny, not {rule!r}"
        )
    return "allow" if rule == "allow" else "deny"


def tool_prefix(server: str) -> str:
    """Return the beginning of the names under which the model sees a server's tools."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", server) + "_"


def checked_tools(tools: Sequence[McpServer]) -> Sequence[McpServer]:
    """Return the tool servers, or refuse names that opencode could not tell apart.

    Raises:
        ConfigurationError: A bad or doubled name, not exactly one of URL and command, or no time.
    """
    seen: set[str] = set()
    for server in tools:
        problem = _tool_problem(server, seen)
        if problem:
            raise ConfigurationError(raw_message=f"tool server {server.name!r} {problem}")
        seen.add(tool_prefix(server.name))
    return tools


def _tool_problem(server: McpServer, seen: set[str]) -> str | None:
    if not _TOOL_NAME.fullmatch(server.name):
        return "needs a name of 1-64 letters, digits, dots, dashes and underscores"
    if tool_prefix(server.name) in seen:
        return "is there twice"
    if bool(server.url) == bool(server.command):
        return "needs either url= or command="
    command: object = server.command or ()
    if not isinstance(command, list | tuple) or not _all_text(command):
        return "needs command= as a list of strings: program and arguments"
    if not _all_text([server.url or ""]):
        return "needs url= as a string"
    if not _all_text([*server.headers.values(), *server.environment.values()]):
        return "needs headers= and environment= with strings as values"
    if not (_is_number(server.timeout_seconds) and 0 < server.timeout_seconds < math.inf):
        return f"needs a timeout_seconds above 0, not {server.timeout_seconds!r}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_text(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def tool_server_entry(server: McpServer) -> dict[str, Any]:
    """Return a tool server as opencode's config and its `POST /mcp` know it."""
    milliseconds = int(server.timeout_seconds * 1000)
    if server.url:
        shape: dict[str, Any] = {"type": "remote", "url": server.url}
        extra = {"headers": dict(server.headers), "oauth": False}
    else:
        shape = {"type": "local", "command": list(server.command or ())}
        extra = {"environment": dict(server.environment)}
    return shape | extra | {"enabled": True, "timeout": milliseconds}


def _agent(system_message: str | None) -> dict[str, Any]:
    agent: dict[str, Any] = {"mode": "primary"}
    return agent if system_message is None else agent | {"prompt": system_message}


def _provider(request: PromptRequest, target: Target, key: str, *, patient: bool) -> dict[str, Any]:
    provider = target.provider
    entries = {model.id: model_entry(model, local=provider.local) for model in target.models}
    # By any of its spellings (`id:latency`, an old name, a list): its limits and modalities hold.
    entry = model_entry(_asked_model(request.model, target), local=provider.local)
    if request.params.max_tokens is not None:
        entry["limit"]["output"] = request.params.max_tokens
    options = {} if provider.wire == "native" else body_options(request.params)
    entries[request.model] = entry | ({"options": options} if options else {})
    return {
        "npm": provider.npm,
        "name": provider.name,
        "options": {"baseURL": target.base_url, "apiKey": key} | (_PATIENCE if patient else {}),
        "models": entries,
    }


def _asked_model(asked: str, target: Target) -> Model:
    provider = target.provider
    found = find(asked, target.models, provider_id=provider.id, quirks=provider.quirks)
    return replace(found, id=asked) if found else Model(asked)


def output_limit(request: PromptRequest, target: Target) -> int:
    """Return how many output tokens a request asks for at most."""
    asked = _asked_model(request.model, target)
    return request.params.max_tokens or output_length(asked, local=target.provider.local)


def output_ceiling(request: PromptRequest, target: Target) -> int:
    """Return the largest output limit in the config: opencode's own ceiling is lifted to it."""
    local = target.provider.local
    limits = [output_length(model, local=local) for model in target.models]
    return max(*limits, request.params.max_tokens or 0, DEFAULT_OUTPUT_LENGTH)


def body_options(params: Params) -> dict[str, Any]:
    """Return the model options that opencode puts into the request body as they are.

    `max_tokens` is not among them: it is the model's output limit in the config.

    Raises:
        ConfigurationError: `extra_body` holds what opencode sets.
        InvalidRequestError: `extra_body` is no JSON.
    """
    extra = dict(params.extra_body or {})
    reserved = sorted(RESERVED_BODY_KEYS & extra.keys())
    if reserved:
        raise ConfigurationError(
            raw_message=f"extra_body may not hold {', '.join(reserved)}: opencode sets it"
        )
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(raw_message=f"extra_body is no JSON: {error}") from error
    stop = list(params.stop) if isinstance(params.stop, tuple | list) else params.stop
    named = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stop": stop,
        "seed": params.seed,
        "reasoningEffort": params.reasoning_effort,
    }
    return {name: value for name, value in named.items() if value is not None} | extra


def body_values(params: Params) -> dict[str, Any]:
    """Return the same options under the names that they have in the request body.

    Raises:
        OpenCodeError: As `body_options`.
    """
    return {_RENAMED.get(name, name): value for name, value in body_options(params).items()}


def caller_keys(request: PromptRequest) -> frozenset[str] | None:
    """Return the keys of a request body that the caller has set, for whoever drops all others.

    For some model names opencode adds values of its own: temperature, top_p and top_k for Kimi,
    GLM, Gemini and MiniMax, reasoning_effort for GPT-5 (seen).

    Returns:
        The keys as they stand in the body; None: leave the body as it is, since the caller has
        asked for a `--variant` and only opencode knows what that is.
    """
    if any(word == "--variant" or word.startswith("--variant=") for word in request.extra_cli_args):
        return None
    return frozenset(body_values(request.params))
