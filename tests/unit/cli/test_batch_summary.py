"""What a batch came to, as people and programs are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chutes_opencode.batch.report.summary import ModelFigures
from chutes_opencode.batch.running.summary import BatchSummary
from chutes_opencode.cli.batch_summary import (
    results_place,
    summary_code,
    summary_fields,
    summary_lines,
    tell_summary,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ColdModelError,
    LimitExceededError,
    OpenCodeError,
)
from chutes_opencode.results import Usage

ALL_WELL = BatchSummary(
    Path("runs/today"),
    total=10,
    done=10,
    usage=Usage(900, 100, num_requests=10),
    cost_usd=0.25,
    duration_s=4.0,
)
SOME_FAILED = replace(ALL_WELL, done=7, failed=3, errors={"ServerError": 1, "RateLimitError": 2})
INTERRUPTED = replace(ALL_WELL, done=4, left=6, stopped_by="interrupt")
FIGURES = ModelFigures("acme/a", 7, 3, Usage(900, 100), 0.25, 0, 1.25, 4.5)


def stopped(error: OpenCodeError) -> BatchSummary:
    return replace(INTERRUPTED, stopped_by="…", stop_error=error)


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (ALL_WELL, 0),
        (SOME_FAILED, 1),
        (replace(ALL_WELL, done=0, skipped=10), 0),
        (replace(ALL_WELL, done=9, left=1), 1),
        (INTERRUPTED, 130),
        (stopped(AuthenticationError()), 3),
        (stopped(BillingError()), 4),
        (stopped(ColdModelError()), 7),
        (stopped(LimitExceededError(limit="max_cost")), 8),
        (stopped(OpenCodeError()), 1),
    ],
)
def test_the_exit_code_tells_how_it_ended(summary: BatchSummary, code: int) -> None:
    assert summary_code(summary) == code


@pytest.mark.parametrize(
    ("summary", "lines"),
    [
        (ALL_WELL, ["10 answers, 0 failed, 0 left; $0.25 in all, 4.0 s"]),
        (
            replace(ALL_WELL, done=6, skipped=4),
            ["10 answers, 4 of them before, 0 failed, 0 left; $0.25 in all, 4.0 s"],
        ),
        (
            SOME_FAILED,
            [
                "7 answers, 3 failed, 0 left; $0.25 in all, 4.0 s",
                "failed: 2 RateLimitError, 1 ServerError; --retry-failed [CLASS] tries them again",
            ],
        ),
        (
            INTERRUPTED,
            [
                "4 answers, 0 failed, 6 left; $0.25 in all, 4.0 s",
                "stopped by interrupt: the same command again runs the 6 prompts left",
            ],
        ),
        (
            BatchSummary(Path("r"), total=5, left=5, duration_s=4.0, stopped_by="budget"),
            [
                "0 answers, 0 failed, 5 left; $0 in all, 4.0 s",
                "stopped by budget: the same command again with a larger --max-cost runs the "
                "5 prompts left",
            ],
        ),
        (
            replace(ALL_WELL, cost_usd=None),
            ["10 answers, 0 failed, 0 left; – in all, 4.0 s"],
        ),
        (
            replace(ALL_WELL, done=0, skipped=10),
            ["nothing is left to do: 10 prompts done before"],
        ),
        (
            replace(ALL_WELL, resent=2),
            [
                "10 answers, 0 failed, 0 left; $0.25 in all, 4.0 s",
                "about 2 prompts sent again, and perhaps paid twice: what ran them was lost",
            ],
        ),
        (
            replace(ALL_WELL, bad=5),
            ["10 answers, 0 failed, 0 left; $0.25 in all, 4.0 s", "5 bad rows were left out"],
        ),
        (
            replace(ALL_WELL, done=0, skipped=10, bad=1),
            ["nothing is left to do: 10 prompts done before", "1 bad row was left out"],
        ),
    ],
)
def test_people_are_told_what_it_came_to_and_what_is_next(
    summary: BatchSummary, lines: list[str]
) -> None:
    assert summary_lines(summary) == lines


def test_a_table_by_model_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    tell_summary(stopped(BillingError(raw_message="no balance", hint="Pay.")), [FIGURES])

    told = capsys.readouterr()
    assert told.out == ""
    headings, row, *_ = (line.split() for line in told.err.splitlines())
    assert headings == [
        *("model", "prompts", "answers", "failed", "tokens", "cost", "median"),
        *("95", "%"),
    ]
    assert row == ["acme/a", "10", "7", "3", "1,000", "$0.25", "1.3", "s", "4.5", "s"]
    assert told.err.endswith("error: no balance\nfix: Pay.\n")


def test_programs_get_one_object() -> None:
    shown = json.loads(
        json.dumps(summary_fields(replace(SOME_FAILED, bad=5), [FIGURES], Path("r.html")))
    )

    assert (shown["ok"], shown["total"], shown["failed"], shown["left"]) == (False, 10, 3, 0)
    assert (shown["bad_rows"], shown["resent"]) == (5, 0)
    assert shown["results"] == "runs/today/results.jsonl"
    assert (shown["report"], shown["error"], shown["stopped_by"]) == ("r.html", None, "")
    assert (shown["models"][0]["model"], shown["models"][0]["usage"]["input"]) == ("acme/a", 900)


def test_programs_get_the_error_that_stopped_it() -> None:
    shown = summary_fields(stopped(BillingError(raw_message="no balance")), [], None)

    assert (shown["error"]["type"], shown["error"]["exit_code"]) == ("BillingError", 4)


def test_results_are_one_file_or_the_run_where_there_are_shards(tmp_path: Path) -> None:
    alone = replace(ALL_WELL, out_dir=tmp_path, place=str(tmp_path))
    at_a_url = replace(alone, place="s3://bucket/run")

    assert results_place(alone) == str(tmp_path / "results.jsonl")
    assert results_place(at_a_url) == "s3://bucket/run"
    (tmp_path / "shards").mkdir()
    assert results_place(alone) == str(tmp_path)
