import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from chutes_opencode.simulator import Simulator, fault_names
from chutes_opencode.simulator.models import ModelTable, context_length, prices
from tests.patience import WAIT_SECONDS

TABLE = ModelTable()


def test_the_listing_has_the_recorded_rows_the_sim_rows_and_a_row_for_each_fault() -> None:
    listing = TABLE.listing()
    ids = [row["id"] for row in listing["data"]]

    assert listing["object"] == "list"
    assert ids[0] == "Qwen/Qwen3-32B-TEE"
    assert "Nemotron-3-Nano-Omni-30B-TEE" in ids
    assert {"sim/echo", "sim/script", "sim/vision", "sim/no-tools", "sim/nulls"} <= set(ids)
    assert ids[-len(fault_names()) :] == [f"sim/fault/{name}" for name in fault_names()]
    assert len(ids) == len(set(ids))


def test_rows_with_absent_and_null_fields_are_among_them() -> None:
    rows = {row["id"]: row for row in TABLE.rows}

    assert "context_length" not in rows["unsloth/Mistral-Nemo-Instruct-2407-TEE"]
    assert rows["sim/nulls"]["context_length"] is None
    assert "pdf" in rows["sim/vision"]["input_modalities"]
    assert "tools" not in rows["sim/no-tools"]["supported_features"]
    assert rows["sim/echo"]["context_length"] == 4_000_000
    assert rows["sim/script"]["context_length"] == 200_000


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B:latency", "Qwen/Qwen3-32B-TEE"),
        ("sim/echo:throughput", "sim/echo"),
        ("sim/size/7", "sim/size/7"),
        ("sim/size/7:latency", "sim/size/7"),
        ("Qwen/Qwen3-32B:other", None),
        ("nope", None),
        ("", None),
    ],
)
def test_a_name_finds_its_row(name: str, served: str | None) -> None:
    row = TABLE.find(name)

    assert (row["id"] if row else None) == served


def test_a_comma_list_names_several_rows_and_skips_unknown_ones() -> None:
    rows = TABLE.candidates("nope, sim/echo ,Qwen/Qwen3-32B:latency")

    assert [row["id"] for row in rows] == ["sim/echo", "Qwen/Qwen3-32B-TEE"]


def test_an_id_with_a_comma_or_colon_is_an_id_first() -> None:
    table = ModelTable([{"id": "odd,id:latency"}])

    assert table.candidates("odd,id:latency") == ({"id": "odd,id:latency"},)


def test_extra_rows_are_listed_as_they_are_and_replace_namesakes() -> None:
    broken = {"object": "model", "context_length": "many"}
    table = ModelTable([broken, {"id": "sim/echo", "context_length": 5}, {"id": 7}])

    assert table.rows[-3:] == (broken, {"id": "sim/echo", "context_length": 5}, {"id": 7})
    assert sum(row.get("id") == "sim/echo" for row in table.rows) == 1
    assert table.find("sim/echo") == {"id": "sim/echo", "context_length": 5}


def test_a_chute_is_found_by_its_id_or_its_models_name() -> None:
    row = TABLE.find("sim/echo")
    assert row is not None

    assert TABLE.chute(row["chute_id"]) == TABLE.chute("sim/echo") == row
    assert TABLE.chute("nope") is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"context_length": 10, "max_model_len": 20}, 10),
        ({"context_length": None, "max_model_len": 20}, 20),
        ({}, 131_072),
    ],
)
def test_the_context_length_is_preferred_to_the_engines(
    row: dict[str, object], expected: int
) -> None:
    assert context_length(row) == expected


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        ({"prompt": 1, "completion": "2.5", "input_cache_read": 0.1}, (1.0, 0.1, 2.5)),
        ({"prompt": 1, "completion": 2}, (1.0, 1.0, 2.0)),
        ({"prompt": 1, "completion": 2, "input_cache_read": 0}, (1.0, 0.0, 2.0)),
        ({"prompt": None, "completion": None, "input_cache_read": None}, (0.0, 0.0, 0.0)),
        (None, (0.0, 0.0, 0.0)),
    ],
)
def test_prices_may_be_texts_null_or_missing(
    pricing: object, expected: tuple[float, float, float]
) -> None:
    assert prices({"pricing": pricing}) == expected


def test_models_are_public(simulator: Simulator) -> None:
    answer = httpx.get(
        f"{simulator.base_url}/models", trust_env=False, verify=False, timeout=WAIT_SECONDS
    )

    assert answer.status_code == 200
    assert answer.json() == TABLE.listing()


def test_a_scenarios_models_answer(
    asking: Callable[[Simulator], Callable[..., httpx.Response]], tmp_path: Path
) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps({"models": [{"id": "acme/one"}]}))
    with Simulator(path) as simulator:
        answer = asking(simulator)("acme/one", "hello").json()

    assert answer["model"] == "acme/one"
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert simulator.bill.total.cost_usd == 0
