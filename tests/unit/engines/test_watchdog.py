"""Each phase of an attempt has its time."""

from __future__ import annotations

import pytest

from chutes_opencode.engines.watchdog import Patience, Watchdog
from chutes_opencode.request import McpServer, PromptRequest
from chutes_opencode.results import Exchange

PATIENCE = Patience(start_seconds=10, tool_seconds=100, finish_seconds=5)
BROKEN = Exchange(status=200, error="the stream broke")
CALLED = Exchange(status=200, finish_reason="tool_calls")
CALLED_OF_OLD = Exchange(status=200, finish_reason="function_call")
WHOLE = Exchange(status=200, finish_reason="stop")
REFUSED = Exchange(refused="max_requests")
SUB_AGENTS = Exchange(status=200, finish_reason="stop", parent_session_id="ses_main")


class FakeProgress:
    """A booking's progress."""

    def __init__(self, *exchanges: Exchange, quiet_since: float | None = None) -> None:
        self.busy = False
        self.quiet_since = quiet_since
        self._exchanges = exchanges

    def exchanges(self) -> tuple[Exchange, ...]:
        return self._exchanges


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def after(progress: FakeProgress, seconds: float, **request: object) -> str | None:
    """Ask a watchdog so many seconds after it has begun."""
    clock = Clock()
    asked = PromptRequest(prompt="hi", model="m", **request)  # type: ignore[arg-type]
    watchdog = Watchdog(progress, PATIENCE, asked, clock)
    clock.now += seconds
    return watchdog.overdue()


@pytest.mark.parametrize(
    ("exchanges", "phase", "seconds"),
    [
        pytest.param((BROKEN,), "start", 10, id="a step that is to be repeated"),
        pytest.param((CALLED,), "tool", 100, id="a tool"),
        pytest.param((CALLED_OF_OLD,), "tool", 100, id="a function"),
        pytest.param((CALLED, WHOLE), "finish", 5, id="the end"),
        pytest.param((CALLED, SUB_AGENTS), "tool", 100, id="a tool beside a sub-agent that ended"),
        pytest.param((SUB_AGENTS,), "finish", 5, id="nothing but a sub-agent"),
        pytest.param((REFUSED,), "finish", 5, id="a refusal"),
    ],
)
def test_what_follows_a_request_has_its_time(
    exchanges: tuple[Exchange, ...], phase: str, seconds: float
) -> None:
    # Half a minute into the attempt the last request ended.
    progress = FakeProgress(*exchanges, quiet_since=1030.0)

    assert after(progress, 30 + seconds) is None
    assert after(progress, 30 + seconds + 0.1) == phase


def test_the_first_request_has_its_time() -> None:
    assert after(FakeProgress(), 10) is None
    assert after(FakeProgress(), 10.1) == "start"


def test_tool_servers_may_take_their_own_time_to_start() -> None:
    servers = (
        McpServer("a", url="http://a", timeout_seconds=20),
        McpServer("b", url="http://b", timeout_seconds=7),
    )

    assert after(FakeProgress(), 30, tools=servers) is None
    assert after(FakeProgress(), 30.1, tools=servers) == "start"


def test_a_request_under_way_is_the_relays_affair() -> None:
    progress = FakeProgress(CALLED, quiet_since=1000.0)
    progress.busy = True

    assert after(progress, 10_000) is None


def test_a_request_that_left_no_record_is_as_good_as_none() -> None:
    progress = FakeProgress(quiet_since=1030.0)

    assert after(progress, 40) is None
    assert after(progress, 40.1) == "start"
