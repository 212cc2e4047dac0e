"""Settings: the only reader of the environment.

`load_settings` merges its sources field by field; the first that has a value wins:

1. arguments,
2. environment: `CHUTES_API_TOKEN`, `CHUTES_API_KEY`, `CHUTES_API_TOKEN_FILE`, `CHUTES_BASE_URL`,
   `OPENCODE_BIN`, and `CHUTES_OPENCODE_<FIELD>` for every field; an empty variable is unset,
3. the project's `chutes-opencode.toml` in the current folder,
4. the user's `config.toml` in the platform's config folder (`~/.config/chutes-opencode` on Linux;
   `CHUTES_OPENCODE_HOME` does not move it),
5. the key, and only the key, that OpenCode itself has stored for the provider; never sent to
   another host than the provider's or this machine,
6. defaults.

That is for Chutes. `Settings.for_provider` gives those of another provider: its URL and key come
from its own entry and variables, and a key of Chutes never goes there.

Files take the field names as they are or in camelCase, and `api_token_file`, the path of a file
that holds the key. Relative paths in a file start at that file's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError

from chutes_opencode.addresses import is_loopback, same_host, server_root
from chutes_opencode.child_environment import child_environment, without_keys
from chutes_opencode.credentials import (
    BUILT_IN,
    CHUTES,
    CHUTES_MANAGEMENT_URL,
    CHUTES_URL,
    Endpoint,
    Url,
    checked_token,
    endpoint_layer,
    is_still_in,
    is_stored,
    missing_url,
    refuse_leaks,
    stored_token,
)
from chutes_opencode.engine_settings import EngineSettings
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import register_secret
from chutes_opencode.settings_fields import (
    Interval,
    Lower,
    Text,
    Token,
    Words,
    describe_flaws,
)
from chutes_opencode.settings_sources import (
    APP,
    Layer,
    argument_layer,
    default_layer,
    environment_layer,
    file_layer,
    platform_folder,
    with_token_read,
)


class Settings(EngineSettings):
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
    model_filter: Words = Field((), description="Wildcards of the model ids to offer; empty: all.")
    extra_models: Words = Field(
        (), description="Names that are models though no list has them, such as saved aliases."
    )
    providers_file: Path | None = Field(
        None, description="The file that adds providers; None: the user's and the project's."
    )
    auto_refresh: bool = Field(True, description="Fetch the model list again when it is old.")
    refresh_interval: Interval = Field(3600.0, description="Age in seconds at which it is old.")
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Lower] = Field(
        "warning", description="Least severe log line that is written."
    )
    log_format: Annotated[Literal["console", "json"], Lower] = Field(
        "console", description="Form of the log lines on stderr."
    )
    sources: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Where each field's value comes from."
    )
    endpoint: Endpoint = Field(
        CHUTES, exclude=True, repr=False, description="Whose URL and key these are."
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

    def key_or_none(self) -> str | None:
        """Return the key, None if there is none and none is needed.

        Raises:
            AuthenticationError: There is none, or it cannot be one; the message never shows it.
        """
        token = None if self.api_token is None else self.api_token.get_secret_value()
        return checked_token(token, self.endpoint, self._source("api_token"))

    def require_token(self) -> str:
        """Return the key, "" if there is none and none is needed.

        Raises:
            AuthenticationError: As `key_or_none` does.
        """
        return self.key_or_none() or ""

    def overridden(self, **values: Any) -> Settings:
        """Return these settings with some fields set by an argument.

        Raises:
            ConfigurationError: A value that cannot be.
        """
        kept = self._layer()
        if "base_url" in values:
            kept.pop("management_url")  # it belonged to the old one
            if is_stored(kept["api_token"][1]):
                kept.pop("api_token")  # so did opencode's own key
        given = {name: (value, "argument") for name, value in values.items()}
        return _refusing_leaks(_with_management_url(_validated(kept | given, self.endpoint)))

    def for_provider(
        self,
        provider: Endpoint,
        *,
        base_url: str | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Settings:
        """Return these settings with the URL and key of a provider.

        What was an argument stays; the rest is looked for in the provider's own variables, in its
        entry and (the key) in opencode's store. Of the same provider, what is set stays.

        Args:
            provider: Its entry in the registry.
            base_url: Its URL, as an argument.
            environ: The environment; None: this process's.
            cwd: Where the project file is looked for; None: the current folder.

        Raises:
            ConfigurationError: It has no URL, or the key would be shown to the network.
        """
        environ = os.environ if environ is None else environ
        said = self._said()
        if provider.id != self.endpoint.id:
            said = {name: given for name, given in said.items() if given[1] == "argument"}
            if provider.id == CHUTES.id:
                said = load_settings(environ=environ, cwd=cwd)._said() | said
        if base_url is not None:
            said = said | {"base_url": (base_url, "argument")}
            said.pop("management_url", None)  # it belonged to the old one
        others = {name: given for name, given in self._layer().items() if name not in OWN_FIELDS}
        return _completed(others | endpoint_layer(provider, environ) | said, provider, environ)

    def provider_files(
        self, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> tuple[Path, ...]:
        """Return the files that add providers, the weakest first; those that are there."""
        if self.providers_file is not None:
            return (self.providers_file,)
        usual = (user_file(environ).with_name("providers.toml"), project_providers_file(cwd))
        return tuple(path for path in usual if path.exists())

    def with_fresh_token(
        self, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Self:
        """Return these settings with the key read anew: keys rotate, and pickles carry none.

        A key that was an argument stays, but for a pickle, which has lost it.
        """
        if self.api_token is not None and self._source("api_token") == "argument":
            return self
        environ = os.environ if environ is None else environ
        if is_still_in(environ, self.endpoint, self.api_token, self._source("api_token")):
            return self
        fresh: Settings = self.model_copy(update={"api_token": None})
        if self.endpoint.id == CHUTES.id:
            fresh = load_settings(environ=environ, cwd=cwd, base_url=self.base_url)
        fresh = fresh.for_provider(self.endpoint, base_url=self.base_url, environ=environ, cwd=cwd)
        source = fresh.sources["api_token"]
        update = {"api_token": fresh.api_token, "sources": {**self.sources, "api_token": source}}
        return self.model_copy(update=update)

    def _layer(self) -> Layer:
        return {name: (getattr(self, name), self._source(name)) for name in FIELDS}

    def _source(self, name: str) -> str:
        return self.sources.get(name, "argument" if name in self.model_fields_set else "default")

    def _said(self) -> Layer:
        """Return the provider's own fields, but for those that follow from its entry."""
        follows = ("default", FROM_BASE_URL, self.endpoint.source)
        return {
            name: (value, source)
            for name, (value, source) in self._layer().items()
            if name in OWN_FIELDS and value is not None
            if source not in follows and not is_stored(source)
        }


