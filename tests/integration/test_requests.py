"""What a prompt asks of the provider: a request a step, the caller's parameters and turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, Params, Simulator

HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be {env:HOME} brief."},
    {"role": "user", "content": "  first \N{GRINNING FACE}\n"},
    {"role": "assistant", "content": "-first answer\r\n"},
    {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
    {"role": "assistant", "content": "second answer {file:/etc/hostname}"},
    {"role": "user", "content": "third"},
]


LONG = "".join(f"line {number} \N{GRINNING FACE}\n" for number in range(100_000))


def bodies(simulator: Simulator) -> list[dict[str, Any]]:
    """Return the bodies of the model requests."""
    return [json.loads(request.body) for request in simulator.requests if request.body]


def turns(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    return [(message["role"], _text(message["content"])) for message in body["messages"]]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def test_one_step_is_one_request_and_carries_every_parameter_and_turn(simulator: Simulator) -> None:
    params = Params(
        temperature=0.25,
        top_p=0.5,
        max_tokens=77,
        stop=("END", "{env:HOME}"),
        seed=7,
        reasoning_effort="low",
        extra_body={"min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}},
    )
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, params=params, retries=1)

    result = llm.prompt(messages=HISTORY)

    (body,) = bodies(simulator)
    assert turns(body) == [(message["role"], _text(message["content"])) for message in HISTORY]
    assert {name: body[name] for name in body if name not in ("messages", "stream_options")} == {
        "model": "sim/echo",
        "stream": True,
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 77,
        "stop": ["END", "{env:HOME}"],
        "seed": 7,
        "reasoning_effort": "low",
        "min_p": 0.1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (result.result, result.finish_reason, result.served_model) == (
        "third",
        "stop",
        "sim/echo",
    )
    total = simulator.bill.total
    assert result.usage.num_requests == result.usage.num_turns == 1
    assert (result.usage.input, result.usage.output) == (total.input_tokens, total.output_tokens)
    assert result.cost_usd == total.cost_usd > 0


def test_no_parameter_is_sent_that_nobody_set_and_no_log_costs_an_answer(
    simulator: Simulator, tmp_path: Path
) -> None:
    logs = tmp_path / "home" / "logs"
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, retries=1, log_dir=logs)
    logs.rmdir()

    assert llm.prompt("hello").result == "hello"

    (body,) = bodies(simulator)
    assert set(body) == {"model", "messages", "stream", "stream_options", "max_tokens"}
    assert turns(body) == [("system", "You are a helpful assistant."), ("user", "hello")]


def test_reasoning_is_told_apart_from_the_answer_and_counted(simulator: Simulator) -> None:
    result = ChutesOpenCodeLLM("sim/reasoning", builtin_tools=False, retries=1).prompt("2 + 3")

    total = simulator.bill.total
    assert result.result == "5"
    assert "[Thinking]" in result.stream_result
    assert 0 < result.usage.reasoning == total.reasoning_tokens
    assert result.usage.output == total.output_tokens - total.reasoning_tokens
    assert result.cost_usd == total.cost_usd


def test_an_answer_over_1_mib_arrives_whole(start_simulator: Callable[..., Simulator]) -> None:
    start_simulator({"rules": [{"model": "sim/echo", "reply": "text", "text": LONG}]})

    result = ChutesOpenCodeLLM("sim/echo", retries=1).prompt("go")

    assert (len(result.result), result.result == LONG) == (len(LONG), True)
    assert LONG in result.stream_result
