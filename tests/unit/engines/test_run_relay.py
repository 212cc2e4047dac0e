"""RunEngine by the relay: a fake opencode asks a real relay, which asks a provider of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import BillingError, ConfigurationError, LimitExceededError, ServerError
from chutes_opencode.events import StepEnd, TextDelta
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.process import Command
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream
from chutes_opencode.request import ChatMessage, FilePart
from chutes_opencode.retry import RetryPolicy
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS, longer_and_longer
from tests.unit.relay.stage import (
    GOOD,
    KEY,
    MODEL,
    Answer,
    Provider,
    error,
    nothing,
    stream,
)

SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
PRICE = Price(input=1.0, output=2.0)

MakeStage = Callable[..., Any]
Work = Callable[[Any], Any]


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


class Agent:
    """What the fake opencode does while it runs: it asks where its config says."""

    def __init__(self, *sessions: str) -> None:
        self.sessions = sessions or (SESSION,)
        self.answers: list[httpx.Response] = []

    async def __call__(self, opencode: Any) -> None:
        config = json.loads(opencode.files["opencode.json"])
        (agent,) = config["agent"].values()
        key = opencode.commands["run"].env[KEY_VARIABLE]
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=WAIT_SECONDS) as http:
            for session in self.sessions:
                system = {"role": "system", "content": f"{agent.get('prompt')}\nenvironment"}
                body = {
                    "model": MODEL,
                    "stream": True,
                    "messages": [system, {"role": "user", "content": "Say hi"}],
                    "temperature": 0.5,
                }
                url = config["provider"]["chutes"]["options"]["baseURL"] + "/chat/completions"
                headers = {"authorization": f"Bearer {key}", "x-session-id": session}
                self.answers.append(await http.post(url, headers=headers, json=body))


class Play:
    """A stage whose engine goes by a relay to a provider."""

    def __init__(self, stage: MakeStage, relay: Relay, provider: Provider) -> None:
        self.make, self.relay, self.provider = stage, relay, provider
        self.made: Any = None

    def terms(self, **fields: Any) -> Terms:
        upstream = Upstream("chutes", self.provider.base_url, lambda: KEY)
        plain: dict[str, Any] = {
            "prices": {MODEL: PRICE},
            "model": MODEL,
            "policy": RetryPolicy(base_wait_s=0.01),
        }
        return Terms(upstream, **plain | fields)

    def run(
        self,
        works: Work | None,
        *,
        terms: Terms | None = None,
        opencode: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Evidence:
        self.made = self.make(works=works, **opencode or {})
        self.made.engine = replace(self.made.engine, relay=lambda: self.relay)
        evidence: Evidence = self.made.run(terms=terms or self.terms(), **{"model": MODEL} | fields)
        return evidence


@pytest.fixture
def play(stage: MakeStage, relay: Relay) -> Iterator[Callable[..., Play]]:
    providers: list[Provider] = []

    def make(*answers: Answer) -> Play:
        providers.append(Provider(*answers))
        return Play(stage, relay, providers[-1])

    yield make
    for provider in providers:
        provider.__exit__()


MakePlay = Callable[..., Play]


# --- what opencode is given -----------------------------------------------------------------------


def test_opencode_never_sees_the_key(play: MakePlay) -> None:
    played = play()

    played.run(Agent())

    opencode = played.made.opencode
    (asked,) = played.provider.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert all(KEY not in " ".join(c.env.values()) for c in opencode.commands.values())
    assert not [name for name, text in opencode.files.items() if KEY in text]


def test_opencode_runs_without_plugins_and_asks_the_relay(play: MakePlay) -> None:
    played = play()

    played.run(Agent())

    config = json.loads(played.made.opencode.files["opencode.json"])
    assert config["plugin"] == []
    assert played.made.opencode.commands["run"].env["OPENCODE_PURE"] == "1"
    assert "guard/guard.js" not in played.made.opencode.files
    assert config["provider"]["chutes"]["options"]["baseURL"] == played.relay.url


def test_the_model_gets_the_callers_words_and_values_only(play: MakePlay) -> None:
    played = play()

    played.run(Agent(), system_message="Be brief.", context=False)

    (asked,) = played.provider.asked
    assert asked.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hi"},
    ]
    assert "temperature" not in asked.body
    assert "Be brief." not in played.made.opencode.files["opencode.json"]


# --- what is seen ---------------------------------------------------------------------------------


def test_the_books_are_the_evidence(play: MakePlay) -> None:
    evidence = play(error(503, "down"), stream(*GOOD)).run(Agent())

    assert (evidence.relayed, evidence.ended, evidence.stopped) == (True, None, None)
    assert [(e.status, e.attempt) for e in evidence.exchanges] == [(503, 1), (200, 2)]
    assert evidence.exchanges[1].cost_usd == pytest.approx(10e-6 + 8e-6)
    assert evidence.failures == 0


def test_the_text_is_told_once_as_it_comes(play: MakePlay) -> None:
    played = play()

    played.run(Agent())

    events = played.made.events
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["Hel", "lo"]
    assert len([e for e in events if isinstance(e, StepEnd)]) == 1


def test_a_failure_for_good_is_what_the_provider_said(play: MakePlay) -> None:
    played, agent = play(error(402, "no balance")), Agent()

    evidence = played.run(agent, opencode={"stdout": "", "returncode": 1})

    assert isinstance(evidence.ended, BillingError)
    assert [answer.status_code for answer in agent.answers] == [422]
    assert len(played.provider.asked) == 1


def test_a_limit_ends_the_prompt(play: MakePlay) -> None:
    played, agent = play(), Agent(SESSION, SESSION)

    evidence = played.run(agent, terms=played.terms(max_requests=1))

    assert isinstance(evidence.ended, LimitExceededError)
    assert [answer.status_code for answer in agent.answers] == [200, 422]
    assert len(played.provider.asked) == 1


def test_history_is_imported_and_its_session_is_the_only_one(play: MakePlay) -> None:
    played, stranger = play(), Agent("ses_stranger")

    played.run(stranger, history=(ChatMessage("user", "before"),))

    assert [answer.status_code for answer in stranger.answers] == [422]
    assert played.provider.asked == []


@pytest.mark.parametrize(
    ("opencode", "fields", "stopped"),
    [
        pytest.param({}, {}, "guard", id="it answered, but not by the relay"),
        pytest.param(
            {"stdout": "", "export": {}},
            {"attachments": (FilePart("a.png", b"cut", "image/png"),)},
            "attachment",
            id="a file that it could not read",
        ),
    ],
)
def test_a_run_without_a_request_is_not_trusted(
    play: MakePlay, opencode: dict[str, Any], fields: dict[str, Any], stopped: str
) -> None:
    assert play().run(None, opencode=opencode, **fields).stopped == stopped


# --- its end --------------------------------------------------------------------------------------


def test_what_is_under_way_at_the_timeout_is_cut_and_in_the_books(play: MakePlay) -> None:
    for seconds in longer_and_longer(0.3):
        played = play(nothing)
        evidence = played.run(Agent(), timeout_seconds=seconds)
        if played.provider.asked:
            break

    assert evidence.stopped == "timeout"
    (cut,) = evidence.exchanges
    assert (cut.status, cut.whole) == (None, False)
    assert cut.duration_s is not None


def test_a_relay_that_stops_ends_the_run_at_once(play: MakePlay) -> None:
    with Relay() as own:
        played = play()
        played.relay = own

        async def stop_it(_opencode: Any) -> None:
            await asyncio.to_thread(own.stop)

        evidence = played.run(
            stop_it, opencode={"hangs": frozenset({"run"})}, timeout_seconds=PROCESS_SECONDS
        )

    assert evidence.stopped == "relay"
    assert isinstance(evidence.ended, ServerError)
    assert played.made.opencode.gone.is_set()


def test_a_run_that_could_not_begin_leaves_no_key_behind(play: MakePlay) -> None:
    played = play()

    async def start(_command: Command) -> None:
        raise PermissionError(13, "Permission denied")

    def refuse(**fields: Any) -> Any:
        made = stage(**fields)
        made.opencode.start = start
        return made

    stage, played.make = played.make, refuse
    with pytest.raises(ConfigurationError, match="could not be run"):
        played.run(None)

    assert played.relay.stats().leases == 0


def test_every_run_takes_its_key_back(play: MakePlay) -> None:
    played = play()

    played.run(Agent())

    assert played.relay.stats().leases == 0
