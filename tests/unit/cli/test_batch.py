"""`batch run` and `batch estimate`, against the embedded simulator, without an opencode."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.report import figures
from chutes_opencode.errors import ConfigurationError

DISTRIBUTED = "chutes_opencode.distributed"

Run = Callable[..., Any]
Rows = list[dict[str, Any]]

SUMS: Rows = [{"id": f"q{n}", "prompt": f"What is {n} + {n}?"} for n in range(4)]


@pytest.fixture
def items(home: Path) -> Callable[[Rows], str]:
    """Write items into a file of the current folder."""

    def write(rows: Rows, name: str = "items.jsonl") -> str:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


@pytest.fixture
def batch(run: Run, items: Callable[[Rows], str]) -> Run:
    """Run a batch of items in the folder `out`."""

    def call(*arguments: str, rows: Rows = SUMS) -> Any:
        plain = ("--simulate", "--engine", "direct", "--no-tools")
        return run("batch", "run", items(rows), "-o", "out", *plain, *arguments)

    return call


def results() -> dict[str, dict[str, Any]]:
    lines = Path("out/results.jsonl").read_text().splitlines()
    return {result["id"]: result for result in map(json.loads, lines)}


def test_stdout_names_the_results_and_stderr_tells_the_rest(batch: Run) -> None:
    result = batch()

    assert (result.exit_code, result.stdout) == (0, "out/results.jsonl\n")
    assert {key: value["result"] for key, value in results().items()} == {
        "q0": "0",
        "q1": "2",
        "q2": "4",
        "q3": "6",
    }
    told = result.stderr.splitlines()
    assert told[0].startswith("simulated: the answers come from the embedded simulator")
    assert told[1] == "batch: 4 prompts"
    assert ["Qwen/Qwen3-32B-TEE", "4", "4", "0"] in [line.split()[:4] for line in told]
    assert told[-1].startswith("4 answers, 0 failed, 0 left; $")


def test_json_is_one_object(batch: Run) -> None:
    shown = json.loads(batch("--json", "--quiet").stdout)

    assert (shown["ok"], shown["total"], shown["done"], shown["left"]) == (True, 4, 4, 0)
    assert (shown["results"], shown["stopped_by"]) == ("out/results.jsonl", "")
    assert shown["cost_usd"] > 0
    (model,) = shown["models"]
    assert (model["model"], model["ok"]) == ("Qwen/Qwen3-32B-TEE", 4)


def test_quiet_has_no_progress(batch: Run) -> None:
    assert "batch:" not in batch("--quiet").stderr


def test_the_same_command_again_has_nothing_to_do(batch: Run) -> None:
    batch()
    before = Path("out/results.jsonl").read_bytes()

    again = batch()

    assert again.exit_code == 0
    assert again.stderr.endswith("nothing is left to do: 4 prompts done before\n")
    assert Path("out/results.jsonl").read_bytes() == before


def test_more_items_are_done_and_said_to_be_left(batch: Run) -> None:
    batch(rows=SUMS[:3])

    again = batch()

    assert "4 answers, 3 of them before, 0 failed, 0 left" in again.stderr
    assert set(results()) == {"q0", "q1", "q2", "q3"}


BROKEN: Rows = [SUMS[0], {"id": "bad", "prompt": "x", "model": "sim/fault/400-invalid"}]


def test_failures_are_kept_and_told_of(batch: Run) -> None:
    result = batch(rows=BROKEN)

    assert (result.exit_code, result.stdout) == (1, "out/results.jsonl\n")
    assert "failed: 1 InvalidRequestError; --retry-failed [CLASS] tries them" in result.stderr
    assert results()["bad"]["error"]["type"] == "InvalidRequestError"


@pytest.mark.parametrize(
    ("arguments", "tried_again"),
    [
        ((), False),
        (("--retry-failed",), True),
        (("--retry-failed", "InvalidRequestError"), True),
        (("--retry-failed", "ServerError"), False),
    ],
)
def test_failures_run_again_where_asked_for(
    batch: Run, arguments: tuple[str, ...], tried_again: bool
) -> None:
    batch(rows=BROKEN)

    batch(*arguments, rows=BROKEN)

    attempts = Path("out/attempts.jsonl").read_text().splitlines()
    assert len(attempts) == tried_again
    assert set(results()) == {"q0", "bad"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "sim/fault/401-invalid"), 3, "stopped by authentication"),
        (("--model", "sim/fault/402-quota"), 4, "stopped by billing"),
        (("--max-cost", "0.000001"), 8, "again with a larger --max-cost runs the 4 prompts left"),
        (("--model", "sim/ecko"), 6, "unknown model 'sim/ecko'"),
        (("--max-cost", "-1"), 2, "max-cost"),
        (("--retry-failed=Nothing",), 2, "no error class 'Nothing'"),
        (("--provider", "openrouter"), 2, "the simulator plays chutes"),
        (("--schema", "nowhere.json"), 2, "--schema nowhere.json"),
        (("--template", "{x}", "--prompt-column", "y"), 2, "exclude each other"),
    ],
)
def test_the_exit_code_says_what_stopped_it(
    batch: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = batch(*arguments)

    assert result.exit_code == code
    assert said in result.stderr


def test_bad_items_are_named_by_line_before_anything_is_spent(batch: Run) -> None:
    rows = [SUMS[0], {"id": "q0", "prompt": "again"}, {"id": "q9", "promt": "typo"}]

    result = batch(rows=rows)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "2 of 3 rows of items.jsonl cannot be asked" in result.stderr
    assert "line 2: an earlier row has the id 'q0', too" in result.stderr
    assert "line 3:" in result.stderr
    assert "did you mean 'prompt'?" in result.stderr
    assert "fix: Correct them, or leave them out with --skip-bad." in result.stderr


def test_bad_items_may_be_skipped(batch: Run) -> None:
    result = batch("--skip-bad", rows=[SUMS[0], {"id": "q9"}])

    assert result.exit_code == 0
    assert set(results()) == {"q0"}


def test_all_models_are_asked_all_samples(batch: Run) -> None:
    models = ("--model", "Qwen/Qwen3-32B-TEE", "--model", "sim/echo")

    shown = json.loads(batch(*models, "--samples-per-item", "2", "--json").stdout)

    assert shown["total"] == 4 * 2 * 2
    assert {model["model"]: model["ok"] for model in shown["models"]} == {
        "Qwen/Qwen3-32B-TEE": 8,
        "sim/echo": 8,
    }


def test_options_for_items_reach_the_batch(run: Run, home: Path) -> None:
    Path("sums.txt").write_text("nr,a,b,topic\n1,2,3,x\n2,4,5,y\n3,6,7,z\n")

    result = run(
        *("batch", "run", "sums.txt", "-o", "out", "--simulate", "--engine", "direct"),
        *("--no-tools", "--format", "csv", "--template", "What is {a} + {b}?", "--id-column", "nr"),
        *("--keep-columns", "--shuffle", "3", "--limit", "2", "--transcripts", "none"),
        *("--params", "max_tokens=50", "--system", "Be brief.", "--concurrency", "1"),
    )

    assert result.exit_code == 0
    found = results()
    assert len(found) == 2
    sums = {"1": "5", "2": "9", "3": "13"}
    assert all(found[key]["result"] == sums[key] for key in found)
    assert all(value["metadata"]["topic"] in "xyz" for value in found.values())
    settings = json.loads(Path("out/run.json").read_text())["settings"]
    assert (settings["params"], settings["system_message"]) == ({"max_tokens": 50}, "Be brief.")
    assert (settings["shuffle"], settings["limit"], settings["concurrency"]) == (3, 2, 1)


def test_items_may_come_from_standard_input(run: Run, home: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in SUMS)

    plain = ("--simulate", "--engine", "direct", "--no-tools")
    result = run("batch", "run", "-", "-o", "out", *plain, input=lines)

    assert result.exit_code == 0
    assert len(results()) == 4


def test_a_schema_is_for_each_answer(batch: Run) -> None:
    Path("schema.json").write_text('{"type": "integer"}')

    result = batch("--schema", "schema.json")

    assert result.exit_code == 0
    assert results()["q3"]["structured"] == 6


def test_a_dry_run_estimates_and_leaves_nothing(batch: Run) -> None:
    result = batch("--dry-run", "--max-cost", "0.0000001")

    assert result.exit_code == 0
    assert result.stdout.startswith("4 items, 4 prompts, 4 to run\n")
    assert "warning: 1e-07 USD are not enough" in result.stderr
    assert not Path("out").exists()


def test_an_estimate_that_knows_no_time_says_what_would_tell_it(batch: Run) -> None:
    assert "unknown; `batch estimate --like DIR` learns it" in batch("--dry-run").stdout


def test_an_estimate_is_of_what_is_left(run_json: Run, batch: Run, items: Any) -> None:
    batch(rows=SUMS[:3])

    code, shown = run_json(
        *("batch", "estimate", items(SUMS), "-o", "out", "--simulate", "--engine", "direct"),
        "--no-tools",
    )

    assert (code, shown["ok"], shown["tasks"], shown["pending"]) == (0, True, 4, 1)
    assert shown["cost_usd"]["expected"] > 0
    assert "Input tokens are counted" in shown["method"]


def test_a_report_is_written_at_the_end(batch: Run) -> None:
    result = batch("--report")

    assert "report: out/report.html" in result.stderr
    assert Path("out/report.html").read_text().startswith("<!doctype html>")


def test_a_report_that_cannot_be_is_told_of_first(
    batch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise ConfigurationError(raw_message="plotly is missing")

    monkeypatch.setattr(figures, "plotly_js", missing)

    result = batch("--report")

    assert (result.exit_code, Path("out").exists()) == (2, False)
    assert "plotly is missing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2"), "Add --on ray, or leave --workers out."),
        (("--address", "auto"), "Add --on ray, or leave --address out."),
        (("--on", "slurm"), "--on"),
    ],
)
def test_a_cluster_is_asked_for_in_words_that_there_are(
    batch: Run, arguments: tuple[str, ...], said: str
) -> None:
    result = batch(*arguments)

    assert (result.exit_code, Path("out").exists()) == (2, False)
    assert said in result.stderr


def test_without_ray_one_line_says_how_to_get_it(
    batch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(DISTRIBUTED)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)

    result = batch("--on", "ray")

    assert (result.exit_code, result.stdout, Path("out").exists()) == (2, "", False)
    error, fix = result.stderr.splitlines()
    assert "pip install 'chutes-opencode[ray]'" in error
    assert fix == "fix: pip install 'chutes-opencode[ray]'."


def test_a_run_at_a_url_is_read_as_a_folder_is(run: Run, items: Any, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/bucket/run"
    plain = ("--simulate", "--engine", "direct", "--no-tools")

    ran = run("batch", "run", items(SUMS), "-o", url, *plain, "--quiet")
    again = run("batch", "estimate", items(SUMS), "-o", url, *plain)
    status = run("batch", "status", url)
    exported = run("batch", "export", url, "--format", "jsonl")
    reported = run("batch", "report", url)

    assert (ran.exit_code, ran.stdout) == (0, f"{url}\n"), ran.stderr
    assert again.stdout.startswith("4 items, 4 prompts, 0 to run\n")
    assert "4 of 4 prompts, 100 %" in status.stdout
    assert Path(exported.stdout.strip()).read_text().count("\n") == 4
    assert Path(reported.stdout.strip()).read_text().startswith("<!doctype html>")
    assert (tmp_path / "bucket/run/report.html").exists()
    assert (tmp_path / "bucket/run/results.flat.jsonl").exists()
