"""Whose key it is, where it comes from, and whether it can be one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from chutes_opencode.addresses import is_loopback, normalise_url, same_host
from chutes_opencode.child_environment import is_passed_on
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.settings_sources import Layer, user_home

CHUTES_URL = "https://llm.chutes.ai/v1"
CHUTES_MANAGEMENT_URL = "https://api.chutes.ai"
MIN_TOKEN_LENGTH = 8
STORE_NAME = "auth.json"

BUILT_IN = "built in"
"""Source of the package's own entries."""


def _url(value: object) -> object:
    return normalise_url(value) if isinstance(value, str) else value


def _variable(value: object) -> object:
    # The value is not shown: somebody may have written the key itself.
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("should be names of environment variables")
    if is_passed_on(value):
        raise ValueError(f"may not be {value}: every agent's tools are given it")
    return value


def _line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("should be one line of printable characters")
    return value


Line = Annotated[str, AfterValidator(_line)]
Url = Annotated[str, BeforeValidator(_url)]
OptionalUrl = Annotated[Url | None, BeforeValidator(lambda value: None if value == "" else value)]
Variable = Annotated[str, BeforeValidator(_variable)]


class Endpoint(BaseModel):
    """Where a provider's API is, and which key it takes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True
    )

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name in the registry, in opencode's config and in `<provider>/<model>`.",
    )
    name: Line = Field("", description="Display name.")
    base_url: OptionalUrl = Field(None, description="Root of its API; empty: one must be given.")
    base_url_env: tuple[Variable, ...] = Field(
        (), description="Environment variables that set another root, strongest first."
    )
    key_env: tuple[Variable, ...] = Field(
        (), description="Environment variables that hold the key, strongest first."
    )
    key_hint: str = Field("", description="How a key looks.")
    key_url: str = Field("", description="Where to get a key.")
    needs_key: bool = Field(True, description="Whether nothing works without a key.")

    source: str = Field(BUILT_IN, description="Where this entry, or its last change, is from.")

    @property
    def has_management_api(self) -> bool:
        """Whether an API of its own knows the account."""
        return self.id == CHUTES.id


CHUTES = Endpoint(
    id="chutes",
    name="Chutes",
    base_url=CHUTES_URL,
    base_url_env=("CHUTES_BASE_URL",),
    key_env=("CHUTES_API_TOKEN", "CHUTES_API_KEY"),
    key_hint="cpk_…",
    key_url="https://chutes.ai",
)
"""Whom settings are for until `Settings.for_provider` is asked."""


def token_flaw(token: str, *, min_length: int = MIN_TOKEN_LENGTH) -> str:
    """Tell what makes `token` impossible as a key, without showing it; empty: nothing."""
    if re.search(r"\s", token):
        return "has white space inside"
    if not token.isascii():
        return "has characters that are not ASCII"
    if not token.isprintable():
        return "has control characters"
    if len(token) < min_length:
        return f"is shorter than {min_length} characters"
    return ""


def checked_token(token: str | None, endpoint: Endpoint, source: str) -> str | None:
    """Return the key, None if there is none and none is needed.

    Raises:
        AuthenticationError: There is none, or it cannot be one; the message never shows it.
    """
    if token is None:
        if endpoint.needs_key:
            raise missing_key(endpoint)
        return None
    # A server of one's own may take any word for a key.
    flaw = token_flaw(token, min_length=MIN_TOKEN_LENGTH if endpoint.needs_key else 1)
    if flaw:
        raise AuthenticationError(
            raw_message=f"the API key from {source} {flaw}", hint=key_advice(endpoint)
        )
    return token


def missing_key(endpoint: Endpoint) -> AuthenticationError:
    """Return the error that says how to set this provider's key."""
    name = endpoint.name or endpoint.id
    return AuthenticationError(raw_message=f"no {name} API key is set", hint=key_advice(endpoint))


