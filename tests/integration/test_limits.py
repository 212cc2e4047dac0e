"""What a prompt, an instance and a process may spend, and what is left when they have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    ConfigurationError,
    LimitExceededError,
    Limits,
    Params,
    PromptTimeoutError,
    QueryResult,
    RateLimitError,
    ServerError,
    Simulator,
)
from chutes_opencode.simulator import Bill
from tests.patience import PROCESS_SECONDS, longer_and_longer

StartSimulator = Callable[..., Simulator]
ENDLESS = "sim/fault/endless-tools"
# A request that may say little is one that little money has to be set aside for.
SHORT = Params(max_tokens=100)


def sent(simulator: Simulator) -> int:
    return len([request for request in simulator.requests if request.method == "POST"])


def exceed(limits: Limits, model: str = ENDLESS, **arguments: Any) -> LimitExceededError:
    """Return the error of a prompt that knows no end by itself."""
    llm = ChutesOpenCodeLLM(model, limits=limits, params=SHORT, **arguments)
    with pytest.raises(LimitExceededError) as raised:
        llm.prompt("go on")
    return raised.value


def test_endless_tool_calls_stop_at_max_requests_exactly(simulator: Simulator) -> None:
    error = exceed(Limits(max_requests=7))

    assert error.limit == "max_requests"
    assert error.result is not None
    assert sent(simulator) == error.result.usage.num_requests == 7
    # The last call was answered, but its result could not be sent any more.
    assert len(error.result.transcript.tool_calls) >= 6
    assert error.result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)
    assert error.result.attempts[-1].error is error


def test_max_requests_counts_retries_and_sub_agents(start_simulator: StartSimulator) -> None:
    simulator = start_simulator()
    echo = {"command": "echo", "description": "d"}
    bash = {"tool": "bash", "arguments": echo}
    inner = json.dumps({"steps": [bash] * 50})
    task = {"description": "d", "prompt": inner, "subagent_type": "general"}
    steps = [{"tool": "task", "arguments": task, "fault": "500-exhausted", "times": 1}]
    llm = ChutesOpenCodeLLM("sim/script", limits=Limits(max_requests=6))

    with pytest.raises(LimitExceededError) as raised:
        llm.prompt(json.dumps({"steps": steps}))

    result = raised.value.result
    assert result is not None
    assert sent(simulator) == result.usage.num_requests == 6
    assert len([e for e in result.exchanges if e.parent_session_id and e.status]) == 4
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)


def test_a_limit_that_cuts_a_retry_short_names_the_failure_as_its_cause(
    start_simulator: StartSimulator,
) -> None:
    start_simulator({"rules": [{"model": "sim/echo", "fault": "500-exhausted"}]})

    error = exceed(Limits(max_requests=1), "sim/echo", builtin_tools=False)

    assert error.limit == "max_requests"
    assert type(error.__cause__) is ServerError


def test_dollars_are_not_overspent(simulator: Simulator) -> None:
    error = exceed(Limits(max_cost_usd=0.006))

    assert error.limit == "max_cost_usd"
    assert error.result is not None
    assert error.result.cost_usd == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)
    assert 0 < simulator.bill.total.cost_usd <= 0.006
    assert sent(simulator) == error.result.usage.num_requests > 1


def test_a_request_that_could_cost_too_much_is_not_sent(simulator: Simulator) -> None:
    error = exceed(Limits(max_cost_usd=0.00001), "sim/echo")

    assert error.result is not None
    assert (sent(simulator), error.result.usage.num_requests, error.result.cost_usd) == (0, 0, 0.0)


def test_a_dollar_limit_needs_a_price(start_simulator: StartSimulator) -> None:
    simulator = start_simulator({"models": [{"id": "free/of-price", "object": "model"}]})
    llm = ChutesOpenCodeLLM("free/of-price", limits=Limits(max_cost_usd=1.0))

    with pytest.raises(ConfigurationError, match="price"):
        llm.prompt("hello")
    assert sent(simulator) == 0


def test_tokens_end_an_agent_between_its_steps(simulator: Simulator) -> None:
    error = exceed(Limits(max_tokens=20_000))

    total = simulator.bill.total
    assert error.limit == "max_tokens"
    assert error.result is not None
    assert error.result.usage.total == total.input_tokens + total.output_tokens >= 20_000
    assert 1 < sent(simulator) == error.result.usage.num_requests < 6


def test_tokens_cut_a_stream_that_runs(start_simulator: StartSimulator) -> None:
    # So slow that little is on its way when it is cut.
    rule = {"model": "sim/size/*", "token_delay_s": 0.1, "chunk_size": 400}
    simulator = start_simulator({"rules": [rule]})

    error = exceed(Limits(max_tokens=5000), "sim/size/1000000", builtin_tools=False)

    assert error.limit == "max_tokens"
    assert error.result is not None
    assert error.result.usage.estimated
    assert error.result.usage.total == pytest.approx(5000, rel=0.1)
    simulator.stop()  # its bill is whole then, with what was cut
    (entry,) = simulator.bill.entries
    assert entry.outcome == "aborted"
    assert error.result.cost_usd == pytest.approx(entry.cost_usd, rel=0.1)


def test_the_deadline_ends_a_stream_that_runs(start_simulator: StartSimulator) -> None:
    rule = {"model": "sim/size/*", "token_delay_s": 0.1, "chunk_size": 400}

    def run_out_of_time(seconds: float) -> tuple[QueryResult, Bill]:
        simulator = start_simulator({"rules": [rule]})
        llm = ChutesOpenCodeLLM("sim/size/1000000", builtin_tools=False, deadline_seconds=seconds)
        result = llm.prompt("go on")
        assert result.duration_s >= seconds
        simulator.stop()  # its bill is whole then, with what was cut
        return result, simulator.bill

    for seconds in longer_and_longer(7, tries=3):
        result, bill = run_out_of_time(seconds)
        assert type(result.error) is PromptTimeoutError
        if bill.total.output_tokens > 2000:  # opencode had started early enough
            break

    assert (result.success, result.usage.num_requests, result.usage.estimated) == (False, 1, True)
    (entry,) = bill.entries
    assert entry.outcome == "aborted"
    assert result.cost_usd == pytest.approx(entry.cost_usd, rel=0.1)


def test_the_deadline_ends_the_wait_for_a_retry(start_simulator: StartSimulator) -> None:
    rule = {"model": "sim/echo", "fault": "429-nginx", "retry_after": "110"}
    simulator = start_simulator({"rules": [rule]})
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, deadline_seconds=100)

    with pytest.raises(RateLimitError) as raised:
        llm.prompt("hello")

    assert sent(simulator) == 1
    assert raised.value.result is not None
    assert raised.value.result.duration_s < 90, "a wait that cannot help is not begun"


def test_all_prompts_of_an_instance_share_max_total_cost_usd(simulator: Simulator) -> None:
    limits = Limits(max_total_cost_usd=0.0005)
    llm = ChutesOpenCodeLLM("sim/echo", limits=limits, params=SHORT, builtin_tools=False)

    results = llm.batch(["words " * 200] * 8, concurrency=2)

    spent = sum(result.cost_usd or 0.0 for result in results)
    errors = [result.error for result in results if result.error]
    assert [result.success for result in results].count(True) >= 1
    assert {type(error) for error in errors} == {LimitExceededError}
    assert {error.limit for error in errors} == {"max_total_cost_usd"}  # type: ignore[attr-defined]
    assert spent == pytest.approx(simulator.bill.total.cost_usd, abs=1e-12)
    assert spent <= 0.0005


PROCESS = """
from chutes_opencode import ChutesOpenCodeLLM, LimitExceededError, Params
for _ in range(3):
    llm = ChutesOpenCodeLLM("sim/echo", params=Params(max_tokens=100), builtin_tools=False)
    try:
        print(llm.prompt("words " * 200).success)
    except LimitExceededError as error:
        print(error.limit)
"""


def test_all_instances_of_a_process_share_its_limit(
    simulator: Simulator, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = run_python(PROCESS, CHUTES_OPENCODE_MAX_PROCESS_COST_USD="0.0003")

    said, complaint = process.communicate(timeout=PROCESS_SECONDS)

    assert said.split() == ["True", "max_process_cost_usd", "max_process_cost_usd"], complaint
    assert simulator.bill.total.cost_usd <= 0.0005
