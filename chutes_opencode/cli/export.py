"""`models export`: a provider's models for the user's own OpenCode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes_opencode.cli.lookup import look_up, open_catalog, tell_source
from chutes_opencode.cli.output import SimulateOption, say
from chutes_opencode.cli.session import ProviderOption, waiting
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog


def export(
    opencode: Annotated[
        bool, typer.Option("--opencode", help="As a block for opencode.json; the only form.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write; none: stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
) -> None:
    """Print the block that gives these models to your own OpenCode, as `opencode.json` has it.

    The key is not in it: OpenCode reads it from the environment.
    """
    from chutes_opencode.opencode.export import export_block, render_block

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        listing = look_up(catalog)
        key_env = key_variable(catalog)
        base_url = catalog.settings.base_url
        text = render_block(export_block(catalog.provider, listing, base_url, key_env))
    tell_source(listing, catalog)
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not force:
        raise ConfigurationError(
            raw_message=f"{out} is there already",
            hint="Name another file, merge by hand, or add --force to replace it.",
        )
    out.write_text(text, encoding="utf-8")
    say(f"written: {out}")


def key_variable(catalog: Catalog) -> str | None:
    """Return the variable that OpenCode shall read the key from; None: no key is needed."""
    settings, names = catalog.settings, catalog.provider.key_env
    if settings.api_token is None and not catalog.provider.needs_key:
        return None
    in_use = settings.sources["api_token"].removeprefix("environment ")
    return in_use if in_use in names else next(iter(names), None)
