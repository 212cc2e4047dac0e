"""What the page carries: bounded, the items that matter first."""

from __future__ import annotations

import base64
import gzip
import random
from collections.abc import Mapping
from typing import Any

import orjson

from chutes_opencode.batch.record import Record
from chutes_opencode.batch.report.embedding import (
    ITEM_CHARACTERS,
    TEXT_CHARACTERS,
    Embedded,
    Packed,
    embed,
    item_texts,
)
from chutes_opencode.batch.report.summary import EXTREMES, summarize
from chutes_opencode.batch.report.timeline import Clock
from tests.unit.batch.report.sample_run import failure, record

_PART_ALLOWANCE = 400_000  # one part may go beyond a budget


def unpacked(packed: Packed) -> list[Any]:
    parts = [orjson.loads(gzip.decompress(base64.b64decode(part))) for part in packed.parts]
    return [value for part in parts for value in part]


def none(_: Record) -> None:
    return None


def embedded(records: list[Record], **budgets: int) -> Embedded:
    summary = summarize(records, [], Clock([]))
    return embed(lambda: records, none, summary, **budgets)


def noise(characters: int, seed: int) -> str:
    return random.Random(seed).randbytes(characters).hex()[:characters]


def test_each_item_has_a_row_and_its_texts() -> None:
    came = embedded([record(0), failure(1), record(2)])

    assert sorted(row[0] for row in unpacked(came.rows)) == [0, 1, 2]
    assert {text["n"]: text.get("result") for text in unpacked(came.texts)} == {
        0: "The answer 0.",
        1: None,
        2: "The answer 2.",
    }
    assert (came.num_rows, came.num_texts) == (3, 3)


def test_the_texts_of_failures_go_in_before_those_of_answers() -> None:
    plain = [record(n, duration_s=0.0, cost_usd=0.0, result=noise(9_000, n)) for n in range(200)]
    failed = [failure(n, duration_s=0.0, cost_usd=0.0) for n in range(200, 210)]

    came = embedded([*plain, *failed], all_bytes=200_000)

    with_texts = [text["n"] for text in unpacked(came.texts)]
    assert with_texts[:10] == list(range(200, 210))
    assert 10 < came.num_texts < 210 == came.num_rows
    assert came.texts.size < 200_000 + _PART_ALLOWANCE


def test_the_slowest_go_in_first_of_all() -> None:
    records = [record(n, duration_s=float(n), cost_usd=None) for n in range(50)]

    came = embedded([failure(50, duration_s=0.5), *records])

    first = [text["n"] for text in unpacked(came.texts)][:EXTREMES]
    assert first == list(range(50, 50 - EXTREMES, -1))


def test_rows_are_bounded_too_and_failures_are_among_them() -> None:
    records = [record(n, id=noise(250, n), duration_s=0.0, cost_usd=0.0) for n in range(4000)]

    came = embedded([*records, failure(4000)], row_bytes=50_000)

    assert came.num_rows < 4001
    assert 4000 in [row[0] for row in unpacked(came.rows)]
    assert came.rows.size < 50_000 + _PART_ALLOWANCE


def test_a_line_that_moved_since_the_summary_is_left_out() -> None:
    before = [record(n, duration_s=0.0, cost_usd=0.0) for n in range(3)]
    after = [before[0], before[2]]
    summary = summarize(before, [], Clock([]))

    came = embed(lambda: after, none, summary)

    assert [row[1] for row in unpacked(came.rows)] == ["item-000"]


def test_lines_that_came_since_the_summary_are_left_out() -> None:
    records = [record(0)]
    summary = summarize(records, [], Clock([]))

    came = embed(lambda: [*records, record(1)], none, summary)

    assert came.num_rows == 1


def test_an_item_is_cut_and_says_so() -> None:
    long = "a" * TEXT_CHARACTERS * 2
    messages = [{"role": "user", "parts": [{"type": "text", "text": long}]}] * 20

    def transcripts(_: Record) -> Mapping[str, Any]:
        return {"messages": messages, "attempts": []}

    shown = item_texts(0, record(0, result=long), transcripts)

    assert shown["cut"] is True
    assert shown["result"].startswith("aaa")
    assert shown["result"].endswith("aaa")
    assert "20,000 characters left out" in shown["result"]
    assert len(orjson.dumps(shown)) < ITEM_CHARACTERS * 1.1


def test_a_short_item_is_whole() -> None:
    shown = item_texts(3, record(3, metadata={"row": 3}), none)

    assert shown["metadata"] == '{"row":3}'
    assert "cut" not in shown


def test_a_transcript_of_another_shape_is_passed_over() -> None:
    odd = {"messages": [1, {"role": 2, "parts": "no"}], "attempts": None}

    shown = item_texts(0, record(0), lambda _: odd)

    assert shown["messages"] == [{"role": "2"}]
