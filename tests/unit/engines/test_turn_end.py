"""How a turn ends that does not end by itself: in time, and with nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from chutes_opencode.engines.entrance import Entrance
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.turn import Seated, Turn
from chutes_opencode.errors import LimitExceededError
from chutes_opencode.opencode.api import ApiError
from chutes_opencode.request import PromptRequest
from tests.unit.engines.turns import (
    GONE,
    FakeApi,
    FakeServer,
    FakeWire,
    Play,
    answers,
    hangs,
    works_until_aborted,
)
from tests.unit.relay import virtual_time


def test_what_takes_too_long_is_aborted() -> None:
    played = Play(works_until_aborted)

    evidence = played.run(timeout_seconds=10.0)

    assert (evidence.stopped, evidence.returncode) == ("timeout", -1)
    assert played.api.calls == ["send", "abort"]
    assert played.ended_at == pytest.approx(10, abs=0.5)
    assert (played.server.draining, played.server.killed) == (False, False)


def test_a_queue_is_no_part_of_the_time() -> None:
    played = Play(works_until_aborted)
    played.wire.queued = [None] * 80 + [20.0]

    evidence = played.run(timeout_seconds=10.0)

    assert evidence.stopped == "timeout"
    assert evidence.queued_s == 20.0
    assert played.ended_at == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize(
    ("fields", "stopped"), [({"halted": True}, "relay"), ({"phase": "tool"}, "tool")]
)
def test_what_cannot_go_on_is_aborted(fields: dict[str, Any], stopped: str) -> None:
    played = Play(works_until_aborted)
    for name, value in fields.items():
        setattr(played.wire, name, value)

    assert played.run().stopped == stopped
    assert played.api.calls == ["send", "abort"]
    assert played.ended_at < 1


def test_an_answer_that_only_says_the_relay_has_stopped_is_none() -> None:
    played = Play(answers)
    played.wire.halted = True

    assert played.run().stopped == "relay"
    assert played.api.calls == ["send"]


class Shut:
    """An entrance through which nobody comes."""

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Callable[[], None]]:
        await asyncio.Event().wait()
        yield lambda: None


def test_what_has_not_gone_in_in_time_is_never_sent() -> None:
    played = Play()
    played.server.entrance = cast(Entrance, Shut())

    evidence = played.run(timeout_seconds=10.0)

    assert (evidence.stopped, evidence.returncode) == ("timeout", -1)
    assert played.api.calls == []
    assert played.ended_at == 10.0


@pytest.mark.parametrize(
    ("abort", "health", "killed"),
    [
        pytest.param("ok", True, False, id="the session goes on"),
        pytest.param("fails", True, False, id="only the abort fails"),
        pytest.param("fails", False, True, id="nobody answers"),
        pytest.param("hangs", False, True, id="nobody answers in time"),
    ],
)
def test_a_server_that_cannot_stop_a_session_gets_no_more_prompts(
    abort: str, *, health: bool, killed: bool
) -> None:
    played = Play(hangs)
    played.api.health = health
    if abort == "fails":
        played.api.failing["abort"] = ApiError(500, None)
    if abort == "hangs":
        played.api.hanging = {"abort"}

    evidence = played.run(timeout_seconds=10.0)

    assert evidence.stopped == "timeout"
    assert (played.server.draining, played.server.killed) == (True, killed)
    assert played.ended_at < 30


def test_a_crash_during_the_abort_does_not_hide_why_it_was_aborted() -> None:
    async def work(api: FakeApi, _session_id: str) -> Any:
        await api.aborted.wait()
        raise GONE

    assert Play(work).run(timeout_seconds=10.0).stopped == "timeout"


def test_a_caller_that_goes_away_leaves_nothing_running() -> None:
    api = FakeApi(works_until_aborted)
    request = PromptRequest(prompt="hello", model="m")
    seated = Seated(cast(Server, FakeServer(api)), "chutes", "ses_1", "ses_1")

    async def main() -> None:
        turn = Turn(request, seated, lambda _event: None, relayed=True)
        running = asyncio.create_task(turn.run(FakeWire()))
        await virtual_time.settle()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    virtual_time.run(main())
    assert api.calls == ["send", "abort"]


def test_what_the_relay_ended_it_for_is_told() -> None:
    played = Play()
    played.wire.ended = LimitExceededError(limit="max_requests")

    assert played.run().ended is played.wire.ended
