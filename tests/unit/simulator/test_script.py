import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.simulator import Rule, Scenario, ScenarioError, load_scenario

EXAMPLE = Path(__file__).parents[3] / "configs" / "scenario.toml"


def test_the_example_that_users_copy_is_a_valid_scenario() -> None:
    scenario = load_scenario(EXAMPLE)

    assert scenario.rule_for("Qwen/Qwen3-32B-TEE") == Rule(
        model="Qwen/Qwen3-32B-TEE", fault="429-capacity", times=2
    )
    assert scenario.rule_for("acme/agent").reply == "script"
    assert scenario.models[0]["id"] == "acme/agent"


@pytest.mark.parametrize("name", ["scenario.toml", "scenario.json"])
def test_toml_and_json_files_mean_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = {"chunk_size": 3, "rules": [{"model": "a*", "times": 1}]}
    toml = 'chunk_size = 3\n[[rules]]\nmodel = "a*"\ntimes = 1\n'
    path.write_text(json.dumps(data) if name.endswith("json") else toml)

    assert load_scenario(str(path)) == load_scenario(path) == load_scenario(data)
    assert load_scenario(data) == Scenario(chunk_size=3, rules=(Rule("a*", times=1),))


def test_nothing_and_a_ready_scenario_are_scenarios() -> None:
    ready = Scenario(chunk_size=1)

    assert load_scenario(None) == Scenario()
    assert load_scenario(ready) is ready
    assert load_scenario({"rules": [Rule("x")], "chunk_size": None}) == Scenario((Rule("x"),))


def test_the_first_rule_that_fits_a_model_holds() -> None:
    scenario = Scenario(rules=(Rule("a/?", text="1"), Rule("a/*", text="2")))

    texts = [scenario.rule_for(model).text for model in ("a/b", "a/bc", "A/b")]

    assert texts == ["1", "2", ""]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "colour: unknown field (known: chunk_size"),
        ({"rules": {}}, "rules: expected a list, got {}"),
        ({"rules": [1]}, "rules[0]: expected an object, got 1"),
        ({"rules": [{}, {"times": "x"}]}, "rules[1].times: expected a whole number from 0"),
        ({"rules": [{"times": True}]}, "rules[0].times: expected a whole number from 0"),
        ({"rules": [{"times": -1}]}, "rules[0].times: expected a whole number from 0"),
        ({"rules": [{"fault": "teapot"}]}, "rules[0].fault: expected one of 401-required"),
        ({"rules": [{"reply": "song"}]}, "rules[0].reply: expected one of auto, echo"),
        ({"rules": [{"model": 1}]}, "rules[0].model: expected a text, got 1"),
        ({"rules": [{"steps": [{"x": 1}]}]}, "rules[0].steps[0]: unknown field 'x'"),
        ({"rules": [{"honour_max_tokens": 1}]}, "rules[0].honour_max_tokens: expected true or"),
        ({"token_delay_s": -1}, "token_delay_s: expected a number of seconds from 0"),
        ({"token_delay_s": float("inf")}, "token_delay_s: expected a number of seconds"),
        ({"token_delay_s": True}, "token_delay_s: expected a number of seconds"),
        ({"chunk_size": 0}, "chunk_size: expected a whole number from 1, got 0"),
        ({"usage": "often"}, "usage: expected one of end, every, never"),
        ({"models": ["x"]}, "models[0]: expected an object"),
        ({"extra_api_tokens": [1]}, "extra_api_tokens[0]: expected a text"),
    ],
)
def test_a_malformed_field_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(data)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "chunk_size = 0", "chunk_size: expected a whole number from 1"),
        ("a.toml", "chunk_size =", "is malformed: Invalid value (at end of document)"),
        ("a.json", "{", "is malformed: Expecting"),
        ("a.json", "[]", "expected an object"),
    ],
)
def test_errors_of_a_file_name_it(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)

    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml: cannot be read: No such file"):
        load_scenario(tmp_path / "none.toml")
