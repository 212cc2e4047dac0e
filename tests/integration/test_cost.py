"""What is reported is what the provider bills, whatever went wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode import (
    BillingError,
    CapacityError,
    ChutesOpenCodeLLM,
    ColdModelError,
    ModelNotFoundError,
    OpenCodeError,
    QueryResult,
    Simulator,
)

StartSimulator = Callable[..., Simulator]
WORDS = "some words of a longer answer " * 40


def bash(command: str, **more: Any) -> dict[str, Any]:
    return {"tool": "bash", "arguments": {"command": command, "description": "d"}, **more}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": steps})


def check_bill(result: QueryResult | None, simulator: Simulator) -> None:
    """Compare tokens and dollars with the simulator's bill."""
    assert result is not None
    total, usage = simulator.bill.total, result.usage
    assert not usage.estimated
    assert usage.input + usage.cache_read == total.input_tokens
    assert usage.cache_read == total.cached_tokens
    assert usage.output + usage.reasoning == total.output_tokens
    assert result.cost_usd == pytest.approx(total.cost_usd, abs=1e-12)
    assert total.cost_usd > 0


def test_an_agent_with_a_sub_agent_and_failing_steps_of_both(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator({"usage": "every"})
    inner = script(
        bash("echo inner", fault="stream-bare-end", times=1),
        {"text": "inner end", "fault": "500-exhausted", "times": 1},
    )
    task = {"description": "d", "prompt": inner, "subagent_type": "general"}
    outer = script(
        bash("echo outer", reasoning="hm"),
        {"tool": "task", "arguments": task, "fault": "502-html", "times": 1},
        {"text": "outer end", "fault": "stream-error-event", "times": 2},
    )

    result = ChutesOpenCodeLLM("sim/script", retries=3).prompt(outer)

    assert result.result == "outer end"
    subs = [exchange for exchange in result.exchanges if exchange.parent_session_id]
    assert len(subs) == 4
    assert {exchange.parent_session_id for exchange in subs} == {result.session_id}
    # Whole answers: three of the agent, two of its sub-agent; five attempts failed.
    assert result.usage.num_requests == 10
    assert simulator.bill.total.requests == 8, "a refusal is not billed"
    check_bill(result, simulator)


def test_a_prompt_that_fails_in_the_end_reports_what_its_steps_have_cost(
    simulator: Simulator,
) -> None:
    prompt = script(bash("echo well"), {"fault": "402-quota"})

    with pytest.raises(BillingError) as raised:
        ChutesOpenCodeLLM("sim/script").prompt(prompt)

    assert raised.value.result is not None
    assert raised.value.result.usage.num_requests == 2
    check_bill(raised.value.result, simulator)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("503-cold", ColdModelError),
        ("429-capacity", CapacityError),
        ("404-model", ModelNotFoundError),
    ],
)
def test_a_model_that_is_full_cold_or_gone_is_stood_in_for_at_once(
    simulator: Simulator, fault: str, error: type[OpenCodeError]
) -> None:
    asked = f"sim/fault/{fault}"
    llm = ChutesOpenCodeLLM(asked, builtin_tools=False, fallback_models=["sim/echo"])

    result = llm.prompt(WORDS)

    assert result.result == WORDS
    assert (result.model, result.served_model) == (asked, "sim/echo")
    assert [(e.requested_model, e.served_model) for e in result.exchanges] == [
        (asked, None),
        ("sim/echo", "sim/echo"),
    ]
    assert [type(attempt.error) for attempt in result.attempts] == [error, type(None)]
    assert result.exchanges[1].first_byte_s is not None
    check_bill(result, simulator)


@pytest.mark.parametrize("fault", ["stream-bare-end", "stream-reset", "stream-error-event"])
def test_a_stream_that_died_without_usage_is_estimated(
    start_simulator: StartSimulator, fault: str
) -> None:
    rule = {"model": "sim/echo", "fault": fault, "times": 1}
    simulator = start_simulator({"rules": [rule], "usage": "end"})

    result = ChutesOpenCodeLLM("sim/echo", builtin_tools=False).prompt(WORDS)

    assert (result.result, result.usage.num_requests) == (WORDS, 2)
    assert result.usage.estimated
    assert [exchange.usage.estimated for exchange in result.exchanges if exchange.usage] == [
        True,
        False,
    ]
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, rel=0.1)
