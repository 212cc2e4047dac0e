"""Two runs side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chutes_opencode.batch.compare import compare
from chutes_opencode.batch.record import FAILED, OK, Record, RecordedError
from chutes_opencode.results import Usage


def answered(item: str, text: str = "yes", **fields: object) -> Record:
    """A result with an answer."""
    record = Record(item, "acme/a", result=text, cost_usd=0.5, usage=Usage(input=10, output=2))
    return replace(replace(record, duration_s=1.0), **fields)  # type: ignore[arg-type]


def failed(item: str, error: str = "ServerError") -> Record:
    """A result without one."""
    return Record(item, "acme/a", status=FAILED, error=RecordedError(error, "no"))


def test_items_are_told_apart_by_what_became_of_them() -> None:
    before = [answered("same"), answered("broken"), failed("fixed"), failed("both"), answered("a")]
    after = [answered("b"), failed("both"), answered("fixed"), failed("broken"), answered("same")]

    found = compare(before, after)

    assert (found.both, found.fixed, found.broken, found.failed_both) == (4, 1, 1, 1)
    assert (found.same_text, found.other_text) == (1, 0)
    assert (found.only_a, found.only_b) == ((("a", "", 0),), (("b", "", 0),))
    assert [(change.key[0], change.before, change.after) for change in found.changes] == [
        ("fixed", "ServerError", OK),
        ("broken", OK, "ServerError"),
    ]


def test_another_class_of_failure_is_a_change() -> None:
    found = compare([failed("1", "ServerError")], [failed("1", "RateLimitError")])

    (change,) = found.changes
    assert (change.before, change.after) == ("ServerError", "RateLimitError")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (answered("1", "yes"), answered("1", "yes"), True),
        (answered("1", "yes"), answered("1", "  yes\n"), True),
        (answered("1", "yes"), answered("1", "Yes"), False),
        (answered("1", structured={"a": 1}), answered("1", structured={"a": 2}), False),
        (answered("1", diff="+a"), answered("1", diff="+b"), False),
        (answered("1"), failed("1"), None),
    ],
)
def test_texts_are_the_same_but_for_blanks_around_them(
    before: Record, after: Record, same: bool | None
) -> None:
    found = compare([before], [after])

    assert found.same_text == (same is True)
    assert [change.same_text for change in found.changes] == ([] if same else [same])


def test_two_models_are_compared_item_by_item() -> None:
    before = [answered("1"), answered("2")]
    after = [replace(answered("1"), model="acme/b"), replace(answered("2", "no"), model="acme/b")]

    found = compare(before, after)

    assert (found.both, found.same_text, found.other_text) == (2, 1, 1)
    assert (found.a.models, found.b.models) == (("acme/a",), ("acme/b",))
    assert [change.key for change in found.changes] == [("2", "", 0)]


def test_with_several_models_the_model_tells_items_apart() -> None:
    before = [answered("1"), replace(answered("1"), model="acme/b")]
    after = [replace(answered("1"), model="acme/b")]

    found = compare(before, after)

    assert (found.both, found.only_a) == (1, (("1", "acme/a", 0),))


def test_the_instances_own_model_is_the_one_that_answered() -> None:
    own = [answered("1", model="", served_model="acme/a"), replace(failed("2"), model="")]
    named = [answered("1"), answered("1", model="acme/b"), answered("2")]

    found = compare(own, named)

    assert (found.both, found.same_text, found.fixed) == (2, 1, 1)
    assert (found.only_a, found.only_b) == ((), (("1", "acme/b", 0),))


def test_costs_are_compared_where_both_have_an_answer() -> None:
    more = {"usage": Usage(input=14, output=2), "cost_usd": 0.75, "duration_s": 3.0}
    before = [answered("1"), answered("2"), answered("3", cost_usd=None), answered("4")]
    after = [answered("1"), replace(answered("2"), **more), replace(answered("3"), **more)]  # type: ignore[arg-type]

    found = compare(before, [*after, failed("4")])

    assert (found.median_tokens, found.median_latency_s) == (4, 2.0)
    assert found.median_cost_usd == 0.125, "of the two whose prices are known"
    assert (found.a.cost_usd, found.a.unpriced) == (1.5, 1)
    assert (found.b.tokens, found.b.errors) == (44, {"ServerError": 1})


def test_without_answers_in_both_there_are_no_medians() -> None:
    found = compare([], [failed("1")])

    assert (found.both, found.median_tokens, found.median_cost_usd) == (0, None, None)
    assert (found.b.failed, found.b.p50_s, found.b.p95_s) == (1, None, None)


def test_an_item_that_was_asked_differently_says_so() -> None:
    found = compare([answered("1", content_hash="x")], [answered("1", content_hash="y")])

    (change,) = found.changes
    assert (change.asked_differently, change.same_text) == (True, True)


def test_the_wait_for_a_free_place_is_no_latency() -> None:
    found = compare([answered("1")], [answered("1", duration_s=9.0, queued_s=7.0)])

    assert (found.median_latency_s, found.b.p50_s, found.b.p95_s) == (1.0, 2.0, 2.0)
