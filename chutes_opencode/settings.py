"""Settings: the only reader of the environment.

`load_settings` merges its sources field by field; the first that has a value wins:

1. arguments,
2. environment: `CHUTES_API_TOKEN`, `CHUTES_API_KEY`, `CHUTES_API_TOKEN_FILE`, `CHUTES_BASE_URL`,
   `OPENCODE_BIN`, and `CHUTES_OPENCODE_<FIELD>` for every field; an empty variable is unset,
3. the project's `chutes-opencode.toml` in the current folder,
4. the user's `config.toml` in the platform's config folder (`~/.config/chutes-opencode` on Linux;
   `CHUTES_OPENCODE_HOME` does not move it),
5. the key, and only the key, that OpenCode itself has stored for Chutes; never sent to another
   host than Chutes or this machine,
6. defaults.

Files take the field names as they are or in camelCase, and `api_token_file`, the path of a file
that holds the key. Relative paths in a file start at that file's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from chutes_opencode.addresses import is_loopback, normalise_url, same_host, server_root
from chutes_opencode.child_environment import child_environment
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.masking import register_secret
from chutes_opencode.settings_sources import (
    Layer,
    argument_layer,
    environment_layer,
    file_layer,
    platform_folder,
    stored_token,
    with_token_read,
)

APP = "chutes-opencode"
CHUTES_URL = "https://llm.chutes.ai/v1"
CHUTES_MANAGEMENT_URL = "https://api.chutes.ai"
MIN_TOKEN_LENGTH = 8


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _wildcards(value: object) -> object:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _url(value: object) -> object:
    return normalise_url(value) if isinstance(value, str) else value


def _stripped_secret(value: object) -> object:
    secret = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (secret.strip() or None) if isinstance(secret, str) else value


Url = Annotated[str, BeforeValidator(_url)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Interval = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Text = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]
Token = Annotated[SecretStr | None, BeforeValidator(_stripped_secret)]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


class Settings(BaseModel):
    """Everything that can be set outside a call; made by `load_settings`.

    A pickle carries no key: see `with_fresh_token`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True
    )

    api_token: Token = Field(None, description="The key; sent to `base_url` only.")
    base_url: Url = Field(CHUTES_URL, description="Root of the OpenAI-shaped inference API.")
    management_url: Url | None = Field(
        None, description="Root of the API that knows the account; None: there is none."
    )
    opencode_bin: Path | None = Field(
        None, description="The opencode binary; None: the one on PATH or the installed one."
    )
    home: Path = Field(description="Root of the cache, state, sessions and installed opencode.")
    temp_dir: Path = Field(description="Folder in which each run makes its private workspace.")
    default_model: Text = Field(None, description="The model of calls that name none.")
    model_filter: Annotated[tuple[str, ...], BeforeValidator(_wildcards)] = Field(
        (), description="Wildcards of the model ids to offer; empty: all."
    )
    auto_refresh: bool = Field(True, description="Fetch the model list again when it is old.")
    refresh_interval: Interval = Field(3600.0, description="Age in seconds at which it is old.")
    timeout_seconds: Seconds = Field(600.0, description="What one attempt may take, in seconds.")
    deadline_seconds: Seconds | None = Field(
        None, description="What a whole call may take, waits included, in seconds; None: no end."
    )
    retries: Count = Field(3, description="Attempts in all for one model step.")
    max_processes: Count = Field(
        default_factory=lambda: max(2, os.cpu_count() or 1),
        description="How many cold opencode processes may run at once.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Lower] = Field(
        "warning", description="Least severe log line that is written."
    )
    log_format: Annotated[Literal["console", "json"], Lower] = Field(
        "console", description="Form of the log lines on stderr."
    )
    sources: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Where each field's value comes from."
    )

    def model_post_init(self, _context: object) -> None:
        """Have the key masked wherever text of this process is shown."""
        if self.api_token is not None:
            register_secret(self.api_token.get_secret_value())

    def __getstate__(self) -> dict[Any, Any]:
        """Leave the key out of pickles."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "api_token": None}}

    @property
    def is_chutes(self) -> bool:
        """Whether `base_url` is Chutes itself (`*.chutes.ai` hosts run code of anybody)."""
        return same_host(self.base_url, CHUTES_URL)

    @property
    def is_loopback(self) -> bool:
        """Whether `base_url` is on this machine."""
        return is_loopback(self.base_url)

    def require_token(self) -> str:
        """Return the key.

        Raises:
            AuthenticationError: There is none, or it cannot be one; the message never shows it.
        """
        if self.api_token is None:
            raise AuthenticationError(raw_message="no Chutes API key is set")
        token = self.api_token.get_secret_value()
        flaw = token_flaw(token)
        if flaw:
            source = self.sources.get("api_token", "argument")
            raise AuthenticationError(raw_message=f"the API key from {source} {flaw}")
        return token

    def overridden(self, **values: Any) -> Settings:
        """Return these settings with some fields set by an argument.

        Raises:
            ConfigurationError: A value that cannot be.
        """
        kept = {name: (getattr(self, name), self.sources.get(name, "argument")) for name in FIELDS}
        if "base_url" in values:
            del kept["management_url"]  # it belonged to the old one
        given = {name: (value, "argument") for name, value in values.items()}
        settings = _with_management_url(_validated(kept | given))
        _refuse_leaks(settings)
        return settings

    def with_fresh_token(
        self, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Self:
        """Return these settings with the key read anew: keys rotate, and pickles carry none.

        A key that was an argument stays, but for a pickle, which has lost it.
        """
        if self.api_token is not None and self.sources.get("api_token", "argument") == "argument":
            return self
        fresh = load_settings(environ=environ, cwd=cwd, base_url=self.base_url)
        source = fresh.sources["api_token"]
        update = {"api_token": fresh.api_token, "sources": {**self.sources, "api_token": source}}
        return self.model_copy(update=update)


FIELDS = tuple(name for name in Settings.model_fields if name != "sources")
"""The names of all settings, in the order in which they are shown."""


def token_flaw(token: str) -> str:
    """Tell what makes `token` impossible as a key, without showing it; empty: nothing."""
    if re.search(r"\s", token):
        return "has white space inside"
    if not token.isascii():
        return "has characters that are not ASCII"
    if not token.isprintable():
        return "has control characters"
    if len(token) < MIN_TOKEN_LENGTH:
        return f"is shorter than {MIN_TOKEN_LENGTH} characters"
    return ""


def load_settings(
    *, environ: Mapping[str, str] | None = None, cwd: Path | None = None, **overrides: Any
) -> Settings:
    """Merge all sources; the module's docstring has their order.

    Args:
        environ: The environment; None: this process's.
        cwd: Where the project file is looked for; None: the current folder.
        overrides: Fields of `Settings`; None leaves a field to the other sources.

    Raises:
        ConfigurationError: Names the source (file and line), the field and what is wrong with it.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    layers = (
        argument_layer(overrides, FIELDS, environ, cwd),
        environment_layer(FIELDS, environ, cwd),
        file_layer(project_file(cwd), FIELDS, environ),
        file_layer(user_file(environ), FIELDS, environ),
    )
    merged = _default_layer(environ)
    for layer in reversed(layers):
        merged.update(layer)
    settings = _with_stored_token(_with_management_url(_validated(merged)), environ)
    _refuse_leaks(settings)
    return settings


