"""ServeEngine: a stage on a warm server, from a prompt's first turn to its last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.engines import serve as serve_module
from chutes_opencode.engines import turn as turn_module
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.wire import GuardWire
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError
from chutes_opencode.opencode.api import ApiError
from chutes_opencode.relay.server import Relay
from chutes_opencode.request import ChatMessage, Params
from tests.unit.engines.serve_stage import Stage
from tests.unit.engines.turns import GONE, FakeApi, asked, said
from tests.unit.relay.stage import DONE, KEY, MODEL, Provider, chunk, event, stream

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


@pytest.mark.parametrize("trouble", [GONE, ApiError(500, None), OSError("no space")])
def test_what_was_paid_for_is_not_lost_with_its_session(
    stage: MakeStage, trouble: Exception
) -> None:
    played = stage()
    played.kept.unsettled = trouble

    evidence = played.run(keep_session=True)

    assert (evidence.stopped, evidence.stderr) == ("unkept", str(trouble))
    assert evidence.transcript.text == "Hello"
    assert len(evidence.exchanges) == 1


def test_the_session_of_a_turn_that_failed_need_not_be_settled(stage: MakeStage) -> None:
    played = stage()
    played.kept.unsettled = GONE

    assert played.run(keep_session=True, accept=False).stopped is None


def test_a_kept_session_that_a_next_turn_continues_stays_until_then(stage: MakeStage) -> None:
    played = stage()
    card = played.engine.sessions.place(None, engine="serve", version="1.18.33")
    played.engine.sessions.keep_document("ses_9", card, "{}")

    played.run(hold=True, session_id="ses_9")

    assert played.kept.settled == [True]
    assert "delete" not in played.api.calls, "it is kept, not held"


def test_a_prompt_that_may_kill_its_server_gets_one_for_itself(stage: MakeStage) -> None:
    played = stage()

    played.run(alone=True)

    assert [plan.exclusive for plan in played.pool.plans] == [True]


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


def test_a_held_session_may_end_before_the_engine_does(stage: MakeStage) -> None:
    played = stage()

    async def story() -> Evidence:
        await played.prompt(hold=True)
        closing = asyncio.create_task(played.engine.close())
        await asyncio.sleep(0)
        second = await played.prompt(hold=True, session_id="ses_1")
        await played.engine.forget("ses_1")
        await closing
        return second

    assert played.play(story).transcript.text == "Hello"


def test_a_turn_that_failed_holds_nothing(stage: MakeStage) -> None:
    played = stage()

    async def story() -> None:
        await played.prompt(hold=True, accept=False)
        assert played.pool.open == 0

    played.play(story)
    assert "delete" in played.api.calls


def test_what_is_still_held_goes_with_the_engine(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "TIDY_SECONDS", 0.1)
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

    with pytest.raises(PromptTimeoutError, match=r"waited 0\.1 s for an opencode server"):
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


def test_on_a_closed_engine_nothing_is_begun_any_more(stage: MakeStage) -> None:
    played = stage()
    played.run()

    with pytest.raises(ConfigurationError, match="was closed while the prompt ran"):
        played.run()

    assert len(played.pool.plans) == 1
