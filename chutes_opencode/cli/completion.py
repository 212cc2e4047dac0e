"""What the shell completes: ids of providers and models, from files alone, never from a network."""

from __future__ import annotations

from typing import Any


def complete_providers(incomplete: str) -> list[str]:
    """Return the ids of providers that begin so; whatever is wrong, none."""
    try:
        from chutes_opencode.catalog.providers import all_providers
        from chutes_opencode.settings import load_settings

        providers = all_providers(files=load_settings().provider_files())
    except Exception:  # noqa: BLE001 - a key press must never show a failure
        return []
    return [provider.id for provider in providers if provider.id.startswith(incomplete)]


def complete_models(ctx: Any, incomplete: str) -> list[str]:
    """Return the models that begin so, as `<provider>/<id>` or as the id, as it was begun."""
    try:
        provider_id, names = kept_models(ctx.params.get("provider") or "chutes")
    except Exception:  # noqa: BLE001 - a key press must never show a failure
        return []
    prefix = f"{provider_id}/"
    shown = [f"{prefix}{name}" for name in names]
    if incomplete and not prefix.startswith(incomplete) and not incomplete.startswith(prefix):
        shown = names
    return [name for name in shown if name.startswith(incomplete)]


def kept_models(provider_id: str) -> tuple[str, list[str]]:
    """Return a provider's id and the ids of its models as the cache has them.

    Without a cache they are the registry's default models.

    Raises:
        ConfigurationError: There is no such provider, or the settings are wrong.
    """
    from chutes_opencode.catalog.cache import Cache
    from chutes_opencode.catalog.models import parse_models
    from chutes_opencode.catalog.providers import find_provider
    from chutes_opencode.catalog.selection import matches
    from chutes_opencode.settings import load_settings

    settings = load_settings()
    provider = find_provider(provider_id, files=settings.provider_files())
    settings = settings.for_provider(provider)
    record = Cache(settings.home, provider.id, settings.base_url).read()
    names: list[str] = list(provider.default_models)
    if record is not None:
        models = parse_models(list(record.rows), quirks=provider.quirks).models
        names = [model.id for model in models]
    names = [name for name in names if matches(name, settings.model_filter, provider.id)]
    return provider.id, [*names, *settings.extra_models]
