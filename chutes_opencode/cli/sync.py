"""`models refresh`, `clear-cache`, `diff`: the list on disk against the provider's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chutes_opencode.cli.lookup import listing_fields, open_catalog, unfetched, warn
from chutes_opencode.cli.output import JsonOption, SimulateOption, counted, print_json, say
from chutes_opencode.cli.session import ProviderOption, waiting
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog
    from chutes_opencode.catalog.listing import Listing


def refresh(
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the list now, and say what is different from the one before."""
    from chutes_opencode.catalog.listing import describe_age
    from chutes_opencode.cli.model_views import change_fields, change_lines

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        _require_list(catalog)
        listing = catalog.refresh()
    if listing.source != "api":
        raise unfetched(listing.problems, catalog, kept=f"Until then {_kept(listing)}.")
    if as_json:
        told = None if listing.changes is None else change_fields(listing.changes)
        print_json({"ok": True, **listing_fields(listing, catalog), "changes": told})
        return
    warn(listing, catalog)
    print(
        f"{catalog.provider.name}: {counted(len(listing), 'model')}, source: {listing.source}, "
        f"age: {describe_age(listing.age_s or 0.0)}, took {listing.seconds:.2f} s"
    )
    if listing.changes is None:
        print("there was no list before")
    else:
        lines = change_lines(listing.changes, catalog.provider.id)
        print("\n".join(lines) or "nothing has changed")


def _require_list(catalog: Catalog) -> None:
    """Refuse what needs a list where the provider offers none."""
    provider = catalog.provider
    if provider.discovery_path is None:
        raise ConfigurationError(
            raw_message=f"{provider.name} offers no list of its models",
            hint="Its models are those of the registry: see `chutes-opencode models list`.",
        )


def _kept(listing: Listing) -> str:
    """Return what stays in use when a list could not be fetched."""
    from chutes_opencode.catalog.listing import describe_age

    if listing.age_s is not None:
        return f"the list of {describe_age(listing.age_s)} ago is used"
    return "the registry's own names are used" if listing else "there are no models"


def clear_cache(
    provider: ProviderOption = "chutes",
    as_json: JsonOption = False,
) -> None:
    """Forget the list that is kept on disk; the next use fetches it."""
    with open_catalog(provider, simulate=False) as catalog:
        cleared = catalog.clear()
    if as_json:
        print_json({"ok": True, "provider": catalog.provider.id, "cleared": cleared})
    else:
        said = "the kept list is forgotten" if cleared else "there was no list"
        print(f"{catalog.provider.name}: {said}")


def diff(
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the list and say what is new, gone, renamed or priced anew; keep nothing."""
    from chutes_opencode.cli.model_views import change_fields, change_lines

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        _require_list(catalog)
        told = catalog.diff()
    if told.problems and told.since is not None and not told.changes:
        raise unfetched(told.problems, catalog)
    if as_json:
        origin = {"provider": catalog.provider.id, "since": told.since}
        problems = {"problems": list(told.problems)}
        print_json({"ok": True, **origin, **problems, **change_fields(told.changes)})
        return
    if told.since is None:
        say("there is no list to compare with; `models refresh` keeps one")
        return
    for problem in told.problems:
        say(f"warning: {problem}")
    say(f"since {moment(told.since)}")
    lines = change_lines(told.changes, catalog.provider.id)
    print("\n".join(lines) or "nothing has changed")


def moment(seconds: float) -> str:
    """Return a time since 1970 as people read it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
