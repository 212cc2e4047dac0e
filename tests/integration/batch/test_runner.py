"""A whole batch with the real opencode: what it is asked, what it costs, and what ends it early."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, Params, Simulator
from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.batch.store.folder import RunFolder

# 1,000 are asked for in the issue.
ITEMS = int(os.environ.get("CHUTES_OPENCODE_TEST_ITEMS", "200"))
CONCURRENCY = 8

StartSimulator = Callable[..., Simulator]

# Each stands in one item of a hundred.
FAULTS = {
    "400-invalid": "InvalidRequestError",
    "400-overflow-vllm": "ContextOverflowError",
    "500-no-result": "ServerError",
    "finish-content-filter": "ContentFilterError",
    "stream-bare-end": "TruncatedStreamError",
}


@pytest.fixture
def open_llm() -> Iterator[Callable[..., ChutesOpenCodeLLM]]:
    """Make instances of a pure chat on a warm server; the last one is closed at the end."""
    opened: list[ChutesOpenCodeLLM] = []

    def make(model: str = "sim/script", **fields: Any) -> ChutesOpenCodeLLM:
        opened.append(ChutesOpenCodeLLM(model, engine="serve", builtin_tools=False, **fields))
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()


def script(number: int, **step: Any) -> str:
    return f"item {number} {json.dumps({'steps': [{'text': f'answer {number}', **step}]})}"


def completions(simulator: Simulator) -> int:
    return sum(request.path.endswith("/completions") for request in simulator.requests)


def test_each_failure_has_its_class_and_the_totals_are_the_bill(
    start_simulator: StartSimulator, open_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    simulator = start_simulator({"usage": "every"})
    faults = {
        100 * hundred + 20 * place + 7: name
        for hundred in range(ITEMS // 100)
        for place, name in enumerate(FAULTS)
    }
    items = [
        {"id": f"item-{n}", "prompt": script(n, fault=faults[n]) if n in faults else script(n)}
        for n in range(ITEMS)
    ]
    seen: list[Snapshot] = []

    summary = run_batch(
        items,
        open_llm(retries=1),
        tmp_path / "run",
        concurrency=CONCURRENCY,
        on_progress=seen.append,
    )

    run = RunFolder(tmp_path / "run")
    records = {record.id: record for record in run.records()}
    assert len(records) == summary.total == ITEMS
    assert {
        record.id: record.error.type for record in records.values() if record.error is not None
    } == {f"item-{n}": FAULTS[name] for n, name in faults.items()}
    assert {n: records[f"item-{n}"].result for n in range(ITEMS) if n not in faults} == {
        n: f"answer {n}" for n in range(ITEMS) if n not in faults
    }
    assert (summary.done, summary.failed) == (ITEMS - len(faults), len(faults))
    assert summary.errors == Counter(FAULTS[name] for name in faults.values())
    assert (summary.left, summary.stopped_by, summary.ok) == (0, "", not faults)
    check_bill(run, simulator)
    assert summary.usage.num_requests == completions(simulator)
    assert all(run.transcript(record) is not None for record in records.values())
    assert run.manifest.finished_at is not None
    assert set(run.manifest.prices) == {"sim/script"}
    check_snapshots(seen, summary.done, summary.failed)
    status = read_status(tmp_path / "run")
    assert status is not None
    assert status.snapshot == seen[-1]


def check_bill(run: RunFolder, simulator: Simulator) -> None:
    """Compare the run's totals with what the simulator billed."""
    totals, bill = run.totals(), simulator.bill.total
    usage = totals.usage
    assert not usage.estimated
    assert usage.input + usage.cache_read + usage.cache_write == bill.input_tokens
    assert usage.output + usage.reasoning == bill.output_tokens
    assert totals.cost_usd == pytest.approx(bill.cost_usd, abs=1e-9)
    assert bill.cost_usd > 0


