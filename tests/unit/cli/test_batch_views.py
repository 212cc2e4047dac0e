"""`batch status`, `diff`, `export`: what a run's folder tells."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.record import FAILED, Record, RecordedError
from chutes_opencode.batch.running.progress import FINISHED, RUNNING, STOPPED, Snapshot
from chutes_opencode.batch.running.status import write_status
from chutes_opencode.batch.store.manifest import Manifest
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.results import Usage

Run = Callable[..., Any]
MakeRun = Callable[..., Path]

MANIFEST = Manifest(
    "20260101-000000-abc",
    1_800_000_000.0,
    dataset={"source": "prompts.jsonl", "items": 3},
    settings={"provider": "chutes", "params": {}},
)
ANSWERED = Record("q-1", "acme/a", result="It is 42.", cost_usd=0.25, usage=Usage(20, 5))
FAILURE = Record("q-2", "acme/a", status=FAILED, error=RecordedError("ServerError", "broke"))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run's folder that holds records, and maybe a last snapshot."""

    def make(
        name: str, *records: Record, snapshot: Snapshot | None = None, **settings: Any
    ) -> Path:
        folder = tmp_path / name
        manifest = replace(MANIFEST, settings={**MANIFEST.settings, **settings})

        async def store() -> None:
            with RunStore.open(folder, manifest=manifest) as run:
                for record in records:
                    await run.append(record)

        asyncio.run(store())
        if snapshot is not None:
            write_status(folder, snapshot)
        return folder

    return make


ENDED = Snapshot(
    total=3, done=1, failed=1, spent_usd=0.25, state=STOPPED, stopped_by="budget", updated_at=1.0
)


def test_status_says_how_far_a_run_is(run: Run, make_run: MakeRun) -> None:
    ended = replace(ENDED, errors={"ServerError": 1})
    folder = make_run("today", ANSWERED, FAILURE, snapshot=ended, max_cost_usd=5)

    result = run("batch", "status", str(folder))

    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line[:10].strip(): line[10:].strip() for line in result.stdout.splitlines()}
    assert lines["run"] == "20260101-000000-abc"
    assert lines["state"] == "stopped, by budget"
    assert lines["finished"] == "2 of 3 prompts, 66 %"
    assert (lines["answers"], lines["failed"], lines["errors"]) == ("1", "1", "1 ServerError")
    assert lines["spent"] == "$0.25 of $5.00"


def test_status_as_json_is_one_object(run_json: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED, snapshot=ENDED)

    code, shown = run_json("batch", "status", str(folder))

    assert (code, shown["ok"], shown["state"], shown["stopped_by"]) == (
        0,
        True,
        "stopped",
        "budget",
    )
    assert (shown["total"], shown["done"], shown["failed"], shown["left"]) == (3, 1, 1, 1)
    assert (shown["pid"], shown["dataset"]["items"]) == (None, 3)


def test_the_last_words_of_a_killed_run_are_not_believed(run_json: Run, make_run: MakeRun) -> None:
    stale = Snapshot(total=3, in_flight=2, state=RUNNING, eta_s=5.0, prompts_per_s=1.0)
    folder = make_run("killed", ANSWERED, FAILURE, snapshot=stale)

    _, shown = run_json("batch", "status", str(folder))

    assert (shown["state"], shown["in_flight"], shown["eta_s"]) == ("broken off", 0, None)
    assert (shown["done"], shown["failed"], shown["left"]) == (1, 1, 1)
    assert (shown["spent_usd"], shown["errors"]) == (0.25, {"ServerError": 1})


def test_failures_of_earlier_sessions_are_named_too(run_json: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED, FAILURE, snapshot=ENDED)

    _, told = run_json("batch", "status", str(folder))

    assert (told["failed"], told["errors"]) == (1, {"ServerError": 1})
    assert told["state"] == STOPPED


