"""What the evidence of an attempt says of its own: how often a step failed, whether tools ran."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.engines.base import Evidence
from chutes_opencode.results import Exchange, Message, ToolPart, Transcript

GOOD = Exchange(200, finish_reason="stop")
DOWN = Exchange(503, body="down")
RESET = Exchange(error="reset")
REFUSED = Exchange(refused="max_requests")


def attempt(number: int, **fields: Any) -> Exchange:
    return Exchange(**{"status": 503, "attempt": number} | fields)


@pytest.mark.parametrize(
    ("exchanges", "failures"),
    [
        ((), 0),
        ((GOOD,), 0),
        ((DOWN,), 1),
        ((GOOD, DOWN, RESET), 2),
        ((DOWN, GOOD), 0),
        ((DOWN, REFUSED), 1),
        ((Exchange(200, body="<html>"),), 1),
    ],
)
def test_without_the_relay_failures_are_what_came_after_the_last_stream(
    exchanges: tuple[Exchange, ...], failures: int
) -> None:
    assert Evidence(exchanges=exchanges).failures == failures


@pytest.mark.parametrize(
    ("exchanges", "failures"),
    [
        pytest.param((), 0, id="nothing"),
        pytest.param((GOOD,), 0, id="whole"),
        pytest.param((attempt(1), attempt(2)), 2, id="two in vain"),
        pytest.param((attempt(1), attempt(1), attempt(1)), 1, id="not the step's fault"),
        pytest.param((attempt(1), attempt(2, status=200, finish_reason="stop")), 0, id="made up"),
        pytest.param((attempt(2, status=200),), 2, id="a stream that broke off"),
        pytest.param((attempt(2, status=None, error="reset"),), 2, id="no answer"),
        pytest.param((attempt(2), REFUSED), 2, id="a refusal was not sent"),
        pytest.param((attempt(2, replayed=True),), 0, id="from disk"),
    ],
)
def test_by_the_relay_the_last_attempts_number_tells(
    exchanges: tuple[Exchange, ...], failures: int
) -> None:
    assert Evidence(exchanges=exchanges, relayed=True).failures == failures


@pytest.mark.parametrize(
    ("status", "ran"),
    [("completed", True), ("running", True), ("pending", False), ("error", False)],
)
def test_a_tool_has_run_when_it_began(status: str, ran: bool) -> None:
    turn = Message("assistant", (ToolPart("bash", status=status),))

    assert Evidence(Transcript("ses_1", (turn,))).tools_ran is ran
