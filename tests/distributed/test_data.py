"""Ray Data: rows in, rows with results out; over three nodes, with the real opencode."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pa_parquet
import pytest
import ray

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, Simulator
from chutes_opencode.distributed.budget import start_budget
from chutes_opencode.distributed.dataset.data import prompt_dataset
from chutes_opencode.distributed.dataset.rows import RESULT_COLUMNS, result_schema
from chutes_opencode.simulator.server import DEFAULT_API_TOKEN
from tests.distributed.nodes import Nodes
from tests.patience import PROCESS_SECONDS

MODEL = "Qwen/Qwen3-32B-TEE"
HANGS, REFUSED, BROKEN = "stream-stall-first-byte", "401-invalid", "500-exhausted"

# Ray's own, of its own code.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:ray\.data\.", r"ignore::UserWarning:ray\.data\."
)


@pytest.fixture(autouse=True)
def _quiet(nodes: Nodes) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False


def make_llm(**arguments: Any) -> ChutesOpenCodeLLM:
    return ChutesOpenCodeLLM(MODEL, **{"builtin_tools": False, "retries": 1, **arguments})


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "prompt": f"What is {number} + 1?"} for number in range(count)]


def types(schema: Any) -> dict[str, pa.DataType]:
    return dict(zip(schema.names, schema.types, strict=True))


def test_each_row_gets_its_own_answer_from_all_three_nodes(
    nodes: Nodes, simulator: Simulator, wait_until: Callable[..., None]
) -> None:
    ds = ray.data.from_items(questions(48), override_num_blocks=6)

    with make_llm() as llm, ThreadPoolExecutor(1) as thread:
        # Two actors cannot hold all rows, so that there are some for the last.
        asked = prompt_dataset(ds, llm, prompts_per_actor=4, block_rows=4)
        with simulator.held():
            taken = thread.submit(asked.take_all)
            wait_until(lambda: all(nodes.processes("opencode", each) for each in nodes.ids))
        rows = taken.result(PROCESS_SECONDS)

    assert {row["id"]: row["result"] for row in rows} == {n: str(n + 1) for n in range(48)}
    assert all(row["success"] and row["error_type"] is None for row in rows)
    assert {row["node_id"] for row in rows} == set(nodes.ids)
    assert all(row["usage_output"] > 0 and row["cost_usd"] > 0 for row in rows)
    assert simulator.bill.total.requests == 48


def test_no_engine_outlives_the_dataset(
    nodes: Nodes, simulator: Simulator, wait_until: Callable[..., None]
) -> None:
    with make_llm() as llm:
        prompt_dataset(ray.data.from_items(questions(6)), llm, concurrency=2).materialize()

    wait_until(lambda: nodes.processes("") == [])


def test_parquet_keeps_columns_and_types(simulator: Simulator, tmp_path: Path) -> None:
    source = pa.table(
        {"prompt": ["What is 1 + 1?"] * 5, "score": pa.array([1.5] * 5, pa.float32())}
    )
    ray.data.from_arrow(source).write_parquet(str(tmp_path / "in"))

    with make_llm() as llm:
        asked = prompt_dataset(ray.data.read_parquet(str(tmp_path / "in")), llm, concurrency=1)
        asked.write_parquet(str(tmp_path / "out"))
    back = ray.data.read_parquet(str(tmp_path / "out"))

    assert types(back.schema()) == {**types(source.schema), **RESULT_COLUMNS}
    assert [row["result"] for row in back.take_all()] == ["2"] * 5
    assert {row["score"] for row in back.take_all()} == {1.5}


def test_json_lines_come_back_with_the_same_types(simulator: Simulator, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"prompt": "What is 2 + 3?", "id": 7}\n{"prompt": null, "id": 8}\n')

    with make_llm() as llm:
        asked = prompt_dataset(ray.data.read_json(str(lines), lines=False), llm, concurrency=1)
        asked.write_json(str(tmp_path / "out"))
    options = pa_json.ParseOptions(explicit_schema=result_schema())
    back = ray.data.read_json(str(tmp_path / "out"), parse_options=options)

    assert types(back.schema()).items() >= RESULT_COLUMNS.items()
    rows = {row["id"]: row for row in back.take_all()}
    assert rows[7]["result"] == "5"
    assert rows[8]["error_type"] == "InvalidRequestError"
    assert rows[7]["cost_usd"] > 0


MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "arrow": lambda prompts: ray.data.from_arrow(pa.table({"prompt": prompts})),
    "items": lambda prompts: ray.data.from_items([{"prompt": each} for each in prompts]),
    "pandas": lambda prompts: ray.data.from_pandas(pd.DataFrame({"prompt": prompts}, dtype=object)),
}


@pytest.mark.parametrize(("made_by", "flaw"), [("arrow", " "), ("items", 3), ("pandas", 2.5)])
def test_a_prompt_that_is_no_text_fails_alone(
    made_by: str, flaw: Any, simulator: Simulator
) -> None:
    ds = MAKERS[made_by](["What is 1 + 1?", flaw, None])

    with make_llm() as llm:
        rows = prompt_dataset(ds, llm, concurrency=1).take_all()

    told = sorted((row["success"], row["error_type"] or "") for row in rows)
    assert told == [(False, "InvalidRequestError")] * 2 + [(True, "")]
    assert simulator.bill.total.requests == 1


def test_columns_are_typed_where_every_prompt_fails(
    start_simulator: Callable[..., Simulator],
) -> None:
    start_simulator({"rules": [{"model": "*", "fault": BROKEN}]})

    with make_llm() as llm:
        asked = prompt_dataset(ray.data.from_items(questions(3)), llm, concurrency=1).materialize()

    assert types(asked.schema()).items() >= RESULT_COLUMNS.items()
    rows = asked.take_all()
    assert {row["error_type"] for row in rows} == {"ServerError"}
    assert {row["error_status"] for row in rows} == {500}
    assert {row["result"] for row in rows} == {None}


def test_an_empty_dataset_has_the_columns(simulator: Simulator, tmp_path: Path) -> None:
    empty = pa.table({"prompt": pa.array([], pa.string())})
    pa_parquet.write_table(empty, tmp_path / "empty.parquet")
    read = ray.data.read_parquet(str(tmp_path / "empty.parquet"))

    with make_llm() as llm:
        of_a_file = prompt_dataset(read, llm, concurrency=1).materialize()
        of_nothing = prompt_dataset(ray.data.from_arrow(empty), llm, concurrency=1).materialize()

    assert types(of_a_file.schema()) == {"prompt": pa.string(), **RESULT_COLUMNS}
    # Ray itself does not know the columns of such a one.
    assert types(of_nothing.schema()) == RESULT_COLUMNS
    assert of_a_file.count() == of_nothing.count() == 0


def test_some_columns_under_other_names(simulator: Simulator) -> None:
    ds = ray.data.from_items([{"question": "What is 1 + 1?", "result": "given"}])

    with make_llm() as llm:
        asked = prompt_dataset(
            ds, llm, prompt_column="question", columns=["result", "cost_usd"], prefix="answer_"
        )
        [row] = asked.take_all()

    assert list(row) == ["question", "result", "answer_result", "answer_cost_usd"]
    assert (row["result"], row["answer_result"]) == ("given", "2")


def test_columns_that_are_known_are_checked_at_once() -> None:
    ds = ray.data.from_items([{"prompts": "a", "result": "b"}])

    with make_llm() as llm:
        with pytest.raises(ConfigurationError, match="no column 'prompt'") as misspelt:
            prompt_dataset(ds, llm)
        with pytest.raises(ConfigurationError, match="columns that are there: result"):
            prompt_dataset(ds, llm, prompt_column="prompts")
        with pytest.raises(ConfigurationError, match="no argument 'session_id'"):
            prompt_dataset(ds, llm, prompt_column="prompts", prefix="r_", session_id="s")

    assert misspelt.value.hint == "Did you mean 'prompts'?"


def test_columns_that_are_not_known_are_checked_with_the_first_rows(
    simulator: Simulator,
) -> None:
    ds = ray.data.from_items([{"prompts": "a"}]).map(lambda row: row)

    with make_llm() as llm:
        asked = prompt_dataset(ds, llm, concurrency=1)
        with pytest.raises(ray.exceptions.RayTaskError, match="no column 'prompt'"):
            asked.materialize()

    assert simulator.bill.total.requests == 0


def test_a_structured_answer_is_json(start_simulator: Callable[..., Simulator]) -> None:
    start_simulator({"rules": [{"model": "*", "reply": "text", "text": '{"name": "Lima"}'}]})
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}

    with make_llm() as llm:
        asked = prompt_dataset(
            ray.data.from_items(questions(2)), llm, concurrency=1, output_schema=schema
        )
        rows = asked.take_all()

    assert [row["structured"] for row in rows] == ['{"name": "Lima"}'] * 2


def test_a_slow_prompt_holds_up_no_other(
    start_simulator: Callable[..., Simulator], wait_until: Callable[..., None]
) -> None:
    simulator = start_simulator({"rules": [{"model": "*", "fault": HANGS, "times": 1}]})
    rows: list[dict[str, Any]] = []

    with make_llm() as llm:
        ds = ray.data.from_items(questions(24), override_num_blocks=3)
        asked = prompt_dataset(ds, llm, concurrency=1, prompts_per_actor=2, block_rows=4)
        reader = threading.Thread(target=lambda: rows.extend(asked.take_all()))
        reader.start()
        wait_until(lambda: len(simulator.requests) == 24)  # one of them is open all the while
        simulator.stop()
        reader.join()

    # The one that hung has failed, and maybe the last.
    assert sum(row["success"] for row in rows) >= 22


def test_a_look_at_one_row_does_not_ask_them_all(simulator: Simulator) -> None:
    ds = ray.data.from_items(questions(200), override_num_blocks=4)

    with make_llm() as llm:
        [row] = prompt_dataset(ds, llm, concurrency=1).take(1)

    assert row["success"]
    assert len(simulator.requests) < 100


def test_after_an_account_error_nothing_more_is_sent(
    start_simulator: Callable[..., Simulator],
) -> None:
    simulator = start_simulator({"rules": [{"model": "*", "fault": REFUSED}]})

    with make_llm() as llm:
        ds = ray.data.from_items(questions(40), override_num_blocks=4)
        rows = prompt_dataset(ds, llm, concurrency=1, prompts_per_actor=2).take_all()

    assert {row["error_type"] for row in rows} == {"AuthenticationError"}
    unsent = [row for row in rows if row["error_message"].startswith("not sent: ")]
    assert len(unsent) >= 36
    assert len(simulator.requests) < 10


def test_a_killed_actor_loses_nothing_and_doubles_nothing(
    nodes: Nodes,
    start_simulator: Callable[..., Simulator],
    wait_until: Callable[..., None],
) -> None:
    simulator = start_simulator({"first_byte_delay_s": 0.5})
    ds = ray.data.from_items(questions(60), override_num_blocks=6)
    killed: list[int] = []

    with make_llm() as llm:
        for row in prompt_dataset(ds, llm, concurrency=2, prompts_per_actor=4).iter_rows():
            if not killed:
                engine = nodes.processes("opencode")[0]
                worker = next(p for p in engine.parents() if p.name().startswith("ray::"))
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)
                ids = []
            ids.append(row["id"])
            assert row["success"]

    assert sorted(ids) == list(range(60))
    assert 60 <= simulator.bill.total.requests <= 60 + 3 * 4
    wait_until(lambda: nodes.processes("") == [])


def test_dollars_are_shared_by_all_actors(simulator: Simulator) -> None:
    ticket = start_budget("max_cost_usd", 0.0)

    with make_llm() as llm:
        ds = ray.data.from_items(questions(8))
        rows = prompt_dataset(ds, llm, concurrency=2, shared_budget=ticket).take_all()

    assert {row["error_type"] for row in rows} == {"LimitExceededError"}
    assert simulator.bill.total.requests == 0
    ticket.end()


def test_the_key_is_not_in_the_plan(simulator: Simulator) -> None:
    with make_llm() as llm:
        asked = prompt_dataset(ray.data.from_items(questions(1)), llm)
        plan = ray.cloudpickle.dumps(asked._logical_plan)  # type: ignore[no-untyped-call]

        assert DEFAULT_API_TOKEN.encode() not in plan
        assert DEFAULT_API_TOKEN not in repr(asked)
