"""What an instance needs in a process: engine, catalogue, places. Made from settings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from chutes_opencode.catalog.catalog import shared_lookup
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import qualified
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.engines.base import Engine
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.limits import Budget
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.settings import Settings, inherited_environment
from chutes_opencode.spending import process_budget

CANDIDATES = 5

# Places are shared by all instances of a process.
_slots: dict[tuple[int, int], asyncio.Semaphore] = {}


@dataclass(frozen=True, slots=True)
class Runtime:
    """An instance's means.

    Attributes:
        settings: Where everything comes from.
        provider: The registry's entry.
        binary_warning: What to know about the opencode that was found; empty: nothing.
        engine: Runs attempts.
        catalog: Which models exist.
        slots: Places for opencode processes.
        inherited: What of the caller's environment opencode gets.
        budgets: Dollars that the instance's prompts share, with others of the process and with
            each other.
    """

    settings: Settings
    provider: Provider
    engine: Engine
    catalog: ModelLookup
    slots: asyncio.Semaphore
    inherited: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    binary_warning: str = ""

    @classmethod
    def make(
        cls, settings: Settings, provider: Provider, *, total: Budget | None = None
    ) -> Runtime:
        """Find opencode and put everything together; may take a second the first time.

        Args:
            settings: Those of the provider.
            provider: The registry's entry.
            total: What all prompts of the instance may cost here; None: no limit.

        Raises:
            OpenCodeError: No key, no opencode, no writable temporary folder.
        """
        settings.with_fresh_token().require_token()
        inherited = inherited_environment()
        installed = settings.home / "opencode"
        binary = find_binary(settings.opencode_bin, inherited.get("PATH", ""), installed)
        catalog = shared_lookup(provider, settings)
        engine = RunEngine(
            binary=binary,
            target=lambda: Target(provider, settings.base_url, catalog.known),
            key=lambda: settings.with_fresh_token().require_token(),
            inherited=inherited,
            temp_root=settings.temp_dir,
            sessions=SessionStore(settings.home / "sessions"),
        )
        slots = shared_slots(settings.max_processes)
        own = () if total is None else (total,)
        return cls(
            settings,
            provider,
            engine,
            catalog,
            slots,
            inherited,
            (*own, *process_budget(settings)),
            binary.warning,
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
        await self.engine.close()


def shared_slots(count: int) -> asyncio.Semaphore:
    """Return this process's places; of each size there is one set."""
    return _slots.setdefault((os.getpid(), count), asyncio.Semaphore(count))