FIELDS = tuple(
    name
    for own in (True, False)
    for name in Settings.model_fields
    if name not in ("sources", "endpoint") and (name in EngineSettings.model_fields) is not own
)
"""The names of all settings, in the order in which they are shown."""

OWN_FIELDS = ("api_token", "base_url", "management_url")
"""The fields that belong to one provider."""

FROM_BASE_URL = "default (from base_url)"


def load_settings(
    *, environ: Mapping[str, str] | None = None, cwd: Path | None = None, **overrides: Any
) -> Settings:
    """Merge all sources; the module's docstring has their order.

    Args:
        environ: The environment; None: this process's.
        cwd: Where the project file is; None: the current folder.
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
    merged = default_layer(environ)
    for layer in reversed(layers):
        merged.update(layer)
    return _completed(merged, CHUTES, environ)


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
    _validated(default_layer(environ) | layer, CHUTES)
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


def project_providers_file(cwd: Path | None = None) -> Path:
    """Return where the project's file of providers is or would be."""
    return (cwd or Path.cwd()) / f"{APP}-providers.toml"


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the user's settings file is or would be."""
    environ = os.environ if environ is None else environ
    return platform_folder(environ, "XDG_CONFIG_HOME", ".config") / APP / "config.toml"


def _completed(layer: Layer, endpoint: Endpoint, environ: Mapping[str, str]) -> Settings:
    """Return the settings that a layer makes, with what follows from the endpoint filled in."""
    if "base_url" not in layer:
        if endpoint.base_url is None:
            raise missing_url(endpoint)
        source = "default" if endpoint.source == BUILT_IN else endpoint.source
        layer = layer | {"base_url": (endpoint.base_url, source)}
    if not endpoint.has_management_api:
        layer = {name: said for name, said in layer.items() if name != "management_url"}
    settings = _with_management_url(_validated(layer, endpoint))
    return _refusing_leaks(_with_stored_token(settings, environ))


def _refusing_leaks(settings: Settings) -> Settings:
    urls = {name: getattr(settings, name) for name in ("base_url", "management_url")}
    refuse_leaks(urls, settings.sources, has_key=settings.api_token is not None)
    return settings


def _with_stored_token(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fill in the key of opencode's own store, unless there is one or it is not for that host."""
    home = settings.endpoint.base_url
    is_own = home is not None and same_host(settings.base_url, home)
    if settings.api_token is not None or not (is_own or settings.is_loopback):
        return settings
    key, path = stored_token(environ, settings.endpoint.id)
    return _with(settings, "api_token", SecretStr(key), str(path)) if key else settings


def _with_management_url(settings: Settings) -> Settings:
    """Fill in the management API that belongs to `base_url`."""
    if settings.management_url is not None or not settings.endpoint.has_management_api:
        return settings
    if settings.is_chutes:
        return _with(settings, "management_url", CHUTES_MANAGEMENT_URL, "default")
    if settings.is_loopback:
        root = server_root(settings.base_url)
        return _with(settings, "management_url", root, FROM_BASE_URL)
    return settings


def _with(settings: Settings, name: str, value: object, source: str) -> Settings:
    update = {name: value, "sources": {**settings.sources, name: source}}
    changed = settings.model_copy(update=update)
    changed.model_post_init(None)
    return changed


def _validated(layer: Layer, endpoint: Endpoint) -> Settings:
    layer = with_token_read(layer)
    sources = {name: layer[name][1] if name in layer else "default" for name in FIELDS}
    values = {name: value for name, (value, _) in layer.items()}
    try:
        return Settings(**values, sources=sources, endpoint=endpoint)
    except ValidationError as error:
        raise ConfigurationError(raw_message=describe_flaws(error, values, sources)) from None


def inherited_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what of the caller's environment opencode may have; see `child_environment`."""
    return child_environment(os.environ if environ is None else environ)


def installer_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for npm: the caller's (registry, proxy, cache) without model keys."""
    return without_keys(os.environ if environ is None else environ)


def ray_environment() -> MutableMapping[str, str]:
    """Return this process's environment: Ray reads there what it is told (`RAY_…`)."""
    return os.environ