def key_advice(endpoint: Endpoint) -> str:
    """Return the sentence that says how to set this provider's key; empty: the error's own."""
    if endpoint.id == CHUTES.id:
        return ""
    names = " or ".join(endpoint.key_env)
    ways = [f"set {names}"] if names else []
    advice = ", or ".join([*ways, "pass api_token= to load_settings()"])
    looks = f" (it looks like {endpoint.key_hint})" if endpoint.key_hint else ""
    where = f"; get a key at {endpoint.key_url}{looks}" if endpoint.key_url else ""
    return f"{advice[0].upper()}{advice[1:]}{where}."


def missing_url(endpoint: Endpoint) -> ConfigurationError:
    """Return the error that says how to give this provider's URL."""
    name = endpoint.base_url_env[0] if endpoint.base_url_env else ""
    variable = f", or set {name}" if name else ""
    return ConfigurationError(
        raw_message=f"no base_url is known for provider {endpoint.id!r}",
        hint=f"Pass base_url={variable}, or write base_url into [providers.{endpoint.id}] of "
        "providers.toml.",
    )


def refuse_leaks(
    urls: Mapping[str, str | None], sources: Mapping[str, str], *, has_key: bool
) -> None:
    """Refuse addresses that would show the key to the network or to a stranger.

    Args:
        urls: `base_url` and `management_url`.
        sources: Where each is from.
        has_key: Whether there is a key to show.

    Raises:
        ConfigurationError: Names the address and where it is from.
    """
    for name, url in urls.items():
        if has_key and url is not None and url.startswith("http:") and not is_loopback(url):
            raise ConfigurationError(
                raw_message=f"{sources[name]}: {name}: {url} would send the key unencrypted",
                hint="Use https://, or http:// to 127.0.0.1 only.",
            )
    base, management = urls["base_url"] or "", urls["management_url"]
    if management is None or (is_loopback(base) and is_loopback(management)):
        return
    if not same_host(management, CHUTES_MANAGEMENT_URL if same_host(base, CHUTES_URL) else base):
        where = sources["management_url"]
        raise ConfigurationError(
            raw_message=f"{where}: management_url: {management} does not belong to {base}",
            hint="Leave management_url out: it follows base_url.",
        )


def endpoint_layer(endpoint: Endpoint, environ: Mapping[str, str]) -> Layer:
    """Return what the provider's own variables say; an empty variable says nothing."""
    layer: Layer = {}
    named = {"base_url": endpoint.base_url_env, "api_token": endpoint.key_env}
    for field, names in named.items():
        name = next((name for name in names if environ.get(name, "").strip()), None)
        if name is not None:
            layer[field] = (environ[name], f"environment {name}")
    return layer


def is_still_in(
    environ: Mapping[str, str], endpoint: Endpoint, token: SecretStr | None, source: str
) -> bool:
    """Tell whether the provider's own variable holds the key; then no other source has a say.

    Args:
        environ: The environment of now.
        endpoint: The provider's.
        token: The key.
        source: Where it came from.
    """
    name = next((name for name in endpoint.key_env if environ.get(name, "").strip()), None)
    if name is None or token is None or source != f"environment {name}":
        return False
    return environ[name].strip() == token.get_secret_value()


def stored_token(environ: Mapping[str, str], provider: str = CHUTES.id) -> tuple[str, Path]:
    """Return the key that `opencode auth login` stored for a provider, and the store.

    The store belongs to opencode: what is not of the known form is no key, and no error.

    Returns:
        The key, "" if there is none, and the store's path.
    """
    data = environ.get("XDG_DATA_HOME") or user_home(environ) / ".local/share"
    path = Path(data, "opencode", STORE_NAME)
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))[provider]
        return (entry["key"].strip() if entry["type"] == "api" else ""), path
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", path


def is_stored(source: str) -> bool:
    """Tell whether a key's source is opencode's own store."""
    return Path(source).name == STORE_NAME
