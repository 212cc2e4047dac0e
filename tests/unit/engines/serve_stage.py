"""A ServeEngine whose server, pool and sessions are fakes; relay and provider are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

from chutes_opencode.catalog.models import Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.kept import Copy, KeptSessions
from chutes_opencode.engines.plans import Plans
from chutes_opencode.engines.pool import ServerPool
from chutes_opencode.engines.seat import Seat
from chutes_opencode.engines.serve import ServeEngine
from chutes_opencode.engines.server_plan import ServerPlan
from chutes_opencode.events import Event
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import ChatMessage, PromptRequest
from chutes_opencode.retry import RetryPolicy
from tests.patience import WAIT_SECONDS
from tests.unit.engines.turns import FakeApi, FakeServer, asked, said
from tests.unit.relay.stage import KEY, MODEL, Provider

PRICE = Price(input=1.0, output=2.0)


class Agent:
    """What a warm opencode does with a message: it asks the relay, and writes the answer down."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def __call__(self, api: FakeApi, session_id: str) -> Any:
        server = self.stage.server
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as http:
            system = {"role": "system", "content": f"{server.marker}\nenvironment"}
            await http.post(
                f"{self.stage.relay.url}/chat/completions",
                headers={"authorization": f"Bearer {server.lease.key}", "x-session-id": session_id},
                json={
                    "model": MODEL,
                    "stream": True,
                    "max_tokens": 4096,
                    "messages": [system, {"role": "user", "content": "hello"}],
                },
            )
        api.rows[session_id] = [*api.rows.get(session_id, []), asked(), said("Hello")]


class FakePool:
    """Lends the stage's server, and remembers what for."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.plans: list[ServerPlan] = []
        self.open = 0
        self.detached: list[object] = []
        self.wait: asyncio.Event | None = None

    @asynccontextmanager
    async def server(self, plan: ServerPlan, _user: object) -> AsyncIterator[Any]:
        self.plans.append(plan)
        if self.wait is not None:
            await self.wait.wait()
        if plan.prepare is not None:
            root = self.stage.folder / f"workspace{len(self.plans)}"
            workspace = Workspace(root)
            workspace.guard.parent.mkdir(parents=True)
            plan.prepare(workspace)
        self.open += 1
        try:
            yield self.stage.server
        finally:
            self.open -= 1

    async def detach(self, user: object) -> None:
        self.detached.append(user)


class FakeKept:
    """Begins a copy per attempt, and notes what becomes of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.settled: list[bool] = []
        self.forgotten: list[str] = []
        self.failing: Exception | None = None
        self.unsettled: Exception | None = None
        self.begun = 0
        self.history: tuple[ChatMessage, ...] = ()

    async def begin(
        self, _request: PromptRequest, server: Any, _seat: Seat, directory: Path
    ) -> Copy:
        self.begun += 1
        if self.failing is not None:
            raise self.failing
        session_id = f"ses_{self.begun}"
        return Copy(server, session_id, session_id, directory, (), 0, self.history)

    async def settle(
        self, _copy: Copy, _seat: Seat, _request: PromptRequest, *, accepted: bool
    ) -> None:
        self.settled.append(accepted)
        if self.unsettled is not None:
            raise self.unsettled

    async def forget(self, session_id: str) -> None:
        self.forgotten.append(session_id)

    async def close(self) -> None:
        pass


class Stage:
    """An engine whose server, pool and sessions are ours; relay and provider are real."""

    def __init__(self, folder: Path, relay: Relay, provider: Provider) -> None:
        self.folder, self.relay, self.provider = folder, relay, provider
        self.work = folder / "work"
        self.work.mkdir()
        self.api = FakeApi(Agent(self))
        self.server = cast(Any, FakeServer(self.api, marker="system-marker"))
        self.server.workspace = Workspace(folder)
        self.server.folders = SimpleNamespace(place=self._place)
        self.pool, self.kept = FakePool(self), FakeKept(self)
        self.events: list[Event] = []
        self.shells: list[set[str]] = []
        self.engine = ServeEngine(
            target=lambda: Target(find_provider("chutes"), provider.base_url),
            key=lambda: KEY,
            pool=lambda: cast(ServerPool, self.pool),
            plans=Plans("owner", Binary(Path("/opt/opencode"), "1.18.33"), {}, folder),
            sessions=SessionStore(folder / "sessions"),
            kept=cast(KeptSessions, self.kept),
            relay=lambda: relay,
        )

    @asynccontextmanager
    async def _place(self, request: PromptRequest) -> AsyncIterator[Path]:
        yield request.work_dir or self.work

    def terms(self, **fields: Any) -> Terms:
        upstream = Upstream("chutes", self.provider.base_url, lambda: KEY)
        plain: dict[str, Any] = {
            "prices": {MODEL: PRICE},
            "model": MODEL,
            "policy": RetryPolicy(base_wait_s=0.01),
        }
        return Terms(upstream, **plain | fields)

    async def prompt(
        self, *, accept: bool = True, terms: Terms | None = None, straight: bool = False, **how: Any
    ) -> Evidence:
        request = PromptRequest(**{"prompt": "hello", "model": MODEL} | how)
        given = None if straight else terms or self.terms()
        return await self.engine.run(request, self.events.append, lambda _seen: accept, given)

    def play(self, story: Callable[[], Any]) -> Any:
        """Let a story happen; the server's lease is there as long as it lasts."""

        async def main() -> Any:
            with self.relay.lease() as lease:
                self.server.lease = lease
                told = await story()
                await self.engine.close()
            return told

        return asyncio.run(main())

    def run(self, **how: Any) -> Evidence:
        evidence: Evidence = self.play(lambda: self.prompt(**how))
        return evidence
