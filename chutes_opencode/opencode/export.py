"""A provider's block for the user's own `opencode.json`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.opencode.config import SCHEMA_URL, unexpanded_json
from chutes_opencode.opencode.models import model_entry


def export_block(
    provider: Provider, models: Iterable[Model], base_url: str, key_env: str | None
) -> dict[str, Any]:
    """Build the part of an `opencode.json` that brings a provider's models.

    opencode merges it with its own list of the same provider id, so the ids are also its
    whitelist: of that list nothing else stays visible.

    Args:
        provider: The registry's entry.
        models: What it lists.
        base_url: The API's root, without a trailing slash.
        key_env: Variable that will hold the key; None: no key is sent.

    Returns:
        The block; `render_block` writes it.
    """
    entries = {model.id: model_entry(model, local=provider.local) for model in models}
    options = {"baseURL": base_url} | ({"apiKey": f"{{env:{key_env}}}"} if key_env else {})
    entry = {
        "npm": provider.npm,
        "name": provider.name,
        "options": options,
        "whitelist": list(entries),
        "models": entries,
    }
    return {"$schema": SCHEMA_URL, "provider": {provider.id: entry}}


def render_block(block: Mapping[str, Any]) -> str:
    """Write a block as JSON in which nothing is expanded but the key's own reference.

    Ids and names come from the provider; a `{file:…}` in one would be read by opencode.

    Args:
        block: From `export_block`.
    """
    text = unexpanded_json(block, indent=2)
    # A quote inside of a string is escaped, so only the key of that name reads like this.
    return text.replace('"apiKey": "\\u007benv:', '"apiKey": "{env:') + "\n"
