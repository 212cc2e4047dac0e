"""What an instance needs in a process: engine, catalogue, places. Made from settings."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass

from chutes_opencode.catalog.catalog import Catalog
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.engines.base import Engine
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.settings import Settings, inherited_environment

CANDIDATES = 5

# Catalogues and places are shared by all instances of a process.
_catalogs: dict[tuple[int, str], Catalog] = {}
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
    """

    settings: Settings
    provider: Provider
    engine: Engine
    catalog: Catalog
    slots: asyncio.Semaphore
    binary_warning: str = ""

    @classmethod
    def make(cls, settings: Settings, provider: Provider) -> Runtime:
        """Find opencode and put everything together; may take a second the first time.

        Raises:
            OpenCodeError: No key, no opencode, no writable temporary folder.
        """
        settings.with_fresh_token().require_token()
        inherited = inherited_environment()
        installed = settings.home / "opencode"
        binary = find_binary(settings.opencode_bin, inherited.get("PATH", ""), installed)
        catalog = shared_catalog(settings)
        engine = RunEngine(
            binary=binary,
            target=lambda: Target(provider, settings.base_url, catalog.known),
            key=lambda: settings.with_fresh_token().require_token(),
            inherited=inherited,
            temp_root=settings.temp_dir,
            sessions=SessionStore(settings.home / "sessions"),
        )
        slots = shared_slots(settings.max_processes)
        return cls(settings, provider, engine, catalog, slots, binary.warning)

    async def resolve(self, asked: str | None) -> Model:
        """Return the model that a caller means, with or without the provider's prefix.

        Raises:
            ConfigurationError: None is named; the message names candidates.
            ModelNotFoundError: The provider lists no such model.
        """
        token = self.settings.with_fresh_token().require_token()
        if not asked or not asked.strip():
            models = await self.catalog.models(token)
            names = ", ".join(model.id for model in models[:CANDIDATES])
            raise ConfigurationError(
                raw_message="no model is named"
                + (f"; there are for example {names}" if names else ""),
                hint="Pass model=, or set default_model (CHUTES_OPENCODE_DEFAULT_MODEL).",
            )
        # Of a list, too, white space around a name is nobody's: it would be sent as it is.
        asked = ",".join(part.strip() for part in asked.split(","))
        known = {model.id for model in await self.catalog.models(token)}
        # Also each member of a list: "chutes/a,chutes/b".
        bare = re.sub(rf"(^|,\s*){re.escape(self.provider.id)}/", r"\1", asked)
        name = asked if asked in known else bare
        return await self.catalog.resolve(name, token)

    async def close(self) -> None:
        """End what the engine keeps running."""
        await self.engine.close()


def shared_catalog(settings: Settings) -> Catalog:
    """Return this process's catalogue of a URL."""
    key = (os.getpid(), settings.base_url)
    return _catalogs.setdefault(
        key, Catalog(settings.base_url, refresh_interval=settings.refresh_interval)
    )


def shared_slots(count: int) -> asyncio.Semaphore:
    """Return this process's places; of each size there is one set."""
    return _slots.setdefault((os.getpid(), count), asyncio.Semaphore(count))
