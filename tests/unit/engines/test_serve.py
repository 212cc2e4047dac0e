"""ServeEngine: a stage on a warm server, from a prompt's first turn to its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines import serve as serve_module
from chutes_opencode.engines import turn as turn_module
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.kept import Copy, KeptSessions
from chutes_opencode.engines.plans import Plans
from chutes_opencode.engines.pool import ServerPool
from chutes_opencode.engines.seat import Seat
from chutes_opencode.engines.serve import ServeEngine
from chutes_opencode.engines.server_plan import ServerPlan
from chutes_opencode.engines.wire import GuardWire
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError
from chutes_opencode.events import Event
from chutes_opencode.opencode.api import ApiError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import ChatMessage, Params, PromptRequest
from chutes_opencode.retry import RetryPolicy
from tests.patience import WAIT_SECONDS
from tests.unit.engines.turns import GONE, FakeApi, FakeServer, asked, said
from tests.unit.relay.stage import DONE, KEY, MODEL, Provider, chunk, event, stream

PRICE = Price(input=1.0, output=2.0)
CALL = {"index": 0, "id": "call_1", "function": {"name": "bash", "arguments": "{}"}}
CALLING = (
    event({"model": MODEL, "choices": [{"delta": {"tool_calls": [CALL]}, "finish_reason": None}]}),
    chunk(finish="tool_calls"),
    DONE,
)


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


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

    async def forget(self, session_id: str) -> None:
        self.forgotten.append(session_id)


class Stage:
    """An engine whose server, pool and sessions are ours; relay and provider are real."""

    def __init__(self, folder: Path, relay: Relay, provider: Provider) -> None:
        self.folder, self.relay, self.provider = folder, relay, provider
        self.work = folder / "work"
        self.work.mkdir()
        self.api = FakeApi(Agent(self))
        self.server = cast(Any, FakeServer(self.api, marker="system-marker"))
        self.server.workspace = SimpleNamespace(root=folder)
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


@pytest.fixture
def stage(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Stage]]:
    providers: list[Provider] = []

    def make(*answers: Any) -> Stage:
        providers.append(Provider(*answers))
        made = Stage(tmp_path, relay, providers[-1])

        async def end(sessions: set[str]) -> int:
            made.shells.append(set(sessions))
            return 0

        monkeypatch.setattr(serve_module, "end_leftovers", end)
        return made

    yield make
    for provider in providers:
        provider.__exit__()


MakeStage = Callable[..., Stage]


# --- one prompt -----------------------------------------------------------------------------------


def test_a_prompt_has_a_session_of_its_own_that_is_gone_afterwards(stage: MakeStage) -> None:
    played = stage()

    evidence = played.run()

    assert evidence.transcript.session_id == "ses_1"
    assert evidence.transcript.text == "Hello"
    assert (evidence.relayed, evidence.returncode, evidence.stopped) == (True, 0, None)
    assert [exchange.status for exchange in evidence.exchanges] == [200]
    assert played.api.calls == ["send", "delete"]
    assert (played.pool.open, played.shells) == (0, [])
    assert played.pool.detached == [played.engine]


def test_the_model_gets_the_callers_words_and_values(stage: MakeStage) -> None:
    played = stage()
    played.kept.history = (ChatMessage("user", "before"), ChatMessage("assistant", "well"))

    played.run(
        system_message="Be brief.",
        context=False,
        params=Params(temperature=0.5, max_tokens=7, stop=("END",), extra_body={"top_k": 5}),
    )

    (got,) = played.provider.asked
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "hello"},
    ]
    assert {
        name: got.body.get(name) for name in ("temperature", "max_tokens", "stop", "top_k")
    } == {
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["END"],
        "top_k": 5,
    }


def test_without_a_limit_of_the_callers_opencodes_own_stays(stage: MakeStage) -> None:
    played = stage()

    played.run()

    (got,) = played.provider.asked
    assert got.body["max_tokens"] == 4096


def test_a_message_costs_what_the_price_makes_of_it(stage: MakeStage) -> None:
    evidence = stage().run()

    assert [turn.cost_usd for turn in evidence.transcript.turns] == [3.0]


@pytest.mark.parametrize(
    ("how", "kept_folder"),
    [({}, None), ({"work_dir": True}, "work_dir"), ({"keep_session": True}, "card")],
)
def test_the_folder_is_told_where_it_outlives_the_prompt(
    stage: MakeStage, how: dict[str, Any], kept_folder: str | None
) -> None:
    played = stage()
    mine = played.folder / "mine"
    mine.mkdir()
    how = {"work_dir": mine} if how.get("work_dir") else how

    folder = played.run(**how).work_dir

    if kept_folder is None:
        assert folder is None
    else:
        assert folder is not None
        assert (folder == mine) == (kept_folder == "work_dir")


@pytest.mark.parametrize("isolated", [True, False])
def test_isolated_prompts_have_servers_of_their_own(stage: MakeStage, *, isolated: bool) -> None:
    played = stage()
    played.engine = replace(played.engine, isolated=isolated)

    played.run()

    assert [plan.exclusive for plan in played.pool.plans] == [isolated]


def test_what_tools_may_have_left_is_ended(stage: MakeStage) -> None:
    played = stage(stream(*CALLING))

    played.run()

    assert played.shells == [{"ses_1"}]


# --- a session that is kept -----------------------------------------------------------------------


@pytest.mark.parametrize("accept", [True, False])
def test_a_session_is_kept_when_its_attempt_is_accepted(stage: MakeStage, *, accept: bool) -> None:
    played = stage()

    played.run(keep_session=True, accept=accept)

    assert played.kept.settled == [accept]
    assert ("delete" in played.api.calls) == (not accept)


def test_a_kept_session_is_forgotten_where_it_is_kept(stage: MakeStage) -> None:
    played = stage()

    played.play(lambda: played.engine.forget("ses_kept"))

    assert played.kept.forgotten == ["ses_kept"]


# --- a session that is held for the next turn -----------------------------------------------------


def test_a_held_session_is_continued_where_it_is_until_it_is_forgotten(stage: MakeStage) -> None:
    played = stage()

    async def story() -> list[Evidence]:
        first = await played.prompt(hold=True)
        assert played.pool.open == 1
        second = await played.prompt(hold=True, session_id=first.transcript.session_id)
        await played.engine.forget("ses_1")
        return [first, second]

    evidence = played.play(story)

    assert [len(one.transcript.turns) for one in evidence] == [1, 1], "history is no part of it"
    assert played.kept.begun == 1
    assert [message["session_id"] for message in played.api.sent] == ["ses_1", "ses_1"]
    assert (played.pool.open, played.api.calls.count("delete")) == (0, 1)


def test_a_turn_that_failed_holds_nothing(stage: MakeStage) -> None:
    played = stage()

    async def story() -> None:
        await played.prompt(hold=True, accept=False)
        assert played.pool.open == 0

    played.play(story)
    assert "delete" in played.api.calls


def test_what_is_still_held_goes_with_the_engine(stage: MakeStage) -> None:
    played = stage()

    played.run(hold=True)

    assert (played.pool.open, played.api.calls.count("delete")) == (0, 1)


# --- without the relay ----------------------------------------------------------------------------


def test_without_the_relay_the_guard_is_the_wire(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = stage()

    async def answer(api: FakeApi, session_id: str) -> Any:
        api.rows[session_id] = [asked(), said("Hello", cost=0.5)]

    played.api.work = answer
    monkeypatch.setattr(GuardWire, "exchanges", lambda _self: ())

    evidence = played.run(straight=True)

    assert (evidence.relayed, evidence.stopped) == (False, "guard")
    assert [turn.cost_usd for turn in evidence.transcript.turns] == [0.5]
    assert [plan.exclusive for plan in played.pool.plans] == [True]
    assert played.provider.asked == []


def test_a_held_session_without_the_relay_is_kept_for_its_next_server(stage: MakeStage) -> None:
    played = stage()

    async def answer(api: FakeApi, session_id: str) -> Any:
        api.rows[session_id] = [asked(), said()]

    played.api.work = answer
    played.run(straight=True, hold=True)

    assert played.kept.settled == [True]


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_server_that_goes_before_the_prompt_was_sent_has_crashed(stage: MakeStage) -> None:
    played = stage()
    played.kept.failing = GONE

    evidence = played.run()

    assert (evidence.stopped, evidence.stderr) == ("crash", "nobody answers")
    assert evidence.relayed


@pytest.mark.parametrize(
    ("trouble", "said_of_it"),
    [(ApiError(500, None), "refused"), (PermissionError(13, "no"), "could not be run")],
)
def test_a_prompt_that_cannot_begin_is_a_configuration_error(
    stage: MakeStage, trouble: Exception, said_of_it: str
) -> None:
    played = stage()
    played.kept.failing = trouble

    with pytest.raises(ConfigurationError, match=said_of_it):
        played.run()
    assert played.pool.open == 0


def test_a_server_that_is_not_ready_in_time_is_a_timeout(stage: MakeStage) -> None:
    played = stage()

    async def story() -> None:
        played.pool.wait = asyncio.Event()
        await played.prompt(timeout_seconds=0.05)

    with pytest.raises(PromptTimeoutError, match="no opencode server was ready"):
        played.play(story)


def test_a_timeout_of_something_else_is_not_ours(stage: MakeStage) -> None:
    played = stage()
    played.kept.failing = TimeoutError("of the disk")

    with pytest.raises(ConfigurationError, match="of the disk"):
        played.run()


def test_a_prompt_that_is_cancelled_leaves_neither_session_nor_place(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "ABORT_SECONDS", 0.01)
    played = stage()
    sent = asyncio.Event()

    async def work(_api: FakeApi, _session_id: str) -> Any:
        sent.set()
        await asyncio.Event().wait()

    played.api.work = work

    async def story() -> None:
        running = asyncio.create_task(played.prompt())
        await sent.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    played.play(story)
    assert played.pool.open == 0
    assert played.api.calls == ["send", "abort", "delete"]
    assert played.server.draining, "its session does not end"
