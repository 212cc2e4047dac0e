"""What an instance was set up with, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

from chutes_opencode.catalog.providers import Provider
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.request import Limits, McpServer, Params, Shape
from chutes_opencode.settings import Settings

ENGINES = ("auto", "run", "serve", "direct")
ISOLATIONS = ("shared", "prompt")

_NOT_OFFERED = "Leave it out: a prompt could not be run, watched or read back with it."
# Flags of `opencode run` that would switch off what keeps a run bounded and readable.
RESERVED_FLAGS = {
    "--dir": "Use work_dir=.",
    "--file": "Use files=.",
    "-f": "Use files=.",
    "--model": "Use model=.",
    "-m": "Use model=.",
    "--session": "Use session_id=.",
    "-s": "Use session_id=.",
    **dict.fromkeys(("--continue", "-c", "--fork"), "Use session_id= and keep_session=."),
    **dict.fromkeys(("--pure", "--no-pure"), "The guard plugin is what bounds the run."),
    **dict.fromkeys(
        ("--attach", "--format", "--interactive", "-i", "--log-level", "--print-logs", "--share"),
        _NOT_OFFERED,
    ),
    **dict.fromkeys(("--title", "--thinking", "--port", "--"), _NOT_OFFERED),
    **dict.fromkeys(("--command", "--password", "-p", "--username", "-u"), _NOT_OFFERED),
    "--agent": "Use agent_name=.",
    **dict.fromkeys(("--help", "-h", "--version", "-v"), _NOT_OFFERED),
}
# Larger ones JavaScript would round, so that another number would be sent.
MAX_WHOLE = 2**53 - 1

INSTANCE_SHAPES: Mapping[str, Shape] = {
    "model": ((str, NoneType), "a string"),
    "system_message": ((str, NoneType), "a string or None"),
    "provider": ((str,), "a string"),
    "base_url": ((str, NoneType), "a URL"),
    "params": ((Params, NoneType), "a Params(…)"),
    "tools": ((Iterable,), "a list of tool servers"),
    "builtin_tools": ((bool,), "True or False"),
    "permission": ((str, Mapping, NoneType), "allow, deny or a mapping of rules"),
    "work_dir": ((str, Path, NoneType), "a path"),
    "project_rules": ((bool,), "True or False"),
    "env": ((Mapping, NoneType), "a mapping of variables"),
    "agent_name": ((str,), "a string"),
    "retry_after_tools": ((bool,), "True or False"),
    "limits": ((Limits, NoneType), "a Limits(…)"),
    "context": ((bool, NoneType), "True, False or None"),
    "relay": ((bool,), "True or False"),
    "fallback_models": ((list, tuple), "a list of model ids"),
    "cache": ((str, Path, NoneType), "a folder"),
    "settings": ((Settings, NoneType), "what load_settings() returns"),
    "log_dir": ((str, Path, NoneType), "a path"),
    "logging_name": ((str,), "a string"),
    # isinstance takes the abstract class, for which mypy has no type.
    "on_event": ((Callable, NoneType), "a function"),  # type: ignore[dict-item]
    "extra_cli_args": ((list, tuple), "a list of arguments"),
}
"""What the arguments of `ChutesOpenCodeLLM` may be, where nothing else says so."""

# opencode looks an agent up in a plain object, which has these already.
_JAVASCRIPTS_OWN = frozenset(
    {"constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable"}
    | {"toLocaleString", "toString", "valueOf"}
)
_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Options:
    """The instance's values; what they mean stands at `ChutesOpenCodeLLM`."""

    model: str | None
    system_message: str | None
    provider: Provider
    engine: str = "auto"
    params: Params = field(default_factory=Params)
    tools: tuple[McpServer, ...] = ()
    builtin_tools: bool = True
    permission: Mapping[str, Any] | str | None = None
    work_dir: Path | None = None
    project_rules: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    agent_name: str = "chutes"
    retry_after_tools: bool = False
    limits: Limits = field(default_factory=Limits)
    isolation: str = "shared"
    context: bool | None = None
    extra_cli_args: tuple[str, ...] = ()
    relay: bool = True
    fallback_models: tuple[str, ...] = ()
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ConfigurationError: Names the value and what it may be.
        """
        _one_of("engine", self.engine, ENGINES)
        _one_of("isolation", self.isolation, ISOLATIONS)
        if not _AGENT_NAME.fullmatch(self.agent_name) or self.agent_name in _JAVASCRIPTS_OWN:
            raise ConfigurationError(
                raw_message=f"agent_name {self.agent_name!r} must be 1-64 letters, digits, dots, "
                "dashes, underscores or spaces, and no name of JavaScript's own"
            )
        for name, value in self.env.items():
            if not _is_variable(name, value):
                raise ConfigurationError(
                    raw_message=f"env: {name!r} cannot be an environment variable"
                )
        _check_limits(self.limits)
        _check_relay(self)
        _check_flags(self.extra_cli_args)
        if self.extra_cli_args and self.engine in ("serve", "direct"):
            raise ConfigurationError(
                raw_message=f"engine={self.engine!r} starts no `opencode run`, so there is nothing "
                "to give extra_cli_args to",
                hint='Leave extra_cli_args out, or use engine="run".',
            )


def _check_flags(arguments: Sequence[object]) -> None:
    """Refuse further arguments that are ours to set, or that would become part of the prompt."""
    before = ""
    for argument in arguments:
        if not isinstance(argument, str):
            raise ConfigurationError(
                raw_message=f"extra_cli_args may hold strings only, not {argument!r}"
            )
        flag = argument.partition("=")[0]
        if re.match(r"-[^-]", flag):
            flag = flag[:2]  # "-mx" is "-m x"
        if flag in RESERVED_FLAGS:
            raise ConfigurationError(
                raw_message=f"extra_cli_args may not hold {flag}: it is ours to set",
                hint=RESERVED_FLAGS[flag],
            )
        if not flag.startswith("-") and (not before.startswith("--") or "=" in before):
            raise ConfigurationError(
                raw_message=f"extra_cli_args may not hold {argument!r}: it is no flag",
                hint="opencode would make it a part of the prompt.",
            )
        before = argument


def _check_relay(options: Options) -> None:
    """Refuse what the chosen way to the provider cannot do, rather than ignore it."""
    if options.relay and options.provider.wire == "native":
        raise ConfigurationError(
            raw_message=f"{options.provider.name} speaks a wire of its own, which the relay does "
            "not read",
            hint='Use engine="run" or "serve" with relay=False (--no-relay).'
            if options.engine == "direct"
            else "Pass relay=False (--no-relay): opencode then talks to it itself, and a command "
            "of its agent can read the key.",
        )
    names: tuple[object, ...] = options.fallback_models
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigurationError(raw_message="fallback_models must be a list of model ids")
    limits = options.limits
    asked = {
        "cache=": options.cache is not None,
        "fallback_models=": bool(options.fallback_models),
        "limits.max_tokens": limits.max_tokens is not None,
        "limits.max_cost_usd": limits.max_cost_usd is not None,
        "limits.max_total_cost_usd": limits.max_total_cost_usd is not None,
    }
    for name, is_asked in asked.items():
        if is_asked and not options.relay:
            raise ConfigurationError(
                raw_message=f"{name} needs the relay",
                hint="Leave relay=False (--no-relay) out; limits.max_requests is enforced without "
                "it, too.",
            )


def check_params(params: Params) -> None:
    """Refuse sampling parameters that no provider takes.

    Raises:
        ConfigurationError: Names the parameter.
    """
    body: object = {} if params.extra_body is None else params.extra_body
    if not (isinstance(body, Mapping) and all(isinstance(key, str) for key in body)):
        raise ConfigurationError(raw_message="params.extra_body must be a mapping of body keys")
    for name in ("temperature", "top_p", "max_tokens", "stop", "seed", "reasoning_effort"):
        if name in body and getattr(params, name) is not None:
            raise ConfigurationError(
                raw_message=f"params.{name} is given twice: extra_body holds {name}, too",
                hint=f"Leave {name} out of extra_body.",
            )
    effort: object = params.reasoning_effort
    if effort is not None and not (isinstance(effort, str) and effort):
        raise ConfigurationError(
            raw_message=f"params.reasoning_effort must be a word, not {effort!r}"
        )
    stop: object = params.stop
    words = stop if isinstance(stop, list | tuple) else (() if stop is None else (stop,))
    if not all(isinstance(word, str) and word for word in words):
        raise ConfigurationError(
            raw_message=f"params.stop must be a string or several, not {stop!r:.80}"
        )
    for name in ("temperature", "top_p"):
        value = getattr(params, name)
        most = 1 if name == "top_p" else math.inf
        if value is not None and not (_is_number(value) and 0 <= value <= most):
            span = ">= 0" if most == math.inf else "from 0 to 1"
            raise ConfigurationError(
                raw_message=f"params.{name} must be a number {span}, not {value!r}"
            )
    for name in ("max_tokens", "seed"):
        value = getattr(params, name)
        least = 1 if name == "max_tokens" else -MAX_WHOLE
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_WHOLE
        ):
            raise ConfigurationError(
                raw_message=f"params.{name} must be a whole number, not {value!r}"
            )


def _is_variable(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name:
        return False
    try:
        return b"\0" not in (name + value).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(
            raw_message=f"{name}={value!r} is not offered; this version has: {', '.join(allowed)}"
        )


def _check_limits(limits: Limits) -> None:
    for name in ("max_requests", "max_tokens"):
        count: object = getattr(limits, name)
        whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
        if not whole and (count is not None or name == "max_requests"):
            raise ConfigurationError(raw_message=f"limits.{name} must be at least 1, not {count!r}")
    for name in ("max_cost_usd", "max_total_cost_usd"):
        usd: object = getattr(limits, name)
        if usd is not None and not (_is_number(usd) and usd >= 0):
            raise ConfigurationError(
                raw_message=f"limits.{name} must be a number of US dollars, not {usd!r}"
            )
