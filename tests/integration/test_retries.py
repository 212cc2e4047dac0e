"""Failures that pass: only the step that failed is asked again, and all of it is billed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    Event,
    MaxOutputTokensError,
    OpenCodeError,
    Retrying,
    ServerError,
    Simulator,
    StepRestarted,
    TextDelta,
    TruncatedStreamError,
)

StartSimulator = Callable[..., Simulator]
WORDS = "some words " * 9


def scenario(fault: str, times: int, usage: str = "every", skip: int = 0) -> dict[str, Any]:
    """A model that fails some times, then answers; each chunk tells its usage, as Chutes may."""
    rule = {"model": "sim/*", "fault": fault, "times": times, "skip": skip}
    return {"usage": usage, "rules": [rule]}


@pytest.mark.parametrize(
    ("fault", "times", "errors"),
    [
        ("500-exhausted", 2, [ServerError, ServerError, None]),
        ("stream-bare-end", 2, [TruncatedStreamError, TruncatedStreamError, None]),
        ("finish-length", 1, [MaxOutputTokensError, None]),
    ],
)
def test_failures_then_success(
    start_simulator: StartSimulator,
    fault: str,
    times: int,
    errors: list[type[OpenCodeError] | None],
) -> None:
    simulator = start_simulator(scenario(fault, times))

    result = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=3).prompt(WORDS)

    total = simulator.bill.total
    assert (result.success, result.result) == (True, WORDS)
    assert [type(a.error) if a.error else None for a in result.attempts] == errors
    assert result.usage.num_requests == len(errors)
    assert result.usage.input + result.usage.cache_read == total.input_tokens
    assert result.usage.output == total.output_tokens
    assert result.cost_usd == pytest.approx(total.cost_usd, abs=1e-12)
    assert not result.usage.estimated
    for request in simulator.requests[1:]:
        assert WORDS in request.body.decode()
        assert request.body.decode().count(WORDS) == 1, "no attempt sends the message twice"


@pytest.mark.parametrize(
    ("fault", "kind"), [("500-exhausted", Retrying), ("stream-bare-end", StepRestarted)]
)
def test_who_watches_is_told_that_a_step_begins_anew(
    start_simulator: StartSimulator, fault: str, kind: type[Event]
) -> None:
    start_simulator(scenario(fault, 1))

    *events, last, _ = ChutesOpenCodeLLM("sim/echo", builtin_tools=False).stream(WORDS)

    assert type(last).__name__ == "StepEnd"
    (again,) = (number for number, event in enumerate(events) if type(event) is kind)
    void = [event.text for event in events[:again] if isinstance(event, TextDelta)]
    told = [event.text for event in events[again:] if isinstance(event, TextDelta)]
    assert "".join(told) == WORDS
    assert ("".join(void) in WORDS, bool(void)) == (True, kind is StepRestarted)


@pytest.mark.parametrize("fault", ["500-exhausted", "stream-bare-end"])
def test_what_an_agent_has_done_is_not_done_again_when_a_later_step_fails(
    start_simulator: StartSimulator, tmp_path: Path, fault: str
) -> None:
    simulator = start_simulator(scenario(fault, 1, skip=1))
    bash = {"command": "echo x >> file; cat file", "description": "d"}
    script = json.dumps({"steps": [{"tool": "bash", "arguments": bash}, {"text": "well"}]})
    llm = ChutesOpenCodeLLM("sim/script", work_dir=tmp_path / "home", retries=2)

    result = llm.prompt(script)

    assert result.result == "well"
    assert [call.output.strip() for call in result.transcript.tool_calls] == ["x"]
    assert (tmp_path / "home" / "file").read_text() == "x\n"
    assert [attempt.scope for attempt in result.attempts] == ["request", "prompt"]
    assert result.usage.num_requests == 3
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)


def test_a_tool_call_of_a_stream_that_dies_is_not_carried_out(
    start_simulator: StartSimulator, tmp_path: Path
) -> None:
    simulator = start_simulator()
    bash = {"command": "echo x >> file", "description": "d"}
    first = {"text": "I add a line.", "tool": "bash", "arguments": bash}
    steps = [first | {"fault": "no-finish-reason", "times": 1}, {"text": "well"}]
    llm = ChutesOpenCodeLLM("sim/script", work_dir=tmp_path / "home")

    result = llm.prompt(json.dumps({"steps": steps}))

    assert result.result == "well"
    assert (tmp_path / "home" / "file").read_text() == "x\n"
    assert len(result.transcript.tool_calls) == 1
    *_, last = (request.json for request in simulator.requests if request.method == "POST")
    said = [message for message in last["messages"] if message["role"] == "assistant"]
    assert [message["content"] for message in said] == ["I add a line."]
    assert result.usage.num_requests == 3


def test_a_prompt_whose_agent_has_worked_in_a_folder_of_the_caller_is_not_started_again(
    start_simulator: StartSimulator, tmp_path: Path
) -> None:
    start_simulator({"rules": [{"model": "sim/*", "fault": "finish-length", "skip": 1}]})
    bash = {"command": "echo x >> file; cat file", "description": "d"}
    script = json.dumps({"steps": [{"tool": "bash", "arguments": bash}, {"text": "well"}]})
    llm = ChutesOpenCodeLLM("sim/script", work_dir=tmp_path / "home", retries=2)

    with pytest.raises(MaxOutputTokensError) as raised:
        llm.prompt(script)

    assert raised.value.result is not None
    assert len(raised.value.result.attempts) == 1
    assert (tmp_path / "home" / "file").read_text() == "x\n"