def check_file(path: Path, *, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Check one settings file by itself.

    Returns:
        The fields that it sets.

    Raises:
        ConfigurationError: As `load_settings` does; also when there is no such file.
    """
    environ = os.environ if environ is None else environ
    if not path.exists():
        raise ConfigurationError(raw_message=f"{path}: no such file")
    layer = file_layer(path, FIELDS, environ)
    _validated(_default_layer(environ) | layer)
    return tuple(layer)


def stored_in_file(path: Path, *, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the key that a settings file holds by itself, None if it has none.

    Raises:
        ConfigurationError: The file cannot be read or is malformed.
    """
    layer = file_layer(path, FIELDS, os.environ if environ is None else environ)
    value = layer.get("api_token", (None, ""))[0]
    return value.strip() if isinstance(value, str) else None


def project_file(cwd: Path | None = None) -> Path:
    """Return where the project's settings file is or would be."""
    return (cwd or Path.cwd()) / f"{APP}.toml"


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the user's settings file is or would be."""
    environ = os.environ if environ is None else environ
    return platform_folder(environ, "XDG_CONFIG_HOME", ".config") / APP / "config.toml"


def _default_layer(environ: Mapping[str, str]) -> Layer:
    temp_dir = environ.get("TMPDIR") or "/tmp"
    source = "environment TMPDIR" if environ.get("TMPDIR") else "default"
    return {
        "home": (platform_folder(environ, "XDG_DATA_HOME", ".local/share") / APP, "default"),
        "temp_dir": (Path(temp_dir).absolute(), source),
    }


def _with_stored_token(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fill in the key of opencode's own store, unless there is one or it is not for that host."""
    if settings.api_token is not None or not (settings.is_chutes or settings.is_loopback):
        return settings
    key, path = stored_token(environ)
    return _with(settings, "api_token", SecretStr(key), str(path)) if key else settings


def _with_management_url(settings: Settings) -> Settings:
    """Fill in the management API that belongs to `base_url`."""
    if settings.management_url is not None:
        return settings
    if settings.is_chutes:
        return _with(settings, "management_url", CHUTES_MANAGEMENT_URL, "default")
    if settings.is_loopback:
        root = server_root(settings.base_url)
        return _with(settings, "management_url", root, "default (from base_url)")
    return settings


def _with(settings: Settings, name: str, value: object, source: str) -> Settings:
    update = {name: value, "sources": {**settings.sources, name: source}}
    changed = settings.model_copy(update=update)
    changed.model_post_init(None)
    return changed


def _refuse_leaks(settings: Settings) -> None:
    """Refuse addresses that would show the key to the network or to a stranger."""
    base, management = settings.base_url, settings.management_url
    for name, url in (("base_url", base), ("management_url", management)):
        exposed = url is not None and url.startswith("http:") and not is_loopback(url)
        if exposed and settings.api_token is not None:
            reason = f"{url} would send the key unencrypted"
            raise ConfigurationError(
                raw_message=f"{settings.sources[name]}: {name}: {reason}",
                hint="Use https://, or http:// to 127.0.0.1 only.",
            )
    if management is None or (settings.is_loopback and is_loopback(management)):
        return
    if not same_host(management, CHUTES_MANAGEMENT_URL if settings.is_chutes else base):
        where = settings.sources["management_url"]
        raise ConfigurationError(
            raw_message=f"{where}: management_url: {management} does not belong to {base}",
            hint="Leave management_url out: it follows base_url.",
        )


def _validated(layer: Layer) -> Settings:
    layer = with_token_read(layer)
    sources = {name: layer[name][1] if name in layer else "default" for name in FIELDS}
    values = {name: value for name, (value, _) in layer.items()}
    try:
        return Settings(**values, sources=sources)
    except ValidationError as error:
        raise ConfigurationError(raw_message=_reason(error, values, sources)) from None


def _reason(error: ValidationError, values: dict[str, Any], sources: dict[str, str]) -> str:
    reasons = []
    for flaw in error.errors(include_url=False, include_context=False):
        name = str(flaw["loc"][0])
        text = re.sub(r"^(Input |Value error, )", "", flaw["msg"])
        secret = name == "api_token" or "@" in str(values[name])
        shown = "" if secret else f" (it is {values[name]!r:.80})"
        reasons.append(f"{sources[name]}: {name}: {text}{shown}")
    return "; ".join(reasons)


def inherited_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what of the caller's environment an opencode process may have.

    See `child_environment`; no key, none of our settings and no `OPENCODE_*` is part of it.
    """
    return child_environment(os.environ if environ is None else environ)


def installer_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for npm: the caller's (registry, proxy, cache) without our keys."""
    environ = os.environ if environ is None else environ
    return {k: v for k, v in environ.items() if not k.startswith(("CHUTES_", "OPENCODE_"))}
