"""Failures that pass: the prompt succeeds, and every attempt is counted and billed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    MaxOutputTokensError,
    OpenCodeError,
    ServerError,
    Simulator,
    TruncatedStreamError,
)


def scenario(fault: str, times: int) -> dict[str, Any]:
    """A model that fails some times, then answers; each chunk tells its usage, as Chutes may."""
    return {
        "usage": "every",
        "rules": [{"model": "sim/echo", "fault": fault, "times": times}],
    }


@pytest.mark.parametrize(
    ("fault", "times", "errors"),
    [
        ("500-exhausted", 2, [ServerError, None]),
        ("stream-bare-end", 2, [TruncatedStreamError, TruncatedStreamError, None]),
        ("finish-length", 1, [MaxOutputTokensError, None]),
    ],
)
def test_failures_then_success(
    start_simulator: Callable[..., Simulator],
    fault: str,
    times: int,
    errors: list[type[OpenCodeError] | None],
) -> None:
    simulator = start_simulator(scenario(fault, times))

    result = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=3).prompt("some words " * 9)

    total = simulator.bill.total
    assert (result.success, result.result) == (True, "some words " * 9)
    assert [type(a.error) if a.error else None for a in result.attempts] == errors
    assert [attempt.number for attempt in result.attempts] == list(range(1, len(errors) + 1))
    assert result.usage.num_requests == times + 1
    assert result.usage.input + result.usage.cache_read == total.input_tokens
    assert result.usage.output == total.output_tokens
    assert result.cost_usd == pytest.approx(total.cost_usd)
    assert not result.usage.estimated
    for request in simulator.requests[1:]:
        roles = [message["role"] for message in json.loads(request.body)["messages"]]
        assert roles == ["system", "user"]


def test_a_step_is_tried_retries_times_in_all(
    start_simulator: Callable[..., Simulator],
) -> None:
    simulator = start_simulator(scenario("500-exhausted", 99))

    with pytest.raises(ServerError) as caught:
        ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=3).prompt("x")

    # Two by the first opencode, which repeats a step by itself, and one by the second.
    sent = [request for request in simulator.requests if request.method == "POST"]
    assert len(sent) == 3
    assert caught.value.result is not None
    assert len(caught.value.result.attempts) == 2


def test_a_death_without_usage_is_counted_by_estimate(
    start_simulator: Callable[..., Simulator],
) -> None:
    simulator = start_simulator(scenario("stream-bare-end", 1) | {"usage": "end"})

    result = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=2).prompt("word " * 400)

    total = simulator.bill.total
    assert result.success
    assert result.usage.estimated
    assert result.usage.output == pytest.approx(total.output_tokens, rel=0.02)
    assert result.usage.input >= total.input_tokens


@pytest.mark.parametrize("ours", [True, False])
def test_a_prompt_whose_agent_has_worked_in_a_folder_of_the_caller_is_not_started_again(
    start_simulator: Callable[..., Simulator], tmp_path: Path, *, ours: bool
) -> None:
    rule = {"model": "sim/script", "fault": "stream-bare-end", "skip": 1, "times": 1}
    start_simulator({"rules": [rule]})
    bash = {"command": "echo x >> file; cat file", "description": "d"}
    script = json.dumps({"steps": [{"tool": "bash", "arguments": bash}, {"text": "well"}]})
    llm = ChutesOpenCodeLLM("sim/script", work_dir=None if ours else tmp_path / "home", retries=2)

    if ours:
        result = llm.prompt(script)
        assert result.result == "well"
    else:
        with pytest.raises(TruncatedStreamError) as raised:
            llm.prompt(script)
        assert raised.value.result is not None
        result = raised.value.result

    assert len(result.attempts) == (2 if ours else 1)
    assert [call.output.strip() for call in result.transcript.tool_calls] == ["x"]
