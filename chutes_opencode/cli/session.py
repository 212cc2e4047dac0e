"""Settings for one command, of the user or of an embedded simulator, and for one provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli.completion import complete_providers
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.catalog.providers import Provider
    from chutes_opencode.settings import Settings

DEFAULT_PROVIDER = "chutes"
# Free, fast, and without a fault; the cheapest of the simulator's models is one that fails.
SIMULATED_MODEL = "sim/echo"

ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="ID",
        help="One of `providers list`.",
        autocompletion=complete_providers,
    ),
]


@contextmanager
def command_settings(*, simulate: bool, **overrides: Any) -> Iterator[Settings]:
    """Load the settings; with `simulate`, those of a simulator that runs as long.

    Args:
        simulate: Whether to start one.
        overrides: As for `load_settings`.

    Raises:
        ConfigurationError: As `load_settings` does.
    """
    from chutes_opencode.settings import load_settings

    if not simulate:
        yield load_settings(**overrides)
        return
    from chutes_opencode.catalog.cache import Cache
    from chutes_opencode.simulator import Simulator

    with Simulator() as simulator:
        settings = load_settings(
            **overrides,
            base_url=simulator.base_url,
            management_url=simulator.management_url,
            api_token=simulator.api_token,
        )
        try:
            yield settings
        finally:
            with suppress(ConfigurationError):  # no other run has the simulator's address
                Cache(settings.home, DEFAULT_PROVIDER, settings.base_url).clear()


@contextmanager
def provider_settings(
    provider_id: str, *, simulate: bool, **overrides: Any
) -> Iterator[tuple[Provider, Settings]]:
    """Look a provider up and load the settings for it.

    Args:
        provider_id: Its id in the registry.
        simulate: Whether an embedded simulator stands in; it plays Chutes only.
        overrides: As for `load_settings`.

    Raises:
        ConfigurationError: There is no such provider, it has no base URL, or the settings or a
            registry file are wrong.
    """
    from chutes_opencode.catalog.providers import find_provider

    if simulate and provider_id != DEFAULT_PROVIDER:
        raise ConfigurationError(
            raw_message=f"the simulator plays {DEFAULT_PROVIDER}, not {provider_id}",
            hint="Leave out --simulate or --provider.",
        )
    with command_settings(simulate=simulate, **overrides) as settings:
        provider = find_provider(provider_id, files=settings.provider_files())
        yield provider, settings.for_provider(provider)


def waiting() -> AbstractContextManager[None]:
    """Show a sign of life on a terminal as long as the block runs, once it takes long."""
    from rich.console import Console

    from chutes_opencode.cli.live import working

    return working(Console(stderr=True))
