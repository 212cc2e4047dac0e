"""`models`: lists, single models, comparisons and costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chutes_opencode.cli import tables

Run = Callable[..., Any]

LARGE = {
    "id": "maker/large",
    "chute_id": "chute-large",
    "context_length": 200_000,
    "max_output_length": 64_000,
    "pricing": {"prompt": 3, "completion": 15, "input_cache_read": 0.3},
    "input_modalities": ["text", "image"],
    "supported_features": ["tools", "reasoning"],
    "quantization": "bf16",
    "confidential_compute": True,
}
SMALL = {
    "id": "maker/small-TEE",
    "context_length": 32_768,
    "pricing": {"prompt": 0.1, "completion": 0.4},
    "supported_features": ["tools"],
}
FREE = {"id": "free"}


@pytest.fixture(autouse=True)
def _three_models(server: Any) -> None:
    server.rows = [LARGE, SMALL, FREE]


def ids(result: Any) -> list[str]:
    """The first column without its heading."""
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


class TestList:
    def test_data_goes_to_stdout_and_the_source_to_stderr(self, run: Run) -> None:
        result = run("models", "list")

        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "model                   in $/M  out $/M  cached $/M  context  output  features"
            "          takes        quantization  confidential",
            "chutes/maker/large        3.00    15.00        0.30  200,000  64,000  reasoning, tools"
            "  text, image  bf16          yes",
            "chutes/maker/small-TEE    0.10     0.40           -   32,768       -  tools           "
            "  text         -             no",
            "chutes/free                  -        -           -        -       -  -               "
            "  text         -             no",
        ]
        assert result.stderr == "Chutes: 3 models, just fetched\n"

    def test_the_second_time_it_is_from_the_cache_and_says_how_old_it_is(
        self, run: Run, server: Any
    ) -> None:
        run("models", "list")
        result = run("models", "list")

        assert result.stderr == "Chutes: 3 models, from the cache, 0 s old\n"
        assert server.paths == ["/v1/models"]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--match", "maker/*"], ["large", "small-TEE"]),
            (["--match", "!*-TEE"], ["large", "free"]),
            (["--match", "chutes/maker/*", "--match", "!*small*"], ["large"]),
            (["--search", "SMALL"], ["small-TEE"]),
            (["--feature", "tools", "--feature", "reasoning"], ["large"]),
            (["--modality", "image"], ["large"]),
            (["--max-price", "1"], ["small-TEE"]),
            (["--max-output-price", "0.4"], ["small-TEE"]),
            (["--min-context", "100000"], ["large"]),
            (["--confidential"], ["large"]),
            (["--no-confidential"], ["small-TEE", "free"]),
            (["--sort", "input_price"], ["small-TEE", "large", "free"]),
            (["--sort", "input_price", "--desc"], ["large", "small-TEE", "free"]),
            (["--desc"], ["free", "small-TEE", "large"]),
        ],
    )
    def test_one_may_choose_and_sort(
        self, run: Run, options: list[str], expected: list[str]
    ) -> None:
        shown = ids(run("models", "list", *options))

        assert [name.rsplit("/", 1)[-1] for name in shown] == expected

    def test_what_is_left_out_is_counted(self, run: Run) -> None:
        result = run("models", "list", "--min-context", "999999999")

        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("Chutes: 0 of 3 models")

    def test_json_is_one_object(self, run_json: Run) -> None:
        code, shown = run_json("models", "list", "--sort", "id")

        assert (code, shown["ok"], shown["provider"], shown["listed"]) == (0, True, "chutes", 3)
        assert (shown["source"], shown["problems"]) == ("api", [])
        assert [model["opencode_id"] for model in shown["models"]] == [
            "chutes/free",
            "chutes/maker/large",
            "chutes/maker/small-TEE",
        ]

    def test_markdown_has_every_column(self, run: Run) -> None:
        lines = run("models", "list", "--markdown", "--search", "large").stdout.splitlines()

        assert lines[0].startswith("| model | in $/M |")
        assert lines[2].startswith("| chutes/maker/large | 3.00 | 15.00 | 0.30 |")

    def test_a_narrow_terminal_shows_fewer_columns(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "terminal_width", lambda **_: 60)

        result = run("models", "list")

        headings = "model                   in $/M  out $/M  cached $/M  context"
        assert result.stdout.splitlines()[0] == headings
        assert "no room for: output, features" in result.stderr

    def test_an_unknown_order_is_wrong_usage(self, run: Run) -> None:
        result = run("models", "list", "--sort", "colour")

        assert result.exit_code == 2
        assert "input_price" in result.stderr

    def test_the_setting_model_filter_hides_models(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHUTES_OPENCODE_MODEL_FILTER", "maker/*,!*-TEE")

        assert ids(run("models", "list")) == ["chutes/maker/large"]

    def test_a_model_filter_that_hides_all_is_named(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHUTES_OPENCODE_MODEL_FILTER", "none/*")

        result = run("models", "list")

        assert (result.exit_code, result.stdout) == (0, "")
        assert "warning: model_filter (from environment CHUTES_OPENCODE_MODEL_FILTER) hides" in (
            result.stderr
        )

    def test_a_skipped_row_is_a_warning(self, run: Run, server: Any) -> None:
        server.rows = [LARGE, {"id": None}]

        result = run("models", "list")

        assert ids(result) == ["chutes/maker/large"]
        assert "warning: row 1 " in result.stderr


class TestWithoutNetwork:
    def test_the_registrys_names_are_shown_and_said_to_be_that(
        self, run: Run, no_network: None
    ) -> None:
        result = run("models", "list")

        assert result.exit_code == 0
        assert "chutes/Qwen/Qwen3-32B-TEE" in ids(result)
        assert "warning: no model list from http://127.0.0.1:9/v1" in result.stderr
        assert "the registry's own" in result.stderr

    def test_json_has_the_problem_and_stays_one_object(
        self, run_json: Run, no_network: None
    ) -> None:
        code, shown = run_json("models", "list")

        assert (code, shown["source"], shown["age_s"]) == (0, "fallback", None)
        assert "127.0.0.1:9" in shown["problems"][0]

    def test_without_any_name_it_is_an_error(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9/v1")

        result = run("models", "list", "--provider", "ollama")

        assert (result.exit_code, result.stdout) == (7, "")
        assert "error: no model list from http://127.0.0.1:9/v1" in result.stderr

    def test_a_missing_key_is_named_where_the_list_needs_one(
        self, run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.status = 401
        monkeypatch.delenv("CHUTES_API_TOKEN")

        result = run("models", "list")

        assert "HTTP 401" in result.stderr
        assert "note: no Chutes API key is set; " in result.stderr


def test_an_unknown_provider_names_the_nearest(run: Run) -> None:
    result = run("models", "list", "--provider", "olama")

    assert result.exit_code == 2
    assert "did you mean ollama?" in result.stderr


def test_the_simulator_plays_chutes_only(run: Run) -> None:
    assert run("models", "list", "--simulate", "--provider", "ollama").exit_code == 2


def test_a_simulated_list_leaves_nothing_behind(run: Run, home: Any) -> None:
    assert run("models", "list", "--simulate").exit_code == 0

    assert list(home.rglob("models.json")) == []


class TestShow:
    @pytest.mark.parametrize("name", ["maker/large", "chutes/maker/large"])
    def test_a_model_is_shown_by_either_name(self, run: Run, name: str) -> None:
        result = run("models", "show", name)

        assert result.exit_code == 0
        lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
        assert lines["model"] == "chutes/maker/large"
        assert lines["chute"] == "chute-large"

    def test_a_renamed_one_is_told_of(self, run: Run) -> None:
        result = run("models", "show", "maker/small")

        assert "note: maker/small is now chutes/maker/small-TEE" in result.stderr
        assert "chutes/maker/small-TEE" in result.stdout

    def test_an_unknown_one_names_the_nearest(self, run: Run, run_json: Run) -> None:
        result = run("models", "show", "maker/larg")

        assert (result.exit_code, result.stdout) == (6, "")
        assert "chutes/maker/large" in result.stderr
        code, shown = run_json("models", "show", "maker/larg")
        assert (code, shown["error"]["type"]) == (6, "ModelNotFoundError")

    def test_json_has_the_row_as_it_came(self, run_json: Run) -> None:
        code, shown = run_json("models", "show", "maker/large")

        assert code == 0
        assert shown["model"]["quantization"] == "bf16"
        assert shown["model"]["extra"]["pricing"]["prompt"] == 3


class TestCompare:
    def test_models_stand_side_by_side(self, run: Run) -> None:
        names = ("maker/large", "free", "chutes/maker/large")
        lines = run("models", "compare", *names).stdout.splitlines()

        assert lines[0].split() == ["chutes/maker/large", "chutes/free"]
        assert lines[1].split() == ["in", "$/M", "3.00", "-"]

    def test_json_has_them_in_the_order_of_the_question(self, run_json: Run) -> None:
        _, shown = run_json("models", "compare", "free", "maker/large")

        assert [model["id"] for model in shown["models"]] == ["free", "maker/large"]

    def test_markdown(self, run: Run) -> None:
        result = run("models", "compare", "free", "maker/large", "--markdown")

        assert result.stdout.startswith("|  | chutes/free | chutes/maker/large |\n")

    def test_it_needs_a_name(self, run: Run) -> None:
        assert run("models", "compare").exit_code == 2


TOKENS = ("--input-tokens", "100000", "--output-tokens", "1000")


class TestEstimate:
    def test_the_cheapest_comes_first_and_the_unknown_last(self, run: Run) -> None:
        result = run("models", "estimate", *TOKENS)

        assert [line.split(None, 2) for line in result.stdout.splitlines()[1:]] == [
            ["chutes/maker/small-TEE", "0.0104", "does not fit: its context is 32,768 tokens"],
            ["chutes/maker/large", "0.3150"],
            ["chutes/free", "-", "price unknown"],
        ]

    def test_cached_tokens_are_cheaper(self, run_json: Run) -> None:
        _, shown = run_json(
            "models", "estimate", *TOKENS, "--cached-tokens", "100000", "maker/large"
        )

        assert shown["models"] == [{"id": "maker/large", "cost_usd": 0.045, "fits": True}]

    def test_a_list_of_models_costs_what_the_dearest_costs(self, run_json: Run) -> None:
        _, shown = run_json("models", "estimate", *TOKENS, "maker/large,maker/small-TEE")

        assert shown["models"] == [
            {"id": "maker/large,maker/small-TEE", "cost_usd": 0.315, "fits": False}
        ]

    def test_what_cannot_be_is_wrong_usage(self, run: Run) -> None:
        result = run("models", "estimate", *TOKENS, "--cached-tokens", "100001")

        assert result.exit_code == 2
        assert "100001 cached tokens" in result.stderr
        assert run("models", "estimate").exit_code == 2
        assert run("models", "estimate", "--input-tokens", "-1").exit_code == 2


class TestWarmUp:
    def test_the_simulators_model_gets_hot(self, run: Run, run_json: Run) -> None:
        result = run("models", "warmup", "--simulate", "sim/echo")

        assert (result.exit_code, result.stdout) == (0, "sim/echo: hot\n")
        code, shown = run_json("models", "warmup", "--simulate", "sim/echo")
        assert (code, shown["status"]) == (0, "hot")

    def test_a_model_without_a_chute_cannot_be_warmed(self, run: Run) -> None:
        assert run("models", "warmup", "free").exit_code == 2

    def test_one_that_is_cold_says_what_comes_next(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from chutes_opencode.catalog import account

        cold = account.WarmUp("cold", "asked for one")
        monkeypatch.setattr(account, "warm_up", lambda *_, **__: cold)

        result = run("models", "warmup", "maker/large")

        assert result.stdout == "maker/large: cold (asked for one)\n"
        assert "--wait" in result.stderr

    def test_a_provider_without_a_management_api_has_none(self, run: Run) -> None:
        assert run("models", "warmup", "x", "--provider", "ollama").exit_code == 2


class TestExport:
    def test_the_block_goes_to_stdout(self, run: Run) -> None:
        result = run("models", "export", "--opencode")

        assert result.exit_code == 0
        block = json.loads(result.stdout)
        assert block["$schema"] == "https://opencode.ai/config.json"
        assert list(block["provider"]["chutes"]["models"]) == [
            "maker/large",
            "maker/small-TEE",
            "free",
        ]
        assert block["provider"]["chutes"]["options"]["apiKey"] == "{env:CHUTES_API_TOKEN}"

    def test_the_variable_in_use_is_the_one_that_is_named(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CHUTES_API_TOKEN")
        monkeypatch.setenv("CHUTES_API_KEY", "cpk_cli_test_0002")

        result = run("models", "export")

        assert "{env:CHUTES_API_KEY}" in result.stdout
        assert "cpk_cli_test" not in result.output

    def test_a_provider_without_a_key_names_no_variable(
        self, run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import os

        monkeypatch.setenv("OLLAMA_BASE_URL", os.environ["CHUTES_BASE_URL"])

        block = json.loads(run("models", "export", "--provider", "ollama").stdout)

        assert "apiKey" not in block["provider"]["ollama"]["options"]

    def test_a_file_is_written_but_not_over_another(self, run: Run, home: Any) -> None:
        out = home / "opencode.json"

        assert run("models", "export", "-o", str(out)).stdout == ""
        assert json.loads(out.read_text())["provider"]["chutes"]["name"] == "Chutes"

        again = run("models", "export", "-o", str(out))
        assert again.exit_code == 2
        assert "--force" in again.stderr
        assert run("models", "export", "-o", str(out), "--force").exit_code == 0

    def test_a_folder_that_is_missing_is_named(self, run: Run, home: Any) -> None:
        result = run("models", "export", "-o", str(home / "missing" / "x.json"))

        assert result.exit_code == 1
        assert "missing" in result.stderr
