"""What a prompt makes of servers that die under it."""

from __future__ import annotations

import pytest

from chutes_opencode.crashes import ALONE_AFTER, ALONE_AFTER_TOOLS, Crashes
from chutes_opencode.engines.base import Evidence
from chutes_opencode.results import Exchange

CRASH = Evidence(stopped="crash")
AT_WORK = Evidence(stopped="crash", exchanges=(Exchange(200, finish_reason="tool_calls"),))


@pytest.mark.parametrize("stopped", [None, "timeout", "relay"])
def test_only_a_crash_is_forgiven(stopped: str | None) -> None:
    crashes = Crashes()

    assert not crashes.forgives(Evidence(stopped=stopped))
    assert crashes.count == 0


def test_the_first_crashes_are_nobodys_fault_and_then_it_runs_alone() -> None:
    crashes = Crashes()

    forgiven = [crashes.forgives(CRASH) for _ in range(ALONE_AFTER + 1)]

    assert forgiven == [True] * ALONE_AFTER + [False]
    assert crashes.alone


def test_whose_tools_were_at_work_is_alone_sooner() -> None:
    crashes = Crashes()

    forgiven = [crashes.forgives(AT_WORK) for _ in range(ALONE_AFTER_TOOLS + 1)]

    assert forgiven == [True] * ALONE_AFTER_TOOLS + [False]


def test_the_end_of_a_server_of_its_own_is_its_own_fault() -> None:
    crashes = Crashes()

    assert not crashes.forgives(Evidence(stopped="crash", alone=True))
    assert not crashes.alone
