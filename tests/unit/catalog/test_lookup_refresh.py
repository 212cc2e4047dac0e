"""A refresh, the difference to what was listed before, and what a filter hides."""

from __future__ import annotations

from chutes_opencode.catalog.listing import Difference, Listing
from tests.unit.catalog.stage import DOWN, Stage, fetched, filled, ids, run

# --- refresh and difference ----------------------------------------------------------------------


def test_a_refresh_tells_what_changed(stage: Stage) -> None:
    filled(stage, "a", "b")
    stage.answers = [fetched("b", "c")]

    listing = run(stage.lookup().refresh)

    assert (ids(listing), listing.source) == (["b", "c"], "api")
    assert listing.changes is not None
    assert (listing.changes.new, listing.changes.gone) == (("c",), ("a",))


def test_a_first_refresh_has_nothing_to_compare_with(stage: Stage) -> None:
    stage.answers = [fetched("a")]

    assert run(stage.lookup().refresh).changes is None


def test_a_refresh_that_fails_says_so_however_fresh_the_list_is(stage: Stage) -> None:
    filled(stage, "a", age=5.0)
    stage.answers = [DOWN]

    listing = run(stage.lookup().refresh)

    assert (ids(listing), listing.source, listing.changes) == (["a"], "cache", None)
    assert listing.problems == ("down", "the list in use is 5 s old")


def test_a_refresh_asks_however_many_failures_there_were(stage: Stage) -> None:
    stage.answers = [DOWN, fetched("a")]

    async def work() -> Listing:
        await stage.lookup().listing()
        return await stage.lookup().refresh()

    assert run(work).source == "api"


def test_the_difference_is_to_the_kept_list_and_changes_nothing(stage: Stage) -> None:
    filled(stage, "a", age=10.0)
    stage.answers = [fetched("a", "b")]
    lookup = stage.lookup()

    async def work() -> list[Difference]:
        return [await lookup.diff(), await lookup.diff()]

    for difference in run(work):
        assert difference.changes.new == ("b",)
        assert (difference.since, difference.problems) == (stage.now - 10.0, ())
    assert ids(run(stage.lookup().listing)) == ["a"]


def test_where_the_kept_list_is_the_same_the_one_before_it_is_compared(stage: Stage) -> None:
    filled(stage, "a", age=10.0)
    filled(stage, "a", "b", age=10.0)
    filled(stage, "a", "b", age=10.0)

    difference = run(stage.lookup().diff)

    assert difference.changes.new == ("b",)
    assert difference.since == stage.now - 30.0


def test_where_nothing_ever_changed_there_is_no_difference(stage: Stage) -> None:
    filled(stage, "a", age=10.0)

    difference = run(stage.lookup().diff)

    assert not difference.changes
    assert difference.since == stage.now - 10.0


def test_without_a_kept_list_there_is_nothing_to_compare_with(stage: Stage) -> None:
    difference = run(stage.lookup().diff)

    assert (bool(difference.changes), difference.since) == (False, None)
    assert "refresh first" in difference.problems[0]


def test_a_difference_without_the_provider_is_that_of_the_lists_kept(stage: Stage) -> None:
    filled(stage, "a")
    filled(stage, "b")
    stage.answers = [DOWN]

    difference = run(stage.lookup().diff)

    assert (difference.changes.new, difference.changes.gone) == (("b",), ("a",))
    assert difference.problems == ("down",)


# --- choice --------------------------------------------------------------------------------------


def test_the_filter_holds_for_lists_changes_and_config(stage: Stage) -> None:
    filled(stage, "Qwen/a", "Other/b")
    stage.answers = [fetched("Qwen/a", "Qwen/c", "Other/b", "Other/d")]
    lookup = stage.lookup(model_filter=("Qwen/*",))

    listing = run(lookup.refresh)

    assert ids(listing) == ["Qwen/a", "Qwen/c"]
    assert listing.changes is not None
    assert listing.changes.new == ("Qwen/c",)
    assert [model.id for model in lookup.known] == ["Qwen/a", "Qwen/c"]


def test_models_named_by_hand_are_known_too(stage: Stage) -> None:
    filled(stage, "a")
    lookup = stage.lookup(extra_models=("acme/mine",))

    run(lookup.listing)

    assert [model.id for model in lookup.known] == ["a", "mine"]
