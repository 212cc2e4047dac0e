"""A prompt that was run before: its answers come from disk, cost nothing, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    Params,
    ServerError,
    Simulator,
    TextDelta,
    Usage,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def sent(simulator: Simulator) -> int:
    return len([request for request in simulator.requests if request.method == "POST"])


def test_an_agent_s_run_is_replayed_step_by_step(simulator: Simulator, cache: Path) -> None:
    command = {"command": "pwd > file; ls", "description": "d"}
    steps = [{"tool": "bash", "arguments": command, "reasoning": "hm"}, {"text": "It is 42."}]
    prompt = json.dumps({"steps": steps})
    llm = ChutesOpenCodeLLM("sim/script", cache=cache, retries=1)

    first = llm.prompt(prompt)
    asked = sent(simulator)
    *events, _ = llm.stream(prompt)
    second = llm.prompt(prompt)

    assert (first.replayed, first.usage.num_requests, asked) == (False, 2, 2)
    assert first.cost_usd == pytest.approx(simulator.bill.total.cost_usd)
    assert sent(simulator) == asked, "nothing was asked again"
    assert (second.replayed, second.cost_usd, second.success) == (True, 0.0, True)
    assert replace(second.usage, num_turns=0) == Usage()
    assert second.result == first.result == "It is 42."
    assert [call.output for call in second.transcript.tool_calls] == ["file\n"], "it ran again"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is 42."
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        assert simulator.api_token.encode() not in path.read_bytes()
        assert b"chutes-opencode-" not in path.read_bytes(), "a workspace's path"


CHANGES: dict[str, dict[str, Any]] = {
    "system message": {"system_message": "Be brief."},
    "parameters": {"params": Params(temperature=0.5)},
}


def test_what_asks_for_something_else_is_asked_anew(simulator: Simulator, cache: Path) -> None:
    plain: dict[str, Any] = {"model": "sim/echo", "builtin_tools": False, "cache": cache}
    ChutesOpenCodeLLM(**plain).prompt("1 + 2")
    assert sent(simulator) == 1

    for number, change in enumerate(CHANGES.values(), start=2):
        assert not ChutesOpenCodeLLM(**{**plain, **change}).prompt("1 + 2").replayed
        assert sent(simulator) == number
    assert ChutesOpenCodeLLM(**plain).prompt("1 + 2").replayed
    assert sent(simulator) == 1 + len(CHANGES)


def test_samples_of_one_prompt_are_kept_apart(simulator: Simulator, cache: Path) -> None:
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=False, cache=cache)
    items: list[dict[str, Any]] = [{"prompt": "x", "sample_index": index} for index in (0, 1)]

    first, second = llm.batch(items), llm.batch(items)

    assert [result.replayed for result in (*first, *second)] == [False, False, True, True]
    assert sent(simulator) == 2


def test_a_failure_is_never_replayed(
    start_simulator: Callable[..., Simulator], cache: Path
) -> None:
    rules = [
        {"model": "sim/echo", "fault": "stream-bare-end", "times": 1},
        {"model": "sim/reasoning", "fault": "500-exhausted", "times": 1},
    ]
    simulator = start_simulator({"rules": rules})

    for model in ("sim/echo", "sim/reasoning"):
        llm = ChutesOpenCodeLLM(model, builtin_tools=False, cache=cache, retries=1)
        with pytest.raises(ServerError):
            llm.prompt("2 + 3")
        result = llm.prompt("2 + 3")
        assert (result.success, result.replayed) == (True, False)

    assert sent(simulator) == 4
