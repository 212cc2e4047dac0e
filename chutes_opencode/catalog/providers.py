"""The registry of providers: one entry is all that the package knows about one.

Strongest first: what `register_provider` was given, the project's file, the user's file, the
entries of the package (`data/providers.toml`). An entry whose id is known already overrides the
fields that it names and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from chutes_opencode.catalog.provider_file import ProviderEntry, did_you_mean, read_entries
from chutes_opencode.catalog.quirks import Quirk
from chutes_opencode.credentials import BUILT_IN, Endpoint
from chutes_opencode.errors import ConfigurationError, ContextOverflowError
from chutes_opencode.patterns import (
    CHUTES_PATTERNS,
    OPENAI_PATTERNS,
    BodyPattern,
    ProviderPatterns,
)
from chutes_opencode.settings_fields import describe_flaw

BUILT_IN_FILE = Path(__file__).with_name("data") / "providers.toml"
REGISTERED = "register_provider()"

COMPATIBLE_PACKAGE = "@ai-sdk/openai-compatible"

# Statuses under which an entry's own words for an overflow are believed; local servers say 500.
OVERFLOW_STATUSES = (400, 413, 422, 500)

# What the connection itself sets, and what holds a key.
_NOT_A_HEADER_OF_ONES_OWN = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
    | {"authorization", "proxy-authorization", "cookie"}
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_ID_RULE = (
    "an id is letters, digits, '.', '_' and '-', begins with a letter or digit, "
    "and has 64 characters at most"
)
# Somebody may have written the key itself there.
_NOT_SHOWN = ("key_env", "headers")

# opencode asks these by the Responses API, whatever the package (seen in 1.18.33).
RESPONSES_API_IDS = frozenset({"openai", "xai", "meta"})


def _is_regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"should be a regular expression: {error}") from None
    return value


def _is_header(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("should be names of HTTP headers")
    if value.lower() in _NOT_A_HEADER_OF_ONES_OWN:
        raise ValueError(f"may not be {value}: it is set by what sends the request")
    return value


def _is_header_value(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("should be values of printable ASCII characters")
    return value


def _is_path(value: object) -> object:
    if value == "":
        return None
    if isinstance(value, str) and not re.fullmatch(r"/[!-\[\]-~]*", value):
        raise ValueError("should be a path that begins with a slash, or empty")
    return value


class Provider(Endpoint):
    """A model provider; see `Endpoint` for where it is and which key it takes."""

    logo: str = Field("", description="URL of its logo.")
    wire: Literal["openai", "native"] = Field(
        "openai",
        description="openai: the OpenAI-compatible API, which our relay understands; native: "
        "whatever opencode's package speaks, driven with relay=False.",
    )
    npm: str = Field(COMPATIBLE_PACKAGE, min_length=1, description="opencode's package for it.")
    auth: Literal["bearer", "x-api-key", "x-goog-api-key"] = Field(
        "bearer", description="How the key is sent when its models are asked for."
    )
    headers: dict[
        Annotated[str, AfterValidator(_is_header)], Annotated[str, AfterValidator(_is_header_value)]
    ] = Field(
        default_factory=dict, description="Further headers that its API asks for; never a key."
    )
    discovery_path: Annotated[str | None, BeforeValidator(_is_path)] = Field(
        "/models", description="Where it lists its models, under base_url; empty: nowhere."
    )
    default_models: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Model ids that are offered as long as no list could be had."
    )
    overflow_patterns: tuple[Annotated[str, AfterValidator(_is_regex)], ...] = Field(
        (), description="Regular expressions for its errors that mean: the context is full."
    )
    quirks: frozenset[Quirk] = Field(
        frozenset(), description="In what it differs from the plain API."
    )
    local: bool = Field(
        False, description="Whether it serves models of one's own, whose limits it may not tell."
    )
    source: str = Field(REGISTERED, description="Where this entry, or its last change, is from.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.wire == "native" and self.npm == COMPATIBLE_PACKAGE:
            raise ValueError("wire native needs npm, the name of opencode's package for it")
        if self.wire == "openai" and self.id in RESPONSES_API_IDS:
            raise ValueError(f"opencode drives the id {self.id} natively only; use another id")
        return self

    @property
    def has_management_api(self) -> bool:
        """Whether an API of its own knows the account."""
        return "management_api" in self.quirks

    @property
    def patterns(self) -> ProviderPatterns:
        """How it words its errors."""
        base = CHUTES_PATTERNS if "chutes_errors" in self.quirks else OPENAI_PATTERNS
        own = tuple(
            BodyPattern(OVERFLOW_STATUSES, regex, ContextOverflowError)
            for regex in self.overflow_patterns
        )
        return base.preceded_by(own)


FIELDS = tuple(name for name in Provider.model_fields if name not in ("id", "source"))
"""What an entry may say."""

_registered: dict[str, Provider] = {}


def register_provider(provider: Provider | Mapping[str, Any], *, replace: bool = True) -> Provider:
    """Add a provider to this process's registry.

    Args:
        provider: A whole entry, or its `id` and fields as in `providers.toml`; of an id that is
            known, the fields left out stay as they are.
        replace: False: refuse an id that is known.

    Returns:
        The entry, complete.

    Raises:
        ConfigurationError: Names the field that cannot be, or the id that is known.
    """
    if isinstance(provider, Provider):
        entry = provider
    else:
        identifier = provider.get("id")
        if not isinstance(identifier, str):
            raise ConfigurationError(raw_message=f"{REGISTERED}: id: should be a string")
        values = {name: value for name, value in provider.items() if name not in ("id", "source")}
        call = ProviderEntry(identifier, values, REGISTERED, {}, f"{REGISTERED}: {identifier}")
        entry = _merged(call, load_registry())
    if not replace and entry.id in load_registry():
        raise ConfigurationError(raw_message=f"{REGISTERED}: {entry.id} is registered already")
    _registered[entry.id] = entry
    return entry


def unregister_provider(identifier: str) -> None:
    """Undo `register_provider`; of an id that was not registered, nothing."""
    _registered.pop(identifier, None)


def load_registry(files: Iterable[Path] = ()) -> dict[str, Provider]:
    """Return every provider by its id: the package's, the files', the registered.

    Args:
        files: Files of the user's, a later one over an earlier one.

    Raises:
        ConfigurationError: Names file, line and field.
    """
    registry = dict(_built_in())
    for path in files:
        for entry in read_entries(path):
            registry[entry.id] = _merged(entry, registry)
    return registry | _registered


def all_providers(*, files: Iterable[Path] = ()) -> tuple[Provider, ...]:
    """Return every provider, the package's first.

    Raises:
        ConfigurationError: As `load_registry` does.
    """
    return tuple(load_registry(files).values())


def find_provider(identifier: str, *, files: Iterable[Path] = ()) -> Provider:
    """Look a provider up.

    Args:
        identifier: Its id.
        files: `Settings.provider_files()`.

    Raises:
        ConfigurationError: There is none of that id (names the nearest), or a file is malformed.
    """
    registry = load_registry(files)
    if identifier not in registry:
        raise ConfigurationError(
            raw_message=f"unknown provider {identifier!r}{did_you_mean(identifier, registry)}",
            hint=f"Known are {', '.join(registry)}; add others in providers.toml or with "
            "register_provider().",
        )
    return registry[identifier]


@cache
def _built_in() -> Mapping[str, Provider]:
    registry: dict[str, Provider] = {}
    for entry in read_entries(BUILT_IN_FILE):
        made = _merged(entry, registry)
        registry[entry.id] = made.model_copy(update={"source": BUILT_IN})
    return registry


def _merged(entry: ProviderEntry, registry: Mapping[str, Provider]) -> Provider:
    """Return the provider that an entry makes, over the known one of that id."""
    for name in entry.values:
        if name not in FIELDS:
            near = did_you_mean(name, FIELDS)
            raise ConfigurationError(
                raw_message=f"{entry.field_place(name)}: unknown field{near}",
                hint=f"Fields are {', '.join(FIELDS)}; a key belongs into the environment.",
            )
    known = registry.get(entry.id)
    before = known.model_dump() if known else {"needs_key": bool(entry.values.get("key_env"))}
    values = {"name": entry.id, **before, **entry.values}
    if values["name"] == "":
        values["name"] = entry.id
    try:
        return Provider.model_validate(values | {"id": entry.id, "source": entry.source})
    except ValidationError as error:
        raise ConfigurationError(raw_message=_reason(error, entry)) from None


def _reason(error: ValidationError, entry: ProviderEntry) -> str:
    reasons = []
    for flaw in error.errors(include_url=False, include_context=False):
        text = _ID_RULE if flaw["type"] == "string_pattern_mismatch" else describe_flaw(flaw)
        field = str(flaw["loc"][0]) if flaw["loc"] else ""
        place = entry.field_place(field) if field not in ("", "id") else entry.place
        given = entry.values.get(field)
        secret = given is None or field in _NOT_SHOWN or "@" in str(given)  # https://user:password@
        shown = "" if secret else f" (it is {given!r:.80})"
        reasons.append(f"{place}: {text}{shown}")
    return "; ".join(dict.fromkeys(reasons))
