"""What an instance gives to the relay that its prompts go by, and tells of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Event, RelayStats, Retrying, load_settings
from chutes_opencode.errors import ConfigurationError, ServerError
from chutes_opencode.event_log import log_event
from chutes_opencode.events import PromptCancelled, Waiting
from chutes_opencode.logs import make_logger
from chutes_opencode.relay.server import shared_relay
from chutes_opencode.relay.terms import ReplayKey
from chutes_opencode.request import Limits
from chutes_opencode.results import QueryResult
from tests.unit.echo import EchoEngine, set_up_echo


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    return set_up_echo(tmp_path, monkeypatch)


def test_by_default_a_prompt_goes_by_the_relay(engine: EchoEngine) -> None:
    ChutesOpenCodeLLM("m").prompt("hi")
    ChutesOpenCodeLLM("m", relay=False).prompt("hi")

    relayed, direct = engine.terms
    assert relayed is not None
    assert relayed.model == "m"
    assert direct is None


def test_what_a_prompt_may_do_reaches_the_relay(
    engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(max_requests=7, max_tokens=99)
    llm = ChutesOpenCodeLLM("m", fallback_models=["m"], cache="kept", limits=limits, retries=2)
    monkeypatch.chdir("/")

    llm.prompt("hi", sample_index=4)

    (terms,) = engine.terms
    assert terms is not None
    assert (terms.max_requests, terms.max_tokens, terms.tries_left) == (7, 99, 2)
    assert terms.fallback_models == ("m",)
    assert terms.replay == ReplayKey(tmp_path / "kept", 4)


@pytest.mark.parametrize(
    ("relay", "cache", "message"),
    [(False, "kept", "cache= needs the relay"), (True, " ", "cache is empty")],
)
def test_a_cache_that_cannot_be_is_refused_at_once(relay: bool, cache: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChutesOpenCodeLLM("m", relay=relay, cache=cache)


def test_open_keys_can_be_seen() -> None:
    llm = ChutesOpenCodeLLM("acme/model", settings=load_settings(api_token="cpk_stats_test"))
    before = llm.relay_stats()

    with shared_relay().lease():
        during = llm.relay_stats()

    assert isinstance(during, RelayStats)
    assert during.leases == before.leases + 1
    assert llm.relay_stats().leases == before.leases


@pytest.mark.parametrize("scope", ["prompt", "request"])
def test_the_log_tells_what_is_tried_again(scope: str) -> None:
    out = io.StringIO()
    event: Event = Retrying(
        attempt=2,
        error=ServerError(raw_message="502"),
        wait_seconds=0.5,
        scope=scope,  # type: ignore[arg-type]
    )

    log_event(make_logger("mine", stream=out), event)

    assert f"{scope} failed, trying again" in out.getvalue()
    assert "attempt=2" in out.getvalue()


def test_the_log_tells_what_was_cancelled() -> None:
    out = io.StringIO()
    event = PromptCancelled(result=QueryResult("", -1, "", "", duration_s=2.5))

    log_event(make_logger("mine", "info", stream=out), event)

    assert "prompt cancelled" in out.getvalue()
    assert "seconds=2.5" in out.getvalue()


def test_the_log_tells_what_is_waited_for() -> None:
    out = io.StringIO()

    log_event(make_logger("mine", "info", stream=out), Waiting(reason="the limiter"))

    assert "the limiter" in out.getvalue()
