"""How a direct prompt ends: its time, its relay, its caller; and sessions that are held."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.errors import (
    ConfigurationError,
    RateLimitError,
    ServerError,
)
from chutes_opencode.events import Event, TextDelta
from chutes_opencode.opencode.config import Target
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import ReplayKey
from chutes_opencode.request import McpServer, PromptRequest
from chutes_opencode.retry import RetryPolicy
from tests.patience import wait_until
from tests.unit.engines.direct.stage import ANSWER, MakePlay, messages
from tests.unit.relay.stage import (
    BROKEN,
    GOOD,
    MODEL,
    Answer,
    error,
    nothing,
    stalling,
    stream,
)

# --- time -----------------------------------------------------------------------------------------


def test_the_timeout_ends_an_answer_that_does_not(play: MakePlay) -> None:
    p = play(stalling(*BROKEN))

    evidence = p.run(timeout_seconds=0.6)

    assert evidence.stopped == "timeout"
    assert evidence.returncode == -1
    (exchange,) = evidence.exchanges
    assert exchange.error == "cut before its end"
    wait_until(lambda: p.provider.in_flight == 0)


def test_the_timeout_begins_with_the_first_permit(play: MakePlay) -> None:
    p = play(error(429, "slow down", retry_after="1"), stream(*GOOD))
    policy = RetryPolicy(base_wait_s=0.01, max_wait_s=20)

    async def both() -> Evidence:
        await p.arun(terms=p.terms(policy=policy, tries_left=1))
        return await p.arun(terms=p.terms(policy=policy), timeout_seconds=0.5)

    evidence = asyncio.run(both())

    assert evidence.transcript.text == "Hello", evidence
    assert evidence.queued_s > 0.5


def test_a_pause_that_is_too_long_is_not_waited_for(play: MakePlay) -> None:
    p = play(error(429, "slow down", retry_after="500"))

    evidence = p.run()

    assert type(evidence.ended) is RateLimitError
    assert len(p.provider.asked) == 1


# --- ends that come from outside ------------------------------------------------------------------


@pytest.mark.parametrize("answer", [nothing, stalling(*BROKEN)])
def test_a_cancelled_attempt_leaves_nothing_under_way(
    play: MakePlay, relay: Relay, answer: Answer
) -> None:
    p = play(answer)

    async def cancel() -> None:
        running = asyncio.ensure_future(p.arun())
        await asyncio.to_thread(wait_until, lambda: p.provider.in_flight)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert relay.stats().prompts == relay.stats().leases == 0

    asyncio.run(cancel())

    wait_until(lambda: p.provider.in_flight == 0)
    limiters = relay.stats().limiters.items()
    assert [known.in_flight for name, known in limiters if p.provider.base_url in name] == [0]


def test_a_relay_that_stops_ends_it(play: MakePlay) -> None:
    with Relay() as relay:
        p = play(stalling(*BROKEN), relay=relay)

        async def stop() -> Evidence:
            running = asyncio.ensure_future(p.arun())
            await asyncio.to_thread(wait_until, lambda: p.provider.in_flight)
            await asyncio.to_thread(relay.stop)
            return await running

        evidence = asyncio.run(stop())

    assert evidence.stopped == "relay"
    assert type(evidence.ended) is ServerError
    assert "relay stopped" in evidence.ended.raw_message


def test_a_stopped_relay_is_replaced_by_another(play: MakePlay) -> None:
    with Relay() as first, Relay() as second:
        p = play()
        relays = [second, first]
        p.engine = DirectEngine(
            lambda: Target(find_provider("chutes"), p.provider.base_url), lambda: relays.pop()
        )
        p.run()
        first.stop()

        assert p.run().returncode == 0
        assert relays == []


# --- sessions -------------------------------------------------------------------------------------


def test_a_held_session_is_continued_until_it_is_forgotten(play: MakePlay) -> None:
    p = play()

    async def turns() -> None:
        first = await p.arun(hold=True)
        session = first.transcript.session_id
        assert session is not None
        assert session.startswith("direct-")
        second = await p.arun(hold=True, session_id=session, prompt="again")
        assert second.transcript.session_id == session
        assert [message.text for message in second.transcript.messages] == ["again", "Hello"]
        await p.arun(hold=True, session_id=session, prompt="more")
        await p.engine.forget(session)
        await p.engine.forget(session)
        with pytest.raises(ConfigurationError, match="session"):
            await p.arun(hold=True, session_id=session)

    asyncio.run(turns())

    assert [row["content"] for row in messages(p)] == [
        "You are a helpful assistant.",
        *("hello", "Hello", "again", "Hello", "more"),
    ]
    assert len({one.headers["x-session-id"] for one in p.provider.asked}) == 1


def test_a_turn_that_is_not_accepted_changes_no_session(play: MakePlay) -> None:
    p = play()

    async def turns() -> None:
        refused = await p.arun(hold=True, accept=False)
        with pytest.raises(ConfigurationError):
            await p.arun(session_id=refused.transcript.session_id)
        session = (await p.arun(hold=True)).transcript.session_id
        await p.arun(hold=True, accept=False, session_id=session, prompt="vain")
        await p.arun(session_id=session, prompt="last")
        with pytest.raises(ConfigurationError):
            await p.arun(session_id=session)

    asyncio.run(turns())

    texts = [row["content"] for row in messages(p)]
    assert texts[1:] == ["hello", "Hello", "last"], "it ended with a turn that was not to be held"


def test_nobody_judges_a_prompt_that_is_not_held(play: MakePlay) -> None:
    p = play()

    p.run()

    assert p.judged == []


def test_closing_forgets_every_session(play: MakePlay) -> None:
    p = play()

    async def turns() -> None:
        session = (await p.arun(hold=True)).transcript.session_id
        await p.engine.close()
        with pytest.raises(ConfigurationError):
            await p.arun(session_id=session)

    asyncio.run(turns())


# --- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": (McpServer("t", url="http://h"),)},
        {"work_dir": Path()},
        {"permission": "deny"},
        {"env": {"A": "1"}},
        {"rules_file": Path("AGENTS.md")},
        {"keep_session": True},
        {"extra_cli_args": ("--variant", "x")},
        {"system_message": None},
        {"session_id": "ses_of_opencodes"},
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_sent(
    play: MakePlay, fields: dict[str, Any]
) -> None:
    p = play()

    with pytest.raises(ConfigurationError) as raised:
        p.run(**fields)

    assert raised.value.hint
    assert p.provider.asked == []


def test_without_the_relay_it_is_refused(play: MakePlay) -> None:
    p = play()

    with pytest.raises(ConfigurationError, match="relay"):
        asyncio.run(
            p.engine.run(PromptRequest("hello", MODEL), p.events.append, lambda _seen: True)
        )


def test_an_answer_from_disk_is_like_the_first_and_asks_nobody(
    play: MakePlay, tmp_path: Path
) -> None:
    p = play()
    terms = p.terms(replay=ReplayKey(tmp_path))

    first, second = p.run(terms=terms), p.run(terms=terms)

    assert len(p.provider.asked) == 1
    (exchange,) = second.exchanges
    assert exchange.replayed
    assert second.transcript.text == first.transcript.text == "Hello"
    assert second.transcript.messages[-1].usage == ANSWER.usage
    assert [event.text for event in p.events if isinstance(event, TextDelta)] == ["Hel", "lo"] * 2
    assert second.returncode == 0


def test_an_observer_that_fails_fails_nobodys_prompt(
    play: MakePlay, caplog: pytest.LogCaptureFixture
) -> None:
    p = play()

    def fail(_event: Event) -> None:
        raise ValueError("an observer's own fault")

    async def both() -> tuple[Evidence, Evidence]:
        request = PromptRequest("hello", MODEL)
        failing = p.engine.run(request, fail, lambda _seen: True, p.terms())
        return await asyncio.gather(failing, p.arun())

    assert [each.transcript.text for each in asyncio.run(both())] == ["Hello", "Hello"]
    assert "an observer failed on TextDelta" in caplog.text
    assert "".join(event.text for event in p.events if isinstance(event, TextDelta)) == "Hello"


def test_many_at_once_come_each_to_its_own(play: MakePlay) -> None:
    p = play(stream(*GOOD, pause_s=0.01))
    heard: dict[int, list[Event]] = {number: [] for number in range(50)}

    async def one(number: int) -> Evidence:
        request = PromptRequest(f"number {number}", MODEL)
        return await p.engine.run(request, heard[number].append, lambda _seen: True, p.terms())

    async def all_of_them() -> list[Evidence]:
        return await asyncio.gather(*map(one, heard))

    found = asyncio.run(all_of_them())

    assert [each.transcript.messages[0].text for each in found] == [f"number {n}" for n in heard]
    assert {each.transcript.text for each in found} == {"Hello"}
    for events in heard.values():
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hel", "lo"]
