"""What each source of settings says: arguments, environment, files.

Everything is given as an argument; who asks in which order is `settings.load_settings`' matter.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.toml_file import read_toml, snake_case

APP = "chutes-opencode"

Layer = dict[str, tuple[Any, str]]
"""What one source says: field -> (value, where it stands)."""

TOKEN_FILE = "api_token_file"
"""Accepted beside the fields: the path of a file that holds `api_token`."""

PATH_FIELDS = ("opencode_bin", "home", "temp_dir", "providers_file", TOKEN_FILE)
MAX_TOKEN_FILE_BYTES = 1 << 16

ENVIRONMENT_PREFIX = "CHUTES_OPENCODE_"
# Fields with names of their own in the environment, strongest first.
ENVIRONMENT_NAMES = {
    "api_token": ("CHUTES_API_TOKEN", "CHUTES_API_KEY"),
    TOKEN_FILE: ("CHUTES_API_TOKEN_FILE",),
    "base_url": ("CHUTES_BASE_URL",),
    "opencode_bin": ("OPENCODE_BIN",),
}


def user_home(environ: Mapping[str, str]) -> Path:
    """Return the user's home folder."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        raise ConfigurationError(
            raw_message="this user has no home folder", hint="Set HOME to a folder of yours."
        ) from error


def platform_folder(environ: Mapping[str, str], variable: str, linux: str) -> Path:
    """Return the folder that platformdirs names, but for the given environment."""
    if environ.get(variable):
        return Path(environ[variable])
    macos = "Library/Application Support"
    return user_home(environ) / (macos if sys.platform == "darwin" else linux)


def default_layer(environ: Mapping[str, str]) -> Layer:
    """Return the defaults that depend on the machine."""
    temp_dir = environ.get("TMPDIR") or "/tmp"
    source = "environment TMPDIR" if environ.get("TMPDIR") else "default"
    return {
        "home": (platform_folder(environ, "XDG_DATA_HOME", ".local/share") / APP, "default"),
        "temp_dir": (Path(temp_dir).absolute(), source),
    }


def argument_layer(
    overrides: Mapping[str, Any], fields: Sequence[str], environ: Mapping[str, str], cwd: Path
) -> Layer:
    """Read the keyword arguments of `load_settings`; None says nothing."""
    layer: Layer = {}
    for name, value in overrides.items():
        if name not in (*fields, TOKEN_FILE):
            raise ConfigurationError(raw_message=f"argument {name}: {_unknown(name, fields)}")
        if value is not None:
            layer[name] = (_absolute(name, value, cwd, environ), "argument")
    return _with_token_file(layer)


def environment_layer(fields: Sequence[str], environ: Mapping[str, str], cwd: Path) -> Layer:
    """Read the environment; an empty variable says nothing."""
    layer: Layer = {}
    for field in (*fields, TOKEN_FILE):
        for name in (*ENVIRONMENT_NAMES.get(field, ()), ENVIRONMENT_PREFIX + field.upper()):
            if environ.get(name, "").strip():
                value = _absolute(field, environ[name], cwd, environ)
                layer[field] = (value, f"environment {name}")
                break
    return _with_token_file(layer)


def file_layer(path: Path, fields: Sequence[str], environ: Mapping[str, str]) -> Layer:
    """Read a settings file; one that does not exist says nothing."""
    layer: Layer = {}
    try:
        file = read_toml(path)
    except FileNotFoundError:
        return layer
    for key, value in file.values.items():
        where = file.place(key)
        name = snake_case(key)
        if name not in (*fields, TOKEN_FILE):
            raise ConfigurationError(raw_message=f"{where}: {key}: {_unknown(name, fields)}")
        if name in layer:
            raise ConfigurationError(raw_message=f"{where}: {key}: set twice in this file")
        layer[name] = (_absolute(name, value, path.absolute().parent, environ), where)
    return _with_token_file(layer)


def _unknown(name: str, fields: Sequence[str]) -> str:
    import difflib  # only for this message

    near = difflib.get_close_matches(name, fields, n=1)
    return "unknown setting" + (f"; did you mean {near[0]}?" if near else "")


def _absolute(name: str, value: Any, base: Path, environ: Mapping[str, str]) -> Any:
    if name not in PATH_FIELDS or not isinstance(value, str | Path):
        return value
    text = str(value)
    if text == "~" or text.startswith("~/"):
        return user_home(environ) / text[2:]
    return base.absolute() / text


def _with_token_file(layer: Layer) -> Layer:
    """Let a layer's `api_token_file` stand for its key, as a path; a key beside it wins."""
    path, source = layer.pop(TOKEN_FILE, (None, ""))
    if path is not None and not isinstance(path, Path):
        raise ConfigurationError(raw_message=f"{source}: {TOKEN_FILE}: should be a path")
    return layer if path is None else {"api_token": (path, source)} | layer


def with_token_read(layer: Layer) -> Layer:
    """Replace a key that is given as a path by what is in that file."""
    path, source = layer.get("api_token", (None, ""))
    if not isinstance(path, Path):
        return layer
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_FILE_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:
        reason = f"{TOKEN_FILE}: {path}: {getattr(error, 'strerror', error)}"
        raise ConfigurationError(raw_message=f"{source}: {reason}") from None
    return layer | {"api_token": (token, f"{source} ({path})")}
