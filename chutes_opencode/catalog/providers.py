"""The registry of providers: one entry is all that the package knows about one."""

from __future__ import annotations

from dataclasses import dataclass

from chutes_opencode.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Provider:
    """A model provider.

    Attributes:
        id: Name in opencode's config and in `<provider>/<model>`.
        name: Display name.
        npm: opencode's package for its wire format.
        key_hint: How a key looks, for messages.
        key_url: Where to get one.
    """

    id: str
    name: str
    npm: str = "@ai-sdk/openai-compatible"
    key_hint: str = ""
    key_url: str = ""


PROVIDERS: dict[str, Provider] = {
    "chutes": Provider("chutes", "Chutes", key_hint="cpk_…", key_url="https://chutes.ai"),
}


def find_provider(identifier: str) -> Provider:
    """Look a provider up.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if identifier not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise ConfigurationError(raw_message=f"unknown provider {identifier!r}; known: {known}")
    return PROVIDERS[identifier]
