"""The engines of an instance in this process: each is made when a prompt first needs it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping

from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.engine_settings import EngineSettings
from chutes_opencode.engines.base import Engine
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.engines.kept import KeptSessions
from chutes_opencode.engines.plans import Plans
from chutes_opencode.engines.pool import shared_pool
from chutes_opencode.engines.pool_limits import PoolLimits
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.engines.serve import ServeEngine
from chutes_opencode.engines.watchdog import Patience
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.binary import Binary, find_binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.options import Options
from chutes_opencode.settings import Settings

# Places are shared by all instances of a process.
_slots: dict[tuple[int, str, int], asyncio.Semaphore] = {}


def choose_engine(options: Options, *, single: bool, keeper: str | None = None) -> str:
    """Name the engine of a prompt: what was asked for, or the best that does it.

    Args:
        options: The instance's.
        single: Whether it is the instance's first prompt, and no batch's: a process of its own is
            there no later than a server.
        keeper: The engine that keeps the session to be continued.
    """
    if options.engine != "auto":
        return options.engine
    if options.extra_cli_args or not options.relay or options.isolation == "prompt":
        return "run"
    return keeper or ("run" if single else "serve")


class EngineSet:
    """Makes an instance's engines, and ends them."""

    def __init__(
        self,
        settings: Settings,
        provider: Provider,
        catalog: ModelLookup,
        inherited: Mapping[str, str],
        *,
        isolated: bool = False,
    ) -> None:
        """Make nothing yet.

        Args:
            settings: Those of the provider.
            provider: The registry's entry.
            catalog: Which models exist.
            inherited: What of the caller's environment opencode gets.
            isolated: Whether each prompt gets a process of its own.
        """
        self._settings = settings
        self._provider = provider
        self._catalog = catalog
        self._inherited = inherited
        self._isolated = isolated
        self._sessions = SessionStore(settings.home / "sessions")
        self._engines: dict[str, Engine] = {}
        self._lock = asyncio.Lock()
        self._binary: Binary | None = None
        self._prompted = self._warned = self._closed = False

    def choose(self, options: Options, session_id: str | None, *, single: bool) -> str:
        """Name the engine of a prompt, and remember that there was one.

        Args:
            options: The instance's.
            session_id: The session to be continued, if one is.
            single: Whether it is no batch's.
        """
        first, self._prompted = single and not self._prompted, True
        keeper = None if session_id is None else self._sessions.engine_of(session_id)
        return choose_engine(options, single=first, keeper=keeper)

    def take_warning(self) -> str:
        """Return, once, what to know about the opencode that was found; empty: nothing."""
        if self._binary is None or self._warned:
            return ""
        self._warned = True
        return self._binary.warning

    def slots(self, name: str) -> asyncio.Semaphore:
        """Return this process's places for an engine's prompts."""
        return shared_slots(name, default_places(self._settings, name))

    async def get(self, name: str) -> Engine:
        """Return an engine; the first time that may take a second.

        Args:
            name: "run", "serve" or "direct".

        Raises:
            ConfigurationError: The set was closed.
            OpenCodeError: No opencode, or one that cannot be used.
        """
        if name in self._engines:
            return self._engines[name]
        async with self._lock:
            if name not in self._engines:
                self._refuse_closed()
                self._engines[name] = await asyncio.to_thread(self._make, name)
            return self._engines[name]

    async def close(self) -> None:
        """End what the engines keep running; no engine is made any more."""
        self._closed = True
        async with self._lock:  # one may be in the making
            engines = list(self._engines.values())
            self._engines.clear()
        for engine in engines:
            await engine.close()

    def _refuse_closed(self) -> None:
        """Refuse an engine that nobody would close."""
        if self._closed:
            raise ConfigurationError(
                raw_message="the instance was closed while the prompt ran",
                hint="Close it when its prompts have ended.",
            )

    def _make(self, name: str) -> Engine:
        if name == "direct":
            return DirectEngine(self._target)
        return self._run() if name == "run" else self._serve()

    def _target(self) -> Target:
        return Target(self._provider, self._settings.base_url, self._catalog.known)

    def _key(self) -> str:
        return self._settings.with_fresh_token().require_token()

    def _patience(self) -> Patience:
        settings = self._settings
        return Patience(settings.start_seconds, settings.tool_seconds, settings.finish_seconds)

    def _find_binary(self) -> Binary:
        if self._binary is None:
            settings, path = self._settings, self._inherited.get("PATH", "")
            self._binary = find_binary(settings.opencode_bin, path, settings.home / "opencode")
        return self._binary

    def _run(self) -> RunEngine:
        return RunEngine(
            binary=self._find_binary(),
            target=self._target,
            key=self._key,
            inherited=self._inherited,
            temp_root=self._settings.temp_dir,
            sessions=self._sessions,
            patience=self._patience(),
        )

    def _serve(self) -> ServeEngine:
        settings, limits = self._settings, pool_limits(self._settings)
        owner = f"{self._provider.id} {settings.base_url} {self._key()}"
        return ServeEngine(
            target=self._target,
            key=self._key,
            pool=lambda: shared_pool(limits),
            plans=Plans(
                hashlib.sha256(owner.encode()).hexdigest(),
                self._find_binary(),
                self._inherited,
                settings.temp_dir,
            ),
            sessions=self._sessions,
            kept=KeptSessions(self._sessions),
            isolated=self._isolated,
            patience=self._patience(),
        )


def pool_limits(settings: EngineSettings) -> PoolLimits:
    """Return what bounds this process's warm servers."""
    return PoolLimits(
        max_servers=settings.max_servers,
        idle_seconds=settings.server_idle_seconds,
        max_prompts=settings.server_max_prompts,
        max_mib=settings.server_max_mib,
        max_disk_mib=settings.server_max_disk_mib,
        max_folders=settings.server_max_folders,
        start_seconds=settings.start_seconds,
    )


def shared_slots(name: str, count: int) -> asyncio.Semaphore:
    """Return this process's places of a kind; of each size there is one set."""
    kind = "process" if name == "run" else "session"
    return _slots.setdefault((os.getpid(), kind, count), asyncio.Semaphore(count))


def default_places(settings: Settings, name: str) -> int:
    """Tell how many prompts an engine may run at once in this process."""
    return settings.max_processes if name == "run" else settings.max_sessions