def test_a_run_that_is_being_worked_at_names_the_process(
    run_json: Run, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run("busy", snapshot=Snapshot(total=3, in_flight=2, state=RUNNING))

    with RunStore.open(folder):
        _, shown = run_json("batch", "status", str(folder))

    assert (shown["state"], shown["in_flight"]) == ("running", 2)
    assert shown["pid"] > 0


def test_a_run_without_a_snapshot_has_not_begun(run_json: Run, make_run: MakeRun) -> None:
    _, shown = run_json("batch", "status", str(make_run("new")))

    assert (shown["state"], shown["total"]) == ("not begun", 0)


def test_status_as_metrics(run: Run, make_run: MakeRun) -> None:
    result = run("batch", "status", str(make_run("today", snapshot=ENDED)), "--prometheus")

    line = 'chutes_opencode_batch_prompts{run="20260101-000000-abc",state="pending"} 1'
    assert line in result.stdout.splitlines()


def test_watching_ends_with_the_run(run: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED, snapshot=replace(ENDED, state=FINISHED, total=2))

    result = run("batch", "status", str(folder), "--watch")

    assert result.exit_code == 0
    assert "finished" in result.stdout


def test_two_forms_at_once_are_refused(run: Run, make_run: MakeRun) -> None:
    result = run("batch", "status", str(make_run("today")), "--watch", "--json")

    assert result.exit_code == 2


@pytest.mark.parametrize("command", ["status", "report", "export --format csv"])
def test_a_folder_without_a_run_is_named(run: Run, tmp_path: Path, command: str) -> None:
    name, *options = command.split()

    result = run("batch", name, str(tmp_path), *options)

    assert result.exit_code == 2
    assert f"{tmp_path} holds no run" in result.stderr


def test_an_export_goes_into_the_folder_and_is_named(run: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED, FAILURE)

    result = run("batch", "export", str(folder), "--format", "csv")

    assert result.stdout == f"{folder / 'results.csv'}\n"
    assert result.stderr == "2 results written\n"
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert [row["id"] for row in rows] == ["q-1", "q-2"]


def test_an_export_goes_where_it_is_told(run: Run, make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    arguments = ("batch", "export", str(make_run("today", ANSWERED)), "--format", "jsonl")

    first = run(*arguments, "--out", str(out))
    again = run(*arguments, "--out", str(out))
    forced = run(*arguments, "--out", str(out), "--force")

    assert (first.exit_code, again.exit_code, forced.exit_code) == (0, 2, 0)
    assert f"{out} is there already" in again.stderr
    assert json.loads(out.read_text())["id"] == "q-1"


def test_an_export_may_be_piped(run: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED, FAILURE)

    result = run("batch", "export", str(folder), "--format", "jsonl", "--out", "-")

    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["q-1", "q-2"]
    assert result.stderr == ""


def test_an_export_knows_the_run_s_own_model_by_its_name(run: Run, make_run: MakeRun) -> None:
    folder = make_run("today", replace(ANSWERED, model=""), FAILURE, model="acme/own")

    result = run(
        *("batch", "export", str(folder), "--format", "jsonl", "--out", "-"),
        *("--model", "acme/own"),
    )

    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["q-1"]


def test_an_export_of_a_model_that_was_not_asked_names_those_that_were(
    run: Run, make_run: MakeRun
) -> None:
    folder = make_run("today", ANSWERED)

    result = run("batch", "export", str(folder), "--format", "csv", "--model", "acme/z")

    assert result.exit_code == 2
    assert "is of the model 'acme/z'" in result.stderr
    assert "There are results of: acme/a." in result.stderr
    assert not (folder / "results.csv").exists()


@pytest.mark.parametrize("own", ["results.jsonl", "run.json", "../today/run.json"])
def test_an_export_never_replaces_the_run_itself(run: Run, make_run: MakeRun, own: str) -> None:
    folder = make_run("today", ANSWERED)
    before = (folder / own).read_bytes()

    result = run(
        *("batch", "export", str(folder), "--format", "csv", "--out", str(folder / own), "--force")
    )

    assert result.exit_code == 2
    assert (folder / own).read_bytes() == before


def test_an_export_does_not_keep_a_run_from_going_on(run: Run, make_run: MakeRun) -> None:
    folder = make_run("today", ANSWERED)
    run("batch", "export", str(folder), "--format", "csv")

    with RunStore.open(folder, manifest=MANIFEST) as again:
        assert [record.id for record in again.records()] == ["q-1"]


def test_diff_compares_two_runs(run: Run, make_run: MakeRun) -> None:
    a = make_run("a", ANSWERED, FAILURE)
    b = make_run("b", replace(ANSWERED, result="42", cost_usd=0.5), replace(FAILURE, id="q-3"))

    result = run("batch", "diff", str(a), str(b))

    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["answers", "1", "1"] in lines
    assert ["cost", "$0.25", "$0.50"] in lines
    assert ["other", "text", "1"] in lines
    assert ["only", "in", "the", "second", "1"] in lines
    assert "q-1   ok      other" in result.stdout


def test_diff_of_a_run_with_itself_says_so(run: Run, make_run: MakeRun) -> None:
    folder = str(make_run("today", ANSWERED))

    assert "are the same run" in run("batch", "diff", folder, f"{folder}/.").stderr


def test_diff_as_json_has_every_change(run_json: Run, make_run: MakeRun) -> None:
    a = make_run("a", ANSWERED, params={"seed": 1})
    b = make_run("b", replace(FAILURE, id="q-1"), params={"seed": 2})

    code, shown = run_json("batch", "diff", str(a), str(b))

    assert (code, shown["ok"], shown["broken"]) == (0, True, 1)
    assert shown["settings"] == ['params: {"seed":1} → {"seed":2}']
    (change,) = shown["changes"]
    assert (change["key"], change["before"], change["after"]) == (
        ["q-1", "", 0],
        "ok",
        "ServerError",
    )


def test_diff_shows_the_first_changes_of_many(run: Run, make_run: MakeRun) -> None:
    records = [replace(ANSWERED, id=f"q-{number:03}") for number in range(30)]
    a = make_run("a", *records)
    b = make_run("b", *(replace(record, result="other") for record in records))

    result = run("batch", "diff", str(a), str(b))

    assert ("q-019" in result.stdout, "q-020" in result.stdout) == (True, False)
    assert result.stderr == "and 10 other changes (--json has them all)\n"
