"""Items and estimates of them; no engine is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM
from chutes_opencode.batch.estimate.estimate import Estimate, estimate_batch
from chutes_opencode.batch.item import BatchItem, Task

MODEL = "Qwen/Qwen3-32B-TEE"  # 0.104 and 0.416 dollars a million, 40,960 tokens of context
SYSTEM_TOKENS = 7  # "You are a helpful assistant."


def item(prompt: str = "x" * 40, *, number: int = 0, **fields: Any) -> BatchItem:
    return BatchItem(f"item-{number}", prompt, **fields)


def estimate(
    llm: ChutesOpenCodeLLM, items: Sequence[BatchItem], model: str = "", **arguments: Any
) -> Estimate:
    def tasks() -> Iterator[Task]:
        return (Task(one, model) for one in items)

    return estimate_batch(tasks, llm, measure=False, **arguments)
