"""What may be sent for a model string, by a provider's rules and the caller's settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import bare, find, nearest
from chutes_opencode.catalog.providers import Provider


def find_offered(
    asked: str, models: Iterable[Model], extra_models: Sequence[str], provider: Provider
) -> Model | None:
    """Find the model that a string names among those offered and those named by hand.

    Args:
        asked: What the caller wrote.
        models: What is offered.
        extra_models: Names that are accepted though no list has them.
        provider: Whose models they are.

    Returns:
        As `names.find`.
    """
    extra = [unlisted_model(bare(provider.id, name)) for name in extra_models]
    # Of the same id the list's entry counts: it knows more.
    pool = {model.id: model for model in (*extra, *models)}
    return find(asked, pool.values(), provider_id=provider.id, quirks=provider.quirks)


def unlisted_model(model_id: str) -> Model:
    """Return a model of which nothing is known; the provider judges what it cannot do."""
    return Model(model_id, features=("tools",))


def saved_alias(asked: str, models: Iterable[Model], provider: Provider) -> str | None:
    """Return the alias that a string may be, None if it cannot be one or is like a model's name.

    Args:
        asked: What the caller wrote.
        models: All that the provider lists.
        provider: Whose models they are; only some save aliases.
    """
    name = as_sent(asked, provider)
    if "saved_aliases" not in provider.quirks or not name or any(mark in name for mark in "/:,"):
        return None
    return None if nearest(name, models) else name


def as_sent(asked: str, provider: Provider) -> str:
    """Return a string without the provider's prefix and without white space around names."""
    parts = asked.split(",") if "model_lists" in provider.quirks else [asked]
    names = [bare(provider.id, part.strip()) for part in parts]
    return ",".join(name for name in names if name)
