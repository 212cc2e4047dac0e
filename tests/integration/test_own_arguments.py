"""A prompt's own model and system message reach the model, on every engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator

ENGINES = ("run", "serve", "direct")
OWN = "Qwen/Qwen3-32B-TEE"


def asked(simulator: Simulator) -> list[tuple[str, list[str]]]:
    """Return the model and the system messages of each request for an answer."""
    bodies = [json.loads(one.body) for one in simulator.requests if one.method == "POST"]
    return [
        (body["model"], [row["content"] for row in body["messages"] if row["role"] == "system"])
        for body in bodies
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompts_own_model_and_system_message_reach_the_model(
    simulator: Simulator, engine: str
) -> None:
    setup: dict[str, Any] = {"engine": engine, "builtin_tools": False}
    with ChutesOpenCodeLLM("sim/echo", "The instance's.", **setup) as llm:
        own = llm.prompt("first", model=OWN, system_message="Its own: {env:HOME}\n")
        plain = llm.prompt("second")

    assert asked(simulator) == [
        (OWN, ["Its own: {env:HOME}\n"]),
        ("sim/echo", ["The instance's."]),
    ]
    assert (own.model, plain.model) == (OWN, "sim/echo")
    costs = [entry.cost_usd for entry in simulator.bill.entries]
    assert [own.cost_usd, plain.cost_usd] == pytest.approx(costs, abs=1e-12)
    assert costs[0] != costs[1]


@pytest.mark.parametrize("engine", ["run", "serve"])
def test_a_prompt_may_ask_for_opencodes_own_system_message(
    simulator: Simulator, engine: str
) -> None:
    with ChutesOpenCodeLLM("sim/echo", "The instance's.", engine=engine) as llm:
        llm.prompt("hello", system_message=None)

    ((_, said),) = asked(simulator)
    assert "opencode" in "".join(said).lower()
    assert "The instance's." not in "".join(said)


@pytest.mark.parametrize("engine", ["run", "serve"])
def test_a_session_keeps_neither_model_nor_system_message(
    simulator: Simulator, engine: str
) -> None:
    setup: dict[str, Any] = {"engine": engine, "builtin_tools": False}
    with ChutesOpenCodeLLM("sim/echo", "The instance's.", **setup) as llm:
        first = llm.prompt("first", model=OWN, system_message="Its own.", keep_session=True)
        second = llm.prompt("second", session_id=first.session_id)

    assert asked(simulator) == [(OWN, ["Its own."]), ("sim/echo", ["The instance's."])]
    assert second.success
