"""`providers`: the registry, the keys that there are, and whether somebody answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog import probe as probing
from chutes_opencode.catalog import speed
from chutes_opencode.catalog.speed import Probe
from chutes_opencode.errors import ServerError
from tests.patience import WAIT_SECONDS

Run = Callable[..., Any]

MINE = """
[providers.mine]
name = "My server"
base_url = "http://127.0.0.1:9/v1"
needs_key = false
"""


@pytest.fixture
def mine(home: Path) -> None:
    """An entry of the project's own."""
    Path("chutes-opencode-providers.toml").write_text(MINE)


def lines(result: Any) -> dict[str, str]:
    return dict(line.split(None, 1) for line in result.stdout.splitlines())


class TestList:
    def test_each_provider_is_a_line(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-test-0001")

        result = run("providers", "list")

        assert result.exit_code == 0
        shown = lines(result)
        assert "missing: set CHUTES_API_TOKEN" in shown["chutes"]
        assert "set, from environment OPENROUTER_API_KEY" in shown["openrouter"]
        assert "not needed" in shown["ollama"]
        assert "missing: set OPENAI_COMPATIBLE_BASE_URL" in shown["openai-compatible"]
        assert "native" in shown["anthropic"]
        assert "sk-or-test" not in result.output

    def test_an_entry_of_the_users_is_there_with_its_file(self, run: Run, mine: None) -> None:
        shown = lines(run("providers", "list"))

        assert shown["mine"].startswith("My server")
        assert "chutes-opencode-providers.toml" in shown["mine"]

    def test_json(self, run_json: Run) -> None:
        code, shown = run_json("providers", "list")

        assert code == 0
        by_id = {row["id"]: row for row in shown["providers"]}
        assert by_id["chutes"]["key"] == {"needed": True, "set": False, "from": None}
        assert by_id["openai-compatible"]["base_url"] is None
        assert by_id["openai-compatible"]["problem"]

    def test_a_malformed_file_is_named_with_its_line(self, run: Run) -> None:
        Path("chutes-opencode-providers.toml").write_text("[providers.mine]\nwires = 'openai'\n")

        result = run("providers", "list")

        assert result.exit_code == 2
        assert "chutes-opencode-providers.toml:2: providers.mine.wires" in result.stderr


class TestShow:
    def test_all_of_an_entry_is_shown(self, run: Run) -> None:
        shown = lines(run("providers", "show", "anthropic"))

        assert shown["key"] == "missing: set ANTHROPIC_API_KEY"
        assert "relay=False" in shown["driven"]
        assert shown["headers"] == "anthropic-version: 2023-06-01"
        assert shown["needs_key"] == "yes"
        assert shown["quirks"] == "-"

    def test_a_provider_without_a_url_says_how_to_give_one(self, run: Run) -> None:
        result = run("providers", "show", "openai-compatible")

        assert result.exit_code == 0
        assert "OPENAI_COMPATIBLE_BASE_URL" in result.stdout

    def test_json_has_the_entry_under_a_key_of_its_own(self, run_json: Run) -> None:
        code, shown = run_json("providers", "show", "chutes")

        assert (code, shown["id"]) == (0, "chutes")
        assert "management_api" in shown["registry"]["quirks"]

    def test_an_unknown_one_names_the_nearest(self, run: Run) -> None:
        result = run("providers", "show", "openruter")

        assert result.exit_code == 2
        assert "openrouter" in result.stderr


class TestTest:
    @pytest.fixture(autouse=True)
    def no_hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No machine is so slow that its servers are called slow here."""
        monkeypatch.setattr(speed, "SLOW_FIRST_TOKEN_SECONDS", WAIT_SECONDS)
        monkeypatch.setattr(speed, "SLOW_TOKENS_PER_SECOND", 0.0)

    def test_the_simulator_answers_with_its_speed(self, run: Run) -> None:
        result = run("providers", "test", "--simulate")

        assert result.exit_code == 0
        assert "chutes: ok: " in result.stdout
        assert re.search(r"sim/echo: first token after \d+\.\d", result.stdout)

    def test_json_has_the_numbers(self, run_json: Run) -> None:
        code, shown = run_json(
            "providers", "test", "--simulate", "--model", "chutes/sim/arithmetic"
        )

        assert (code, shown["ok"], shown["exit_code"]) == (0, True, 0)
        (row,) = shown["providers"]
        assert (row["id"], row["verdict"], row["model"]) == ("chutes", "ok", "sim/arithmetic")
        assert row["first_token_s"] > 0
        assert row["error"] is None

    @pytest.mark.parametrize(
        ("model", "code", "verdict"),
        [
            ("sim/fault/401-invalid", 3, "key_refused"),
            ("sim/fault/402-quota", 4, "refused"),
            ("sim/fault/429-capacity", 5, "refused"),
            ("sim/fault/404-model", 6, "refused"),
            ("sim/fault/503-cold", 7, "failing"),
        ],
    )
    def test_each_refusal_has_its_exit_code(
        self, run_json: Run, model: str, code: int, verdict: str
    ) -> None:
        got, shown = run_json("providers", "test", "--simulate", "--model", model)

        assert (got, shown["exit_code"], shown["ok"]) == (code, code, False)
        assert shown["providers"][0]["verdict"] == verdict
        assert shown["providers"][0]["error"]["exit_code"] == code

    def test_several_are_tried_and_each_says_its_fix(self, run: Run, mine: None) -> None:
        result = run("providers", "test", "mine", "openrouter")

        assert result.exit_code == 7
        assert "mine: unreachable: nothing answers at http://127.0.0.1:9/v1" in result.stdout
        assert "openrouter: no key: no OpenRouter API key is set" in result.stdout
        assert "fix mine: " in result.stderr
        assert "fix openrouter: Set OPENROUTER_API_KEY" in result.stderr

    def test_the_default_model_is_the_one_to_ask(
        self, run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.rows = [{"id": "a"}, {"id": "b"}]
        monkeypatch.setenv("CHUTES_OPENCODE_DEFAULT_MODEL", "chutes/b")

        assert "; b: " in run("providers", "test").stdout

    def test_a_problem_with_the_list_is_a_warning_where_the_model_answers(
        self, run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def well(*_: object, **__: object) -> Probe:
            return Probe("ok", "a", "well", models=None, problems=("no list",))

        monkeypatch.setattr(probing, "probe", well)

        result = run("providers", "test")

        assert result.stdout == "chutes: ok: a: well\n"
        assert result.stderr == "warning: no list\n"

    def test_slow_is_no_failure(self, run: Run, server: Any, monkeypatch: Any) -> None:
        async def slow(*_: object, **__: object) -> Probe:
            return Probe("slow", "a", "first token after 9.00 s", 9.0, models=1)

        monkeypatch.setattr(probing, "probe", slow)

        result = run("providers", "test")

        assert result.exit_code == 0
        assert result.stdout == "chutes: slow: 1 model; a: first token after 9.00 s\n"

    def test_the_first_failure_gives_the_exit_code(self, run: Run, monkeypatch: Any) -> None:
        async def fail(*_: object, **__: object) -> Probe:
            return Probe("failing", detail="broken", error=ServerError(raw_message="broken"))

        monkeypatch.setattr(probing, "probe", fail)

        assert run("providers", "test", "openrouter", "ollama").exit_code == 3
        assert run("providers", "test", "ollama", "openrouter").exit_code == 7

    def test_an_unknown_provider_is_wrong_usage(self, run: Run) -> None:
        assert run("providers", "test", "nobody").exit_code == 2


def test_one_new_entry_is_known_everywhere(
    run: Run, run_json: Run, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.rows = [{"id": "m-128k"}]
    url = os.environ["CHUTES_BASE_URL"]
    Path("chutes-opencode-providers.toml").write_text(
        MINE.replace("http://127.0.0.1:9/v1", url) + "local = true\n"
    )

    assert "mine/m-128k" in run("models", "list", "--provider", "mine").stdout
    assert "mine" in lines(run("providers", "list"))
    checks = run_json("doctor", "--provider", "mine")[1]["checks"]
    found = {check["name"]: check for check in checks}
    assert "mine (" in found["providers"]["detail"]
    assert (found["base URL"]["status"], found["key"]["status"]) == ("pass", "pass")
    exported = run("models", "export", "--provider", "mine").stdout
    assert '"context": 131072' in exported
