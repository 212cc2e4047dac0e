"""A budget that many prompts share is kept, whatever happens to their requests."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    LimitExceededError,
    Params,
    QueryResult,
    Simulator,
)
from chutes_opencode.limits import Budget

AT_ONCE = 16
ITEMS = 120
SAID = "words and more " * 200
# Many die after half of their answer, and never tell what they have used.
FAULTS = (
    None,
    {"fault": "stream-bare-end", "times": 1},
    {"fault": "stream-close", "times": 2},
    None,
    {"fault": "500-exhausted", "times": 1},
    {"fault": "stream-error-event", "times": 1},
    {"fault": "stream-reset", "times": 1},
    {"fault": "stream-bare-end"},  # and again, and again
)


def items(budget: Budget) -> list[dict[str, Any]]:
    faults = itertools.islice(itertools.cycle(FAULTS), ITEMS)
    steps = ({"text": f"{number} {SAID}", **(fault or {})} for number, fault in enumerate(faults))
    return [{"prompt": json.dumps({"steps": [step]}), "budget": budget} for step in steps]


async def ask_all(llm: ChutesOpenCodeLLM, budget: Budget) -> list[QueryResult]:
    return [result async for result in llm.amap(items(budget), concurrency=AT_ONCE)]


@pytest.mark.parametrize("usage", ["end", "never"])
def test_sixteen_at_once_never_spend_more_than_the_budget(
    start_simulator: Callable[..., Simulator], usage: str
) -> None:
    simulator = start_simulator({"usage": usage, "token_delay_s": 0.01})
    budget = Budget("of the test", 0.012)
    setup: dict[str, Any] = {"engine": "serve", "builtin_tools": False}
    params = Params(max_tokens=1000)

    with ChutesOpenCodeLLM("sim/script", params=params, **setup) as llm:
        results = asyncio.run(ask_all(llm, budget))
    simulator.stop()  # its bill is whole then

    bill = simulator.bill
    dearest = max(entry.cost_usd for entry in bill.entries)
    assert bill.total.cost_usd <= budget.max_cost_usd + dearest
    assert bill.total.cost_usd > budget.max_cost_usd / 3, "else the budget was not what ended it"
    assert budget.spent == pytest.approx(bill.total.cost_usd, rel=0.02)
    assert sum(result.cost_usd or 0.0 for result in results) == pytest.approx(budget.spent)
    ends = Counter(type(result.error) for result in results)
    assert ends[type(None)] > 0
    assert ends[LimitExceededError] > AT_ONCE
    assert sum(entry.outcome == "died" for entry in bill.entries) >= 5
    assert budget.reserved == 0.0
