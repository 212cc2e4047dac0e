"""A task that is cut in its midst gives back what the provider bills, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running.executor import CutError, LlmExecutor
from tests.patience import wait_until

SLOW = {"rules": [{"model": "sim/size/*", "token_delay_s": 0.1, "chunk_size": 400}]}
TASK = Task(BatchItem("one", "go on"))


@pytest.mark.parametrize("engine", ["run", "serve", "direct"])
def test_a_task_that_is_cut_tells_its_cost(
    start_simulator: Callable[..., Simulator], engine: str
) -> None:
    simulator = start_simulator(SLOW)
    heard: list[str] = []

    with ChutesOpenCodeLLM(
        "sim/size/1000000",
        engine=engine,
        builtin_tools=False,
        on_event=lambda event: heard.append(getattr(event, "text", "")),
    ) as llm:
        executor = LlmExecutor(llm, 1)

        async def cut() -> CutError:
            running = asyncio.create_task(executor.run(TASK))
            await asyncio.to_thread(wait_until, lambda: len("".join(heard)) > 4000)
            running.cancel()
            with pytest.raises(CutError) as caught:
                await running
            return caught.value

        result = asyncio.run(cut()).finished.result
    simulator.stop()  # its bill is whole then

    (entry,) = simulator.bill.entries
    assert entry.outcome == "aborted"
    assert (result.success, result.error, result.usage.num_requests) == (False, None, 1)
    assert result.usage.estimated
    assert result.usage.input + result.usage.cache_read == entry.input_tokens
    assert result.usage.output > 900
    assert result.cost_usd == pytest.approx(entry.cost_usd, rel=0.2)
