"""stream, batch, map and amap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    BillingError,
    ChutesOpenCodeLLM,
    Done,
    InvalidRequestError,
    ReasoningDelta,
    Simulator,
    StepEnd,
    TextDelta,
    ToolCall,
    ToolResult,
)

BASH = {"tool": "bash", "arguments": {"command": "echo well", "description": "d"}}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": steps})


def test_a_stream_tells_what_happens_in_order_and_ends_with_the_result(
    simulator: Simulator,
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", retries=1)

    # The text comes from the relay, the tool from opencode: sooner or later, never out of order.
    events = list(llm.stream(script(BASH | {"reasoning": "hm"}, {"text": "end"})))

    kinds = [type(event) for event in events]
    assert kinds == [ReasoningDelta, ToolCall, ToolResult, StepEnd, TextDelta, StepEnd, Done]
    assert isinstance(events[2], ToolResult)
    assert events[2].output.strip() == "well"
    assert isinstance(events[-1], Done)
    assert events[-1].result.result == "end"
    assert len({event.prompt_id for event in events}) == 1


def test_a_stream_that_fails_raises_its_error_in_the_end(simulator: Simulator) -> None:
    events = ChutesOpenCodeLLM("sim/script").stream(script(BASH, {"fault": "402-cap"}))

    assert [type(next(events)) for _ in range(3)] == [ToolCall, ToolResult, StepEnd]
    with pytest.raises(BillingError) as raised:
        next(events)
    assert raised.value.status == 402


def test_a_batch_keeps_the_order_and_an_item_s_failure_to_itself(
    simulator: Simulator, tmp_path: Path
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1, log_dir=tmp_path / "logs")
    items: list[str | dict[str, Any]] = [
        script({"text": "first", "delay_s": 3}),
        {"prompt": script({"fault": "400-invalid"})},
        " ",
        script({"text": "last"}),
    ]

    results = llm.batch(items, concurrency=2)

    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [result.result for result in results] == ["first", "", "", "last"]
    assert [type(result.error) for result in results] == [
        type(None),
        InvalidRequestError,
        InvalidRequestError,
        type(None),
    ]
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name.startswith("chutes_opencode_")
    written = log.read_text()
    assert written.count("[User Message]") == 3, "a blank prompt was never one"
    assert "[Response]\nfirst\n" in written
    assert "[Error]\n" in written


def test_an_account_error_stops_the_rest_of_a_batch(simulator: Simulator) -> None:
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=3)
    items = [script({"fault": "402-quota"}), script({"text": "a"}), script({"text": "b"})]

    results = llm.batch(items, concurrency=1)

    assert [type(result.error) for result in results] == [BillingError] * 3
    assert [result.usage.num_requests for result in results] == [1, 0, 0]
    assert len([request for request in simulator.requests if request.body]) == 1


def counted(read: list[int]) -> Iterator[str]:
    """Yield blank prompts, which fail at once, and note how many were read."""
    for number in range(100):
        read.append(number)
        yield " "


def test_map_reads_no_further_ahead_than_it_works(simulator: Simulator) -> None:
    read: list[int] = []

    results = ChutesOpenCodeLLM("sim/echo").map(counted(read), concurrency=3)
    first = next(results)

    assert type(first.error) is InvalidRequestError
    assert len(read) <= 6
    assert len(list(results)) == 99


def test_amap_reads_no_further_ahead_than_it_works(simulator: Simulator) -> None:
    read: list[int] = []

    async def main() -> None:
        results = ChutesOpenCodeLLM("sim/echo").amap(counted(read), concurrency=3)
        assert (await anext(results)).error is not None
        await results.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
    assert len(read) <= 6
