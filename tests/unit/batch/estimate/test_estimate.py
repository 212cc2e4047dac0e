"""What a batch will cost: counted, learnt from earlier answers, or assumed, and what to look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    ChutesOpenCodeLLM,
    ConfigurationError,
    Params,
    Simulator,
    Usage,
)
from chutes_opencode.batch.estimate.answers import ASSUMED_OUTPUT, spread_over
from chutes_opencode.batch.estimate.estimate import estimate_batch
from chutes_opencode.batch.estimate.overhead import CONTEXT_TOKENS, TOOLS_TOKENS, Sample
from chutes_opencode.batch.estimate.quote import Range
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.record import FAILED, Record
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.catalog.models import Model
from tests.unit.batch.estimating import MODEL, SYSTEM_TOKENS, estimate, item

EXAMPLES = Path(__file__).parents[4] / "configs" / "batch.jsonl"


def examples() -> list[BatchItem]:
    rows = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    return [BatchItem(**row) for row in rows]


def write_run(folder: Path, *records: Record) -> Path:
    folder.mkdir()
    (folder / "results.jsonl").write_bytes(b"".join(map(record_line, records)))
    return folder


def answered(output: int, *, model: str = "", **fields: Any) -> Record:
    used = Usage(input=100, output=output, num_requests=1)
    values: dict[str, Any] = {"usage": used, "duration_s": 12.0, "queued_s": 2.0}
    return Record("an-id", model, **(values | fields))


# ---------------------------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        pytest.param({"prompt": "x" * 40}, SYSTEM_TOKENS + 10, id="4 bytes a token"),
        pytest.param({"prompt": "x" * 41}, SYSTEM_TOKENS + 11, id="rounded up"),
        pytest.param({"prompt": "é" * 40}, SYSTEM_TOKENS + 20, id="bytes, not characters"),
        pytest.param({"prompt": "x" * 40, "system": "y" * 20}, 5 + 10, id="a system message"),
        pytest.param(
            {
                "prompt": "",
                "messages": (
                    {"role": "system", "content": "y" * 20},
                    {"role": "user", "content": "z" * 5},
                    {"role": "assistant", "content": "z" * 5},
                    {"role": "user", "content": "x" * 40},
                ),
            },
            5 + 2 + 2 + 10,
            id="a chat",
        ),
    ],
)
def test_input_tokens_follow_the_rule(
    make_llm: Callable[..., ChutesOpenCodeLLM], asked: dict[str, Any], tokens: int
) -> None:
    found = estimate(make_llm(), [item(**asked)])

    assert found.input_tokens == Range(tokens, tokens, tokens)
    assert "4 bytes" in found.method


def test_files_and_schemas_are_part_of_the_input(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    text, image = tmp_path / "a.txt", tmp_path / "a.png"
    text.write_text("t" * 4000)
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(10_000))
    llm = make_llm("sim/vision")

    plain, framed, seen, fitted = (
        estimate(llm, [one]).input_tokens.expected
        for one in (
            item(),
            item(files=(str(text),)),
            item(files=(str(image),)),
            item(output_schema={"type": "object", "description": "d" * 4000}),
        )
    )

    assert 1000 < framed - plain < 1020
    assert seen - plain == 256
    assert 1000 < fitted - plain < 1150


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        ({"builtin_tools": False}, 0),
        ({"builtin_tools": False, "context": True}, CONTEXT_TOKENS),
        ({"builtin_tools": True}, CONTEXT_TOKENS + TOOLS_TOKENS),
        ({"builtin_tools": True, "context": False}, TOOLS_TOKENS),
        ({"builtin_tools": True, "engine": "direct"}, 0),
    ],
)
def test_without_a_measurement_a_table_says_what_opencode_adds(
    make_llm: Callable[..., ChutesOpenCodeLLM], arguments: dict[str, Any], extra: int
) -> None:
    found = estimate(make_llm(**arguments), [item()] * 3)

    assert found.input_tokens.expected == 3 * (SYSTEM_TOKENS + 10 + extra)
    assert found.models[0].overhead_tokens == extra
    assert f"({extra:,} tokens) is what version" in found.method
    assert ("one step" in found.method) is (
        arguments["builtin_tools"] and arguments.get("engine") != "direct"
    )


# --------------------------------------------------------------------------------- output, dollars
@pytest.mark.parametrize(
    ("params", "own", "wanted"),
    [
        (None, {}, Range(1, ASSUMED_OUTPUT, 40_960 - 17)),
        (Params(max_tokens=1000), {}, Range(1, ASSUMED_OUTPUT, 1000)),
        (Params(max_tokens=1000), {"max_tokens": 100}, Range(1, 100, 100)),
        (None, {"max_completion_tokens": 50}, Range(1, 50, 50)),
    ],
)
def test_without_answers_output_is_assumed_within_what_is_allowed(
    make_llm: Callable[..., ChutesOpenCodeLLM],
    params: Params | None,
    own: dict[str, Any],
    wanted: Range,
) -> None:
    found = estimate(make_llm(params=params), [item(params=own)])

    assert found.output_tokens == wanted
    assert found.minutes is None
    assert "assumed: 300" in found.method


def test_dollars_are_the_price_lists(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    found = estimate(make_llm(params=Params(max_tokens=1000)), [item()] * 10)

    dollars = [(170 * 0.104 + count * 0.416) / 1e6 for count in (10, 3000, 10_000)]
    assert found.cost_usd is not None
    assert dataclasses.astuple(found.cost_usd) == pytest.approx(dollars)


def test_an_unknown_price_is_no_price(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    found = estimate(make_llm("acme/free"), [item()], max_cost_usd=1.0)

    assert found.cost_usd is None
    assert found.warnings == (
        "The price of acme/free is unknown.",
        "Whether 1 USD are enough is unknown.",
    )


def test_earlier_answers_tell_what_further_ones_are_like(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    lengths = [answered(output) for output in range(10, 21)]
    failed = Record("other", "", status=FAILED, usage=Usage(output=10**6))
    like = write_run(tmp_path / "like", *lengths, failed)

    found = estimate(make_llm(), [item()] * 100, like=like, concurrency=20)

    assert found.output_tokens == Range(1100, 1500, 1900)
    assert found.minutes == pytest.approx(100 * 10 / 20 / 60)
    assert f"11 answers in {like}" in found.method


def test_answers_of_the_same_model_and_of_the_same_run_tell_most(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    own = write_run(tmp_path / "own", answered(10, model=MODEL), answered(90, model="other"))
    like = write_run(tmp_path / "like", answered(1000, model=MODEL))

    found = estimate(make_llm(), [item()], MODEL, out_dir=own, like=like)

    assert found.output_tokens.expected == 10
    assert estimate(make_llm(), [item()], out_dir=own).output_tokens.expected == 50
    fresh = estimate(make_llm(), [item()], out_dir=tmp_path / "new", like=like)
    assert fresh.output_tokens.expected == 1000


def test_what_failed_attempts_used_is_left_out(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    used = Usage(input=50, output=120, reasoning=5, num_requests=2)
    record = answered(0, usage=used, failed_usage=Usage(input=25, output=100, num_requests=1))

    found = estimate(make_llm(), [item()], out_dir=write_run(tmp_path / "run", record))

    assert found.output_tokens.expected == 25
    assert found.input_tokens.expected == SYSTEM_TOKENS + 10


def test_steps_of_earlier_agents_count_as_input(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    steps = Usage(input=20_000, cache_read=10_000, output=400, num_requests=4)

    found = estimate(
        make_llm(builtin_tools=True, params=Params(max_tokens=100)),
        [item()],
        out_dir=write_run(tmp_path / "run", answered(0, usage=steps)),
    )

    assert found.input_tokens == Range(SYSTEM_TOKENS + 10 + 5483, 30_000, 30_000)
    assert found.output_tokens.expected == 400
    assert "took 4.0 steps" in found.method


def test_a_run_without_answers_teaches_nothing(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="holds no answers"):
        estimate(make_llm(), [item()], like=write_run(tmp_path / "empty"))


def test_answers_of_the_simulator_are_known_before(
    make_llm: Callable[..., ChutesOpenCodeLLM], simulator: Simulator
) -> None:
    items = examples()
    llm = make_llm(engine="direct")

    found = estimate(llm, items, simulate=True)

    assert simulator.bill.total.requests == 0
    with llm:
        results = llm.batch(
            [
                {
                    "prompt": one.prompt,
                    "messages": one.messages,
                    "system_message": "" if one.system is None else one.system,
                    "params": Params(max_tokens=one.params.get("max_tokens")),
                }
                for one in items
            ]
        )
    assert all(result.success for result in results)
    bill = simulator.bill.total
    assert found.input_tokens.expected == bill.input_tokens
    assert found.output_tokens.expected == pytest.approx(bill.output_tokens)
    assert found.cost_usd is not None
    assert found.cost_usd.expected == pytest.approx(bill.cost_usd)


# ------------------------------------------------------------------------------ what there is to do
def test_items_tasks_and_what_is_done_are_counted(
    make_llm: Callable[..., ChutesOpenCodeLLM],
) -> None:
    def tasks() -> Iterator[Task]:
        for number in range(4):
            for model in (MODEL, "sim/echo"):
                yield Task(item(number=number), model)

    found = estimate_batch(
        tasks,
        make_llm(),
        measure=False,
        standing=lambda task: "ok" if task.item.id == "item-0" else "",
    )

    assert (found.items, found.tasks, found.pending) == (4, 8, 6)
    assert {part.asked.name: part.tasks for part in found.models} == {MODEL: 3, "sim/echo": 3}
    assert found.input_tokens.expected == 6 * (SYSTEM_TOKENS + 10)


def test_nothing_left_costs_nothing(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    found = estimate(make_llm(), [item()], standing=lambda task: "ok")

    assert (found.tasks, found.pending, found.models) == (1, 0, ())
    assert found.cost_usd == Range()


def test_of_unknown_models_alone_the_price_is_unknown(
    make_llm: Callable[..., ChutesOpenCodeLLM],
) -> None:
    found = estimate(make_llm(), [item(model="gpt-4o-mini")])

    assert found.cost_usd is None


def test_samples_are_of_all_sizes_and_of_many_models() -> None:
    models = [Model("a"), Model("b")]
    samples = [Sample(models[number == 99], {}, number) for number in range(100)]

    assert [sample.tokens for sample in spread_over(samples, 3)] == [0, 99, 98]
    assert [sample.tokens for sample in spread_over(samples[:99], 3)] == [0, 49, 98]
    assert spread_over(samples[:2], 3) == samples[:2]
    assert spread_over([samples[0]] * 10, 3) == [samples[0]] * 3
