"""A key must not be where Ray shows it: in runtime environments and in arguments of tasks.

Whoever may look at the dashboard sees a job's `runtime_env`, and Ray writes it into its logs. So a
key in it is refused, on the driver before anything is sent and on the worker for what a driver of
another program has set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from chutes_opencode.credentials import CHUTES, Endpoint
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.failures import one_line
from chutes_opencode.errors import ConfigurationError, OpenCodeError
from chutes_opencode.masking import MIN_SECRET_LENGTH, mask
from chutes_opencode.settings import Settings, ray_environment
from chutes_opencode.settings_sources import ENVIRONMENT_NAMES, ENVIRONMENT_PREFIX

# In it Ray tells the program of a job, in JSON, what the job was sent with.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
WORKER_KEY_HINT = (
    "Set CHUTES_API_TOKEN, or CHUTES_API_TOKEN_FILE for a mounted secret, in the environment in "
    "which Ray is started on the workers' machines; the driver's key is never sent to them."
)


def key_names(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the environment variables that hold a key: Chutes' and the provider's.

    Args:
        endpoint: The provider.
    """
    ours = (*ENVIRONMENT_NAMES["api_token"], f"{ENVIRONMENT_PREFIX}API_TOKEN")
    return tuple(dict.fromkeys((*CHUTES.key_env, *ours, *endpoint.key_env)))


def key_of(settings: Settings) -> str | None:
    """Return the key that the settings have now, None if there is none that could leak."""
    try:
        key = settings.with_fresh_token().key_or_none()
    except OpenCodeError:  # no key here; the worker has its own
        return None
    return key if key is not None and len(key) >= MIN_SECRET_LENGTH else None


def job_environment() -> Mapping[str, Any]:
    """Return the `runtime_env` of this process's job; it is told before it has connected, too."""
    if ray.is_initialized():
        connected: Mapping[str, Any] = ray.get_runtime_context().runtime_env
        return connected
    told = ray_environment().get(JOB)
    return json.loads(told).get("runtime_env") or {} if told else {}


def refuse_keys(runtime_env: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse a runtime environment that holds a key.

    Args:
        runtime_env: Ray's, of a job, a task or an actor.
        names: The variables that would hold one.

    Raises:
        ConfigurationError: Names the place; never shows the key.
    """
    variables = runtime_env.get("env_vars") or {}
    named = [name for name in names if str(variables.get(name, "")).strip()]
    shown = [place for place, text in _texts(runtime_env) if mask(text) != text]
    if named or shown:
        place = f"env_vars.{named[0]}" if named else mask(shown[0])
        raise ConfigurationError(
            raw_message=f"runtime_env holds a key ({place}): Ray's dashboard and logs show it",
            hint=WORKER_KEY_HINT,
        )


def pack(value: Any, key: str | None) -> bytes:
    """Return what is sent for a value.

    Args:
        value: An instance, or a prompt and its arguments.
        key: The driver's, which must not be in it; None: it has none.

    Raises:
        ConfigurationError: It is, or something in it cannot leave this process.
    """
    dumps: Any = ray.cloudpickle.dumps
    try:
        packed: bytes = dumps(value)
    except Exception as error:
        raise ConfigurationError(
            raw_message=f"an argument cannot be sent to a worker: {one_line(error)}",
            hint="Pass plain values: texts, numbers, lists, dicts, paths; make the rest there.",
        ) from error
    refuse_key_in(packed, key)
    return packed


def refuse_key_in(arguments: bytes, key: str | None) -> None:
    """Refuse arguments that hold the key: they go through the object store and its spilled files.

    Args:
        arguments: As they are sent.
        key: The driver's; None: it has none.

    Raises:
        ConfigurationError: They do.
    """
    if key is not None and key.encode() in arguments:
        raise ConfigurationError(
            raw_message="the API key stands in an argument of the prompt or the instance (env=?)",
            hint=WORKER_KEY_HINT,
        )


def _texts(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a tree, keys too, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = f"{place}.{key}" if place else str(key)
            yield inner, str(key)
            yield from _texts(item, inner)
    elif isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            yield from _texts(item, f"{place}[{number}]")
