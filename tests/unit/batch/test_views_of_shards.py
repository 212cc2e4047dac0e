"""Report, export, comparison and estimate see a run with shards as they see any other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chutes_opencode import ChutesOpenCodeLLM
from chutes_opencode.batch.compare import compare
from chutes_opencode.batch.estimate.earlier import MAX_RECORDS, read_earlier
from chutes_opencode.batch.exports import export
from chutes_opencode.batch.record import FAILED
from chutes_opencode.batch.report.page import write_report
from chutes_opencode.batch.store.folder import open_folder
from chutes_opencode.batch.store.remote import Remote, is_url
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.results import Usage
from tests.unit.batch.estimating import estimate, item
from tests.unit.batch.shard_room import write_shard
from tests.unit.batch.store_room import MANIFEST, append, record

USED = Usage(input=10, output=70, num_requests=1)
ANSWERS = [record(f"item-{n}", usage=USED, result=f"answer {n}", at=n) for n in range(6)]


def write_run(place: str) -> None:
    """Write a failure into the root and answers into two shards, one of them twice."""
    with RunStore.open(place, manifest=MANIFEST) as store:
        append(store, record("bad", FAILED))
    write_shard(place, "w1", *ANSWERS[:3])
    write_shard(place, "w2", *ANSWERS[3:], replace(ANSWERS[0], started_at=99.0))


def test_a_report_shows_them_all(place: str) -> None:
    write_run(place)

    path = write_report(place)

    page = path.read_text(encoding="utf-8")
    assert "7" in page
    if is_url(place):
        assert Remote(place).get("report.html") == path.read_bytes()
    else:
        assert path == Path(place) / "report.html"


def test_an_export_has_each_result_once(place: str, tmp_path: Path) -> None:
    write_run(place)

    assert export(open_folder(place), "csv", tmp_path / "out.csv") == 7

    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["id"]: row["result"] for row in csv.DictReader(file)}
    assert rows == {"bad": ""} | {each.id: each.result for each in ANSWERS}


def test_a_comparison_has_each_result_once(place: str, tmp_path: Path) -> None:
    write_run(place)
    other = str(tmp_path / "other")
    with RunStore.open(other, manifest=MANIFEST) as store:
        append(store, *ANSWERS, record("bad"))

    found = compare(open_folder(place).records(), open_folder(other).records())

    assert (found.both, found.fixed, found.same_text, found.only_a) == (7, 1, 6, ())


def test_an_estimate_learns_from_them(
    place: str, make_llm: Callable[..., ChutesOpenCodeLLM]
) -> None:
    assert read_earlier(place) == {}
    write_run(place)

    assert read_earlier(place)["*"].prompts == 7 < MAX_RECORDS
    found = estimate(make_llm(), [item()], like=place)

    assert found.output_tokens.expected == 70
    assert f"answers in {place}" in found.method