def check_snapshots(seen: list[Snapshot], done: int, failed: int) -> None:
    """Progress only goes up, and its end is the summary's."""
    finished = [shown.done + shown.failed for shown in seen]
    assert finished == sorted(finished)
    assert all(shown.in_flight <= CONCURRENCY for shown in seen)
    last = seen[-1]
    assert (last.done, last.failed, last.left, last.state) == (done, failed, 0, "finished")


def test_a_second_call_asks_for_what_is_new_changed_or_failed_only(
    start_simulator: StartSimulator, open_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    # A model that fails once, so that the second try succeeds.
    flaky = {"model": "sim/arithmetic", "reply": "script", "fault": "500-no-result", "times": 1}
    simulator = start_simulator({"usage": "every", "rules": [flaky]})
    llm, out = open_llm(retries=1), tmp_path / "run"
    items = [{"id": str(number), "prompt": script(number)} for number in range(3)]
    items[1]["model"] = "sim/arithmetic"

    first = run_batch(items, llm, out)
    assert (first.done, first.failed, first.left) == (2, 1, 0)
    again = run_batch(items, llm, out)
    assert (again.done, again.failed, again.skipped) == (0, 1, 2)
    assert completions(simulator) == 3, "nothing was asked"

    items[2] = {"id": "2", "prompt": script(22)}
    items.append({"id": "3", "prompt": script(3)})
    last = run_batch(items, llm, out, retry_failed=["ServerError"])

    assert (last.done, last.failed, last.skipped, last.left) == (3, 0, 1, 0)
    assert last.ok
    run = RunFolder(out)
    assert {record.id: record.result for record in run.records()} == {
        "0": "answer 0",
        "1": "answer 1",
        "2": "answer 22",
        "3": "answer 3",
    }
    assert sorted(record.id for record in run.attempts()) == ["1", "2"]
    assert completions(simulator) == 6
    check_bill(run, simulator)


def test_a_batch_stops_at_its_budget_and_goes_on_with_a_higher_one(
    start_simulator: StartSimulator, open_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    simulator = start_simulator({"usage": "every"})
    llm, out = open_llm("sim/echo", params=Params(max_tokens=100)), tmp_path / "run"
    words = "some words of a longer answer " * 20
    items = [{"id": str(n), "prompt": f"{n} {words}"} for n in range(40)]
    cap = 0.002

    first = run_batch(items, llm, out, concurrency=CONCURRENCY, max_cost_usd=cap)

    assert (first.stopped_by, first.failed) == ("budget", 0)
    assert 0 < first.done < 40
    assert first.cost_usd is not None
    assert simulator.bill.total.cost_usd <= cap
    check_bill(RunFolder(out), simulator)

    stuck = run_batch(items, llm, out, concurrency=CONCURRENCY, max_cost_usd=cap)
    assert (stuck.stopped_by, stuck.failed) == ("budget", 0), "what was spent counts"
    assert simulator.bill.total.cost_usd <= cap

    last = run_batch(items, llm, out, concurrency=CONCURRENCY, max_cost_usd=1.0)

    assert (last.stopped_by, last.left, last.failed) == ("", 0, 0)
    assert first.done + stuck.done + last.done == 40
    assert completions(simulator) == 40
    check_bill(RunFolder(out), simulator)


def test_items_that_all_name_their_model_need_no_other_one(
    simulator: Simulator, tmp_path: Path
) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "hello"}]}
    request = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    rows = [{"id": "0", "prompt": "6 * 7", "model": "sim/arithmetic"}, request]

    with ChutesOpenCodeLLM(engine="direct") as llm:
        summary = run_batch(rows, llm, tmp_path / "run")
        with pytest.raises(ConfigurationError, match="no model is named"):
            run_batch([*rows, "and this one?"], llm, tmp_path / "other")

    assert summary.ok
    models = {record.id: record.served_model for record in RunFolder(tmp_path / "run").records()}
    assert models == {"0": "sim/arithmetic", "1": "sim/echo"}
    assert completions(simulator) == 2, "nothing was asked of the second batch"
