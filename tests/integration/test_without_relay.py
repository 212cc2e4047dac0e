"""`relay=False`: opencode asks the provider itself, and a guard plugin bounds what it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    AuthenticationError,
    ChutesOpenCodeLLM,
    LimitExceededError,
    Limits,
    McpServer,
    OpenCodeError,
    RateLimitError,
    ServerError,
    Simulator,
    ToolServerError,
    TruncatedStreamError,
)

StartSimulator = Callable[..., Simulator]


def bash(command: str) -> dict[str, Any]:
    return {"tool": "bash", "arguments": {"command": command, "description": "d"}}


def bodies(simulator: Simulator) -> list[Any]:
    """Return the bodies of the model requests."""
    return [request.json for request in simulator.requests if request.method == "POST"]


@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        ("401-invalid", AuthenticationError, 1),
        ("429-nginx", RateLimitError, 1),
        ("html-200", ServerError, 1),
        ("stream-bare-end", TruncatedStreamError, 1),
        ("empty-stream", TruncatedStreamError, 1),
        ("endless-tools", LimitExceededError, 4),
    ],
)
def test_a_fault_ends_in_its_class_after_so_many_requests(
    simulator: Simulator, fault: str, error: type[OpenCodeError], sent: int
) -> None:
    llm = ChutesOpenCodeLLM(
        f"sim/fault/{fault}", retries=1, limits=Limits(max_requests=4), relay=False
    )

    with pytest.raises(error) as raised:
        llm.prompt("hello")

    assert type(raised.value) is error
    assert raised.value.result is not None
    assert len(bodies(simulator)) == raised.value.result.usage.num_requests == sent


def test_a_step_is_tried_retries_times_in_all(start_simulator: StartSimulator) -> None:
    simulator = start_simulator({"rules": [{"model": "sim/echo", "fault": "500-exhausted"}]})

    with pytest.raises(ServerError) as caught:
        ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=3, relay=False).prompt("x")

    # Two by the first opencode, which repeats a step by itself, and one by the second.
    assert len(bodies(simulator)) == 3
    assert caught.value.result is not None
    assert len(caught.value.result.attempts) == 2


def test_a_death_without_usage_is_counted_by_estimate(start_simulator: StartSimulator) -> None:
    rule = {"model": "sim/echo", "fault": "stream-bare-end", "times": 1}
    simulator = start_simulator({"rules": [rule], "usage": "end"})
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=2, relay=False)

    result = llm.prompt("word " * 400)

    total = simulator.bill.total
    assert result.success
    assert result.usage.estimated
    assert result.usage.output == pytest.approx(total.output_tokens, rel=0.02)
    assert result.usage.input >= total.input_tokens


def test_a_prompt_whose_agent_has_worked_is_not_started_again(
    start_simulator: StartSimulator, tmp_path: Path
) -> None:
    rule = {"model": "sim/script", "fault": "stream-bare-end", "skip": 1, "times": 1}
    start_simulator({"rules": [rule]})
    script = json.dumps({"steps": [bash("echo x >> file; cat file"), {"text": "well"}]})
    llm = ChutesOpenCodeLLM("sim/script", work_dir=tmp_path / "home", retries=2, relay=False)

    with pytest.raises(TruncatedStreamError) as raised:
        llm.prompt(script)

    assert raised.value.result is not None
    assert len(raised.value.result.attempts) == 1
    assert [call.output.strip() for call in raised.value.result.transcript.tool_calls] == ["x"]


def test_the_model_receives_the_system_message_and_the_prompt_and_nothing_else(
    simulator: Simulator,
) -> None:
    llm = ChutesOpenCodeLLM("sim/echo", "Only {env:HOME}.", builtin_tools=False, relay=False)

    result = llm.prompt(" hello\n")

    (body,) = bodies(simulator)
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("system", "Only {env:HOME}."),
        ("user", " hello\n"),
    ]
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd)


def test_sub_agents_are_on_the_bill_and_no_variable_holds_the_key(simulator: Simulator) -> None:
    inner = json.dumps({"steps": [bash("env"), {"text": "inner"}]})
    task = {"description": "d", "prompt": inner, "subagent_type": "general"}
    first_environment = bash("tr '\\0' '\\n' < /proc/$PPID/environ")
    steps = [bash("env"), {"tool": "task", "arguments": task}, first_environment, {"text": "end"}]
    llm = ChutesOpenCodeLLM("sim/script", retries=1, relay=False)

    result = llm.prompt(json.dumps({"steps": steps}))

    shown, _, first = (call.output for call in result.transcript.tool_calls)
    assert result.result == "end"
    assert "HOME=" in shown
    assert "CHUTES_OPENCODE_LEASE" not in shown
    # Only the relay can keep it out of there.
    assert "CHUTES_OPENCODE_LEASE=[masked]" in first
    assert len([exchange for exchange in result.exchanges if exchange.parent_session_id]) == 2
    assert result.usage.num_requests == len(bodies(simulator)) == 6
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd)


def test_a_tool_server_that_is_not_there_is_an_error_before_anything_is_spent(
    simulator: Simulator,
) -> None:
    server = McpServer("broken", command=("/nowhere/to/be/found",))
    llm = ChutesOpenCodeLLM("sim/echo", tools=[server], relay=False)

    with pytest.raises(ToolServerError, match="broken"):
        llm.prompt("hello")
    assert bodies(simulator) == []
