"""Replay through the relay: a repeated prompt costs nothing and says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.events import TextDelta
from chutes_opencode.relay.terms import ReplayKey
from tests.unit.relay.stage import (
    BROKEN,
    GOOD,
    Answer,
    Stage,
    error,
    page,
    stream,
    whole,
)

MakeStage = Callable[..., Stage]

WHOLE = '{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("good", "streams"),
    [(stream(*GOOD), True), (page(200, WHOLE, "application/json"), False)],
)
def test_a_repeated_prompt_is_answered_from_disk(
    stage: MakeStage, tmp_path: Path, good: Answer, streams: bool
) -> None:
    s = stage(good)
    replay = ReplayKey(tmp_path)
    first = s.open(replay=replay)
    told = s.ask(stream=streams)
    first.close()
    second = s.open("ses_other", replay=replay)

    again = s.ask("ses_other", stream=streams)
    second.close()

    assert again.content == told.content
    assert again.headers["content-type"] == told.headers["content-type"]
    assert len(s.provider.asked) == 1
    (exchange,) = second.exchanges()
    assert (exchange.replayed, exchange.cost_usd) == (True, 0.0)
    assert second.usage.num_requests == 0
    assert exchange.finish_reason == "stop"


def test_the_observer_hears_a_replayed_answer_too(stage: MakeStage, tmp_path: Path) -> None:
    s = stage()
    for session in ("ses_one", "ses_two"):
        s.events.clear()
        booking = s.open(session, replay=ReplayKey(tmp_path))
        s.ask(session)
        booking.close()

    assert "".join(told.text for told in s.events if isinstance(told, TextDelta)) == "Hello"


def test_another_sample_or_step_is_asked(stage: MakeStage, tmp_path: Path) -> None:
    s = stage()
    first = s.open(replay=ReplayKey(tmp_path))
    s.ask()
    s.ask()
    first.close()
    second = s.open("ses_two", replay=ReplayKey(tmp_path, sample=1))
    s.ask("ses_two")
    second.close()

    assert len(s.provider.asked) == 3


@pytest.mark.parametrize("bad", [error(500, "no"), stream(*BROKEN), stream(*GOOD[:2])])
def test_what_is_not_whole_is_not_stored(stage: MakeStage, tmp_path: Path, bad: Answer) -> None:
    s = stage(bad, stream(*GOOD))
    first = s.open(replay=ReplayKey(tmp_path), tries_left=1)
    assert not whole(s.ask())
    first.close()
    second = s.open("ses_two", replay=ReplayKey(tmp_path))

    assert whole(s.ask("ses_two"))
    second.close()
    assert len(s.provider.asked) == 2


@pytest.mark.parametrize(
    ("good", "streams"),
    [(stream(*GOOD), True), (page(200, WHOLE, "application/json"), False)],
)
def test_a_stored_answer_that_is_none_is_not_given(
    stage: MakeStage, tmp_path: Path, good: Answer, streams: bool
) -> None:
    s = stage(good)
    first = s.open(replay=ReplayKey(tmp_path))
    s.ask(stream=streams)
    first.close()
    (file,) = tmp_path.rglob("*.exchange")
    head, body = json.loads(file.read_bytes().partition(b"\n")[0]), b'{"error": "no"}'
    head["sha256"] = hashlib.sha256(body).hexdigest()
    file.write_bytes(json.dumps(head).encode() + b"\n" + body)
    second = s.open("ses_two", replay=ReplayKey(tmp_path))

    again = s.ask("ses_two", stream=streams)
    second.close()

    assert again.status_code == 200
    assert b"error" not in again.content
    assert len(s.provider.asked) == 2
