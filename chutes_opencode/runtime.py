"""What an instance needs in a process: engine, catalogue, places. Made from settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.catalog.catalog import shared_lookup
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import qualified
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.engine_set import EngineSet
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.limits import Budget
from chutes_opencode.settings import Settings, inherited_environment, load_settings
from chutes_opencode.spending import process_budget

CANDIDATES = 5


def instance_settings(given: Settings | None, arguments: Mapping[str, Any]) -> Settings:
    """Return an instance's settings: its constructor's arguments over those that it was given.

    Args:
        given: None: what `load_settings` finds.
        arguments: Fields of `Settings`; None says nothing.

    Raises:
        ConfigurationError: A value that cannot be.
    """
    if given is None:
        return load_settings(**arguments)
    said = {name: value for name, value in arguments.items() if value is not None}
    return given.overridden(**said)


@dataclass(frozen=True, slots=True)
class Runtime:
    """An instance's means.

    Attributes:
        settings: Where everything comes from.
        provider: The registry's entry.
        engines: What runs attempts.
        catalog: Which models exist.
        inherited: What of the caller's environment opencode gets.
        budgets: Dollars that the instance's prompts share, with others of the process and with
            each other.
    """

    settings: Settings
    provider: Provider
    engines: EngineSet
    catalog: ModelLookup
    inherited: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()

    @classmethod
    def make(
        cls,
        settings: Settings,
        provider: Provider,
        *,
        total: Budget | None = None,
        isolated: bool = False,
    ) -> Runtime:
        """Put everything together; no engine is made yet.

        Args:
            settings: Those of the provider.
            provider: The registry's entry.
            total: What all prompts of the instance may cost here; None: no limit.
            isolated: Whether each prompt gets a process of its own.

        Raises:
            OpenCodeError: No key.
        """
        settings.with_fresh_token().require_token()
        inherited = inherited_environment()
        catalog = shared_lookup(provider, settings)
        own = () if total is None else (total,)
        return cls(
            settings,
            provider,
            EngineSet(settings, provider, catalog, inherited, isolated=isolated),
            catalog,
            inherited,
            (*own, *process_budget(settings)),
        )

    async def resolve(self, asked: str | None) -> Model:
        """Return the model that a caller means, with or without the provider's prefix.

        Raises:
            ConfigurationError: None is named; the message names candidates.
            ModelNotFoundError: The provider lists no such model.
        """
        self.settings.with_fresh_token().require_token()
        if not asked or not asked.strip():
            models = (await self.catalog.listing())[:CANDIDATES]
            names = ", ".join(qualified(self.provider.id, model.id) for model in models)
            raise ConfigurationError(
                raw_message="no model is named"
                + (f"; there are for example {names}" if names else ""),
                hint="Pass model=, or set default_model (CHUTES_OPENCODE_DEFAULT_MODEL).",
            )
        return await self.catalog.resolve(asked)

    async def close(self) -> None:
        """End what the engine keeps running."""
        self.catalog.close()
        await self.engines.close()
