"""What every command about models shares: the catalogue, names, and where a list is from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chutes_opencode.cli.output import counted, say
from chutes_opencode.cli.session import provider_settings
from chutes_opencode.credentials import key_advice, missing_key
from chutes_opencode.errors import AuthenticationError, OpenCodeError, ServerError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog
    from chutes_opencode.catalog.listing import Listing
    from chutes_opencode.catalog.models import Model

NETWORK_HINT = "Check the network and the base URL, and that the server is running."

_ORIGINS = {
    "api": "just fetched",
    "cache": "from the cache",
    "fallback": "the registry's own, for want of a list",
}


@contextmanager
def open_catalog(provider_id: str, *, simulate: bool) -> Iterator[Catalog]:
    """Give a provider's catalogue for as long as the block runs.

    Raises:
        ConfigurationError: There is no such provider, or the settings are wrong.
    """
    from chutes_opencode.catalog.catalog import Catalog

    with provider_settings(provider_id, simulate=simulate) as (provider, settings):
        if settings.sources["log_level"] == "default":
            # The command tells of every problem itself.
            settings = settings.overridden(log_level="error")
        yield Catalog(provider, settings=settings)


def look_up(catalog: Catalog) -> Listing:
    """Return the models that there are.

    Raises:
        AuthenticationError: There are none, since the list is for a good key only.
        ServerError: There are none, since the list could not be had.
    """
    listing = catalog.models()
    if listing.source == "fallback" and not listing and listing.problems:
        raise unfetched(listing.problems, catalog)
    return listing


def unfetched(problems: Sequence[str], catalog: Catalog, *, kept: str = "") -> OpenCodeError:
    """Return the error of a list that could not be had.

    Args:
        problems: What went wrong.
        catalog: Whose list it is.
        kept: A sentence for the hint: what is used instead.
    """
    from chutes_opencode.catalog.discovery import KEY_REFUSED

    said = "; ".join(problems) or "the list could not be fetched"
    if KEY_REFUSED in said or "HTTP 401" in said:
        return AuthenticationError(raw_message=said, hint=key_advice(catalog.provider))
    return ServerError(raw_message=said, hint=f"{NETWORK_HINT} {kept}".rstrip())


def resolve(catalog: Catalog, asked: str) -> Model:
    """Return the model that a name means; an old name is told of and its new model returned.

    Raises:
        ModelNotFoundError: There is none.
    """
    from chutes_opencode.catalog.names import bare, qualified, renamed

    found = catalog.resolve(asked)
    new_id = renamed(bare(catalog.provider.id, asked.strip()), catalog.models())
    if new_id is None:
        return found
    say(f"note: {found.id} is now {qualified(catalog.provider.id, new_id)}")
    return catalog.resolve(new_id)


def tell_source(listing: Listing, catalog: Catalog, *, shown: int | None = None) -> None:
    """Say on stderr how many models there are, where the list is from and how old it is.

    Args:
        listing: The list.
        catalog: Whose it is.
        shown: How many of them the command shows; None: that is its own matter.
    """
    from chutes_opencode.catalog.listing import describe_age

    warn(listing, catalog)
    origin = _ORIGINS[listing.source]
    if listing.source == "cache" and listing.age_s is not None:
        origin += f", {describe_age(listing.age_s)} old"
    models = counted(len(listing), "model")
    if shown is not None and shown < len(listing):
        models = f"{shown} of {models}"
    say(f"{catalog.provider.name}: {models}, {origin}")


def warn(listing: Listing, catalog: Catalog) -> None:
    """Say on stderr what went wrong."""
    for problem in listing.problems:
        say(f"warning: {problem}")
    provider, settings = catalog.provider, catalog.settings
    if not listing and listing.source != "fallback":
        where = settings.sources["model_filter"]
        say(f"warning: model_filter (from {where}) hides every model of the list")
    refused = any("HTTP 401" in problem for problem in listing.problems)
    if refused and provider.needs_key and settings.api_token is None:
        error = missing_key(provider)
        say(f"note: {error.raw_message}; {error.hint}")


def listing_fields(listing: Listing, catalog: Catalog) -> dict[str, Any]:
    """Return as JSON has it where a list is from."""
    return {
        "provider": catalog.provider.id,
        "listed": len(listing),
        "source": listing.source,
        "age_s": None if listing.age_s is None else round(listing.age_s, 3),
        "fetched_at": listing.fetched_at,
        "seconds": round(listing.seconds, 3),
        "problems": list(listing.problems),
    }
