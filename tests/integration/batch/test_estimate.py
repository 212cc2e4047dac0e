"""Estimates against what the simulator bills for the real thing (real opencode)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator
from chutes_opencode.batch.estimate.estimate import Estimate, estimate_batch
from chutes_opencode.batch.estimate.overhead import tabled_overhead
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running.executor import LlmExecutor
from tests.patience import PROCESS_SECONDS

pytestmark = pytest.mark.timeout(6 * PROCESS_SECONDS)

EXAMPLES = Path(__file__).parents[3] / "configs" / "batch.jsonl"
MODEL = "Qwen/Qwen3-32B-TEE"


@pytest.fixture
def make_llm(simulator: Simulator) -> Iterator[Callable[..., ChutesOpenCodeLLM]]:
    with ExitStack() as stack:

        def make(**arguments: Any) -> ChutesOpenCodeLLM:
            arguments = {"model": MODEL, "engine": "serve"} | arguments
            return stack.enter_context(ChutesOpenCodeLLM(**arguments))

        yield make


def examples() -> Iterator[Task]:
    for line in EXAMPLES.read_text(encoding="utf-8").splitlines():
        yield Task(BatchItem(**json.loads(line)))


def run_examples(llm: ChutesOpenCodeLLM) -> None:
    arguments = LlmExecutor(llm, 1).arguments
    results = llm.batch([arguments(task) for task in examples()], concurrency=4)
    assert [result.error for result in results if not result.success] == []


def tokens(estimate: Estimate) -> float:
    return estimate.input_tokens.expected + estimate.output_tokens.expected


@pytest.mark.parametrize("builtin_tools", [False, True])
def test_the_tokens_of_the_example_set_are_within_15_percent_of_the_bill(
    make_llm: Callable[..., ChutesOpenCodeLLM], simulator: Simulator, builtin_tools: bool
) -> None:
    llm = make_llm(builtin_tools=builtin_tools)

    estimate = estimate_batch(examples, llm, simulate=True)

    assert simulator.bill.total.requests == 0
    run_examples(llm)
    bill = simulator.bill.total
    assert bill.requests == estimate.pending == 12
    assert tokens(estimate) == pytest.approx(bill.input_tokens + bill.output_tokens, rel=0.15)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.expected == pytest.approx(bill.cost_usd, rel=0.15)
    assert "3 prompts were run with engine serve" in estimate.method
    assert estimate.warnings == ()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="tools"),
        pytest.param({"builtin_tools": False}, id="chat"),
        pytest.param({"builtin_tools": False, "context": True}, id="chat with context"),
        pytest.param({"system_message": None}, id="its own prompt"),
    ],
)
def test_the_table_is_within_15_percent_of_what_is_measured(
    make_llm: Callable[..., ChutesOpenCodeLLM], arguments: dict[str, Any]
) -> None:
    llm = make_llm(**arguments)

    measured = estimate_batch(lambda: iter([Task(BatchItem("one", "x" * 400))]), llm)

    table = tabled_overhead(llm.options)
    assert "was measured: 1 prompt was run" in measured.method
    assert table.usual == pytest.approx(measured.models[0].overhead_tokens, rel=0.15)


def test_a_measurement_touches_no_folder_and_leaves_no_list_behind(
    make_llm: Callable[..., ChutesOpenCodeLLM], package_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    script = json.dumps({"steps": [{"tool": "write", "arguments": {"filePath": "x"}}]})
    item = BatchItem("one", script, work_dir=str(folder), output_schema={"type": "object"})
    llm = make_llm(model="sim/script", engine="run")
    estimate_batch(lambda: iter([Task(item)]), llm, measure=False)  # fetches the list
    before = sorted((package_home / "catalog").iterdir())

    estimate = estimate_batch(lambda: iter([Task(item)]), llm)

    assert "with engine run" in estimate.method
    assert list(folder.iterdir()) == []
    assert sorted((package_home / "catalog").iterdir()) == before


def test_without_opencode_the_table_is_used_and_that_is_said(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    llm = make_llm(opencode_bin=str(tmp_path / "no-opencode"))

    estimate = estimate_batch(examples, llm)

    assert any("could not be measured" in line for line in estimate.warnings)
    assert "is what version" in estimate.method
