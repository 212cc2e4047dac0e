"""The look-up: never in the way, always as current as can be, and honest about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.catalog import lookup as lookup_module
from chutes_opencode.catalog.listing import Listing
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.sync import RETRY_SECONDS
from chutes_opencode.catalog.totals import LookupStats
from tests.patience import WAIT_SECONDS
from tests.unit.catalog.stage import ACME, DOWN, URL, Stage, fetched, filled, ids, run

HOUR = 3600.0
SILENT = f"{URL} has not answered yet"


# --- fetched, kept, old --------------------------------------------------------------------------


def test_a_first_look_up_fetches(stage: Stage) -> None:
    stage.answers = [fetched("a", "b")]

    listing = run(stage.lookup(key=lambda: "the-key").listing)

    assert ids(listing) == ["a", "b"]
    assert (listing.source, listing.age_s, listing.fetched_at) == ("api", 0.0, stage.now)
    assert listing.problems == ()
    assert listing.changes is None
    assert listing.seconds > 0
    assert stage.asked == [{"base_url": URL, "key": "the-key", "etag": None}]


def test_a_burst_of_look_ups_fetches_once(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    lookup = stage.lookup()

    async def burst() -> list[Listing]:
        return await asyncio.gather(*(lookup.listing() for _ in range(5)))

    assert [ids(listing) for listing in run(burst)] == [["a"]] * 5
    assert len(stage.asked) == 1


@pytest.mark.parametrize("age", [0.0, HOUR - 1])
def test_a_fresh_list_is_used_by_all_without_asking(stage: Stage, age: float) -> None:
    filled(stage, "a", age=age)

    listing = run(stage.lookup().listing)

    assert (ids(listing), listing.source, listing.age_s) == (["a"], "cache", age)
    assert listing.problems == ()
    assert stage.asked == []


@pytest.mark.parametrize("age", [HOUR, 90 * 86400.0, -1.0])
def test_an_old_list_or_one_from_the_future_is_fetched_anew_at_a_first_look_up(
    stage: Stage, age: float
) -> None:
    filled(stage, "a", age=age)
    stage.answers = [fetched("b")]

    listing = run(stage.lookup().listing)

    assert (ids(listing), listing.source) == (["b"], "api")


def test_a_first_look_up_waits_for_a_slow_provider_but_not_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_module, "HOLD_SECONDS", 0.05)
    filled(stage, "a", age=9 * HOUR)
    stage.answers = []

    listing = run(stage.lookup().listing)

    assert (ids(listing), listing.source, listing.age_s) == (["a"], "cache", 9 * HOUR)
    assert listing.problems == (SILENT, "the list in use is 9.0 h old")
    assert listing.seconds >= 0.05


def test_later_look_ups_never_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.answers = [fetched("a"), fetched("b")]
    lookup = stage.lookup()

    async def work() -> tuple[Listing, Listing]:
        await lookup.listing()
        stage.now += 2 * HOUR
        monkeypatch.setattr(lookup_module, "HOLD_SECONDS", 1e9)
        old = await lookup.listing()
        await until(lambda: len(stage.asked) == 2)
        return old, await lookup.listing()

    old, new = run(work)
    assert (ids(old), old.source, old.age_s, old.problems) == (["a"], "cache", 2 * HOUR, ())
    assert (ids(new), new.source) == (["b"], "cache")


async def until(condition: Callable[[], bool]) -> None:
    """Let the background work until something is so."""
    for _ in range(1000):
        if condition():
            break
        await asyncio.sleep(0)
    assert condition()
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_refresh_by_another_process_is_seen_at_the_next_look_up(stage: Stage) -> None:
    filled(stage, "a")
    mine, other = stage.lookup(), stage.lookup()

    async def work() -> Listing:
        await mine.listing()
        stage.answers = [fetched("b")]
        await other.refresh()
        return await mine.listing()

    assert ids(run(work)) == ["b"]


def test_with_an_interval_of_zero_each_look_up_asks(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    lookup = stage.lookup(refresh_interval=0.0)

    async def work() -> None:
        for number in (1, 2, 3):
            await lookup.listing()
            await until(lambda number=number: len(stage.asked) == number)  # type: ignore[misc]

    run(work)
    assert lookup.stats == LookupStats(lookups=3, hits=2, syncs=3)


# --- the provider fails --------------------------------------------------------------------------


def test_an_old_list_is_better_than_none_and_says_its_age(stage: Stage) -> None:
    filled(stage, "a", age=72 * HOUR)
    stage.answers = [DOWN]

    listing = run(stage.lookup().listing)

    assert (ids(listing), listing.source) == (["a"], "cache")
    assert listing.problems == ("down", "the list in use is 3 days old")


def test_without_any_list_the_registry_is_used(stage: Stage) -> None:
    stage.answers = [DOWN]

    listing = run(stage.lookup(extra_models=("acme/mine", "first")).listing)

    assert ids(listing) == ["first", "second", "mine"]
    assert (listing.source, listing.age_s, listing.fetched_at) == ("fallback", None, None)
    assert listing.problems == ("down",)


def test_an_id_of_the_registry_may_begin_with_the_providers_own(stage: Stage) -> None:
    stage.answers = [DOWN]
    router = ACME.model_copy(update={"default_models": ("acme/auto",)})

    assert ids(run(stage.lookup(router).listing)) == ["acme/auto"]
    assert run(lambda: stage.lookup(router).resolve("acme/auto")).id == "acme/auto"


def test_without_any_list_a_silent_provider_is_waited_for_but_not_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_module, "HOLD_EMPTY_SECONDS", 0.1)

    listing = run(stage.lookup().listing)

    assert (listing.source, listing.problems) == ("fallback", (SILENT,))
    assert listing.seconds >= 0.1


@pytest.mark.parametrize("age", [None, 2 * HOUR])
def test_after_a_failure_nobody_asks_for_a_while(stage: Stage, age: float | None) -> None:
    if age is not None:
        filled(stage, "a", age=age)
    stage.answers = [DOWN, fetched("b")]

    async def work() -> list[Listing]:
        answers = [await stage.lookup().listing(), await stage.lookup().listing()]
        stage.now += RETRY_SECONDS
        return [*answers, await stage.lookup().listing()]

    first, second, third = run(work)
    assert first.problems[0] == second.problems[0] == "down"
    assert (ids(third), third.problems) == (["b"], ())
    assert len(stage.asked) == 2


def test_a_process_without_a_list_waits_for_one_only_once(stage: Stage) -> None:
    lookup = stage.lookup()
    stage.answers = [DOWN]

    async def work() -> Listing:
        await lookup.listing()
        stage.now += RETRY_SECONDS
        stage.answers = []
        return await lookup.listing()

    assert run(work).seconds < WAIT_SECONDS / 2
    assert len(stage.asked) == 2


def test_what_is_wrong_with_a_list_that_came_is_told(stage: Stage) -> None:
    stage.answers = [
        fetched("a", problems=("key refused", "row 1 odd"), row_problems=("row 1 odd",))
    ]
    lookup = stage.lookup()

    async def work() -> tuple[Listing, Listing]:
        return await lookup.listing(), await stage.lookup().listing()

    api, cached = run(work)
    assert api.problems == ("key refused", "row 1 odd")
    # Another process may have another key.
    assert cached.problems == ("row 1 odd",)


def test_a_home_that_cannot_be_written_is_told_once_and_memory_serves(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stage = Stage(tmp_path / "file", [fetched("a")])
    lookup = stage.lookup()

    async def work() -> tuple[Listing, Listing]:
        first = await lookup.listing()
        await lookup.refresh()
        return first, await lookup.listing()

    first, last = run(work)
    assert (first.source, last.source, ids(last)) == ("api", "cache", ["a"])
    assert "cannot be kept" in last.problems[0]
    assert [event for event in stage.events if "cannot be kept" in event[1]] == [
        ("warning", last.problems[0])
    ]


# --- without auto_refresh ------------------------------------------------------------------------


def test_without_auto_refresh_an_empty_cache_gives_the_registrys_models_and_one_warning(
    stage: Stage,
) -> None:
    stage.answers = [fetched("a")]
    lookup = stage.lookup(auto_refresh=False)

    async def work() -> list[Listing]:
        return [await lookup.listing(), await lookup.listing()]

    for listing in run(work):
        assert (ids(listing), listing.source) == (["first", "second"], "fallback")
        assert "auto_refresh is off" in listing.problems[0]
    assert stage.asked == []
    assert [level for level, _ in stage.events] == ["warning"]


def test_without_auto_refresh_an_old_list_is_used_as_it_is(stage: Stage) -> None:
    filled(stage, "a", age=9 * HOUR)

    listing = run(stage.lookup(auto_refresh=False).listing)

    assert (ids(listing), listing.source, listing.problems) == (["a"], "cache", ())
    assert stage.asked == []


def test_without_auto_refresh_only_a_refresh_fetches(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    lookup = stage.lookup(auto_refresh=False)

    async def work() -> tuple[Listing, Listing]:
        return await lookup.refresh(), await lookup.listing()

    refreshed, listing = run(work)
    assert (refreshed.source, ids(listing), listing.source) == ("api", ["a"], "cache")


# --- a provider without a list -------------------------------------------------------------------


def test_a_provider_without_a_list_has_what_the_registry_names(stage: Stage) -> None:
    lookup = stage.lookup(ACME.model_copy(update={"discovery_path": None}))

    async def work() -> tuple[Listing, Listing]:
        return await lookup.listing(), await lookup.refresh()

    for listing in run(work):
        assert (ids(listing), listing.source, listing.problems) == (
            ["first", "second"],
            "fallback",
            (),
        )
    assert stage.asked == []
    assert lookup.stats == LookupStats()


# --- counts --------------------------------------------------------------------------------------


def test_look_ups_hits_and_fetches_are_counted(stage: Stage) -> None:
    stage.answers = [DOWN, fetched("a")]
    lookup = stage.lookup()

    async def work() -> None:
        await lookup.listing()  # waits, in vain
        await lookup.listing()  # the registry's: no hit
        await lookup.refresh()
        await lookup.listing()  # a hit
        await lookup.diff()  # counts nowhere

    run(work)
    assert lookup.stats == LookupStats(lookups=3, hits=1, syncs=1, failed_syncs=1)


def test_the_counts_of_all_processes_are_told(stage: Stage) -> None:
    filled(stage, "a")

    async def work() -> ModelLookup:
        await stage.lookup().listing()
        lookup = stage.lookup()
        await lookup.listing()
        await lookup.listing()
        lookup.close()
        return stage.lookup()

    assert run(work).totals == LookupStats(lookups=3, hits=3, syncs=1)


def test_a_cleared_catalogue_begins_anew(stage: Stage) -> None:
    filled(stage, "a")
    stage.answers = [fetched("b")]
    lookup = stage.lookup()

    async def work() -> tuple[bool, bool, Listing]:
        await lookup.listing()
        return lookup.clear(), lookup.clear(), await lookup.listing()

    first, second, listing = run(work)
    assert (first, second) == (True, False)
    assert (ids(listing), listing.source) == (["b"], "api")
    assert lookup.stats == LookupStats(lookups=1, syncs=1)
