"""Who fetches the list, what is kept of it, and what the log says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chutes_opencode.catalog import discovery, lookup
from chutes_opencode.catalog.cache import Failure, Record
from chutes_opencode.catalog.discovery import Fetched
from chutes_opencode.catalog.sync import LOCK_SECONDS, RETRY_SECONDS
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from tests.unit.catalog.stage import DOWN, Stage, fetched


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def record(stage: Stage) -> Record:
    kept = stage.synced().read()
    assert kept is not None
    return kept


def test_what_came_is_kept_with_its_time_mark_and_problems(stage: Stage) -> None:
    stage.answers = [fetched("a", etag='"1"', problems=("x", "odd"), row_problems=("odd",))]

    assert asyncio.run(stage.synced(refresh_interval=60.0).sync()) is True

    assert record(stage) == Record(
        ({"id": "a"},), stage.now, stage.now + 60.0, '"1"', ("odd",), None
    )


def test_the_mark_is_sent_back_and_an_unchanged_list_becomes_fresh(stage: Stage) -> None:
    stage.answers = [
        fetched("a"),
        fetched("a", "b", etag='"2"'),
        Fetched(etag='"2"', not_modified=True),
    ]
    for _ in range(3):
        stage.now += 100.0
        asyncio.run(stage.synced(refresh_interval=60.0).sync())

    assert [asked["etag"] for asked in stage.asked] == [None, None, '"2"']
    kept = record(stage)
    assert (kept.fetched_at, kept.expires_at) == (stage.now, stage.now + 60.0)
    assert kept.previous == (({"id": "a"},), stage.now - 200.0)


def test_not_modified_without_a_list_is_a_failure(stage: Stage) -> None:
    stage.answers = [Fetched(not_modified=True)]

    assert asyncio.run(stage.synced().sync()) is False
    assert stage.synced().is_paused()


def test_the_last_different_list_is_kept_beside_the_present_one(stage: Stage) -> None:
    synced = stage.synced()
    for names in (["a"], ["b"], ["b"], ["c"]):
        stage.answers = [fetched(*names)]
        asyncio.run(synced.sync())
        stage.now += 100.0

    earlier = synced.earlier(record(stage))
    assert earlier is not None
    assert ([model.id for model in earlier[0]], earlier[1]) == (["b"], stage.now - 200.0)


def test_a_first_list_has_none_before_it(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    asyncio.run(stage.synced().sync())

    assert stage.synced().earlier(record(stage)) is None


def test_a_failure_pauses_all_for_a_while(stage: Stage) -> None:
    stage.answers = [DOWN]
    other = stage.synced()
    asyncio.run(stage.synced().sync())

    assert other.is_paused()
    stage.now += RETRY_SECONDS
    assert not other.is_paused()


def test_a_failure_from_the_future_pauses_nobody(stage: Stage) -> None:
    synced = stage.synced()
    synced.cache.write_failure(Failure(stage.now + 1.0, ()))

    assert not synced.is_paused()


def test_a_record_without_a_single_model_counts_as_none(stage: Stage) -> None:
    synced = stage.synced()
    synced.cache.write(Record(({"no": "id"},), stage.now, stage.now))

    assert synced.read() is None


def test_of_several_that_want_a_list_one_fetches(stage: Stage) -> None:
    stage.answers = [fetched("a")]

    async def work() -> list[bool]:
        return await asyncio.gather(*(stage.synced().start() for _ in range(5)))

    assert sorted(asyncio.run(work())) == [False] * 4 + [True]
    assert len(stage.asked) == 1


def test_of_several_that_want_a_newer_list_one_fetches(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    asyncio.run(stage.synced().sync())
    stage.asked.clear()

    async def work() -> list[bool]:
        return await asyncio.gather(
            *(stage.synced().start(however_fresh=True) for _ in range(5)),
        )

    assert sorted(asyncio.run(work())) == [False] * 4 + [True]
    assert len(stage.asked) == 1


def test_of_several_that_meet_a_failure_one_fetches(stage: Stage) -> None:
    stage.answers = [DOWN]

    async def work() -> list[bool]:
        return await asyncio.gather(*(stage.synced().start() for _ in range(5)))

    assert asyncio.run(work()) == [False] * 5
    assert len(stage.asked) == 1


def test_a_fetch_that_runs_is_joined(stage: Stage) -> None:
    stage.answers = [fetched("a")]
    synced = stage.synced()

    async def work() -> None:
        first = synced.start()
        assert synced.start() is first
        assert await first
        assert synced.start() is not first

    asyncio.run(work())


@pytest.mark.parametrize("error", [AuthenticationError, ConfigurationError])
def test_a_key_that_cannot_be_read_is_told_and_nothing_is_asked(
    stage: Stage, error: type[AuthenticationError | ConfigurationError]
) -> None:
    def key() -> str | None:
        raise error(raw_message="no such file")

    synced = stage.synced(key=key)

    assert asyncio.run(synced.sync()) is False
    assert synced.problems == ("the key cannot be read: no such file",)
    assert stage.asked == []


def test_each_fetch_is_logged_with_source_count_time_and_hit_rate(stage: Stage) -> None:
    stage.answers = [fetched("a", "b", seconds=0.1234), DOWN]
    looked_up = stage.lookup()

    async def work() -> None:
        await looked_up.listing()
        await looked_up.listing()
        await looked_up.refresh()

    asyncio.run(work())
    assert stage.logged == [
        (
            "info",
            "model list fetched",
            {
                "provider": "acme",
                "source": "api",
                "count": 2,
                "seconds": 0.123,
                "hit_rate": None,
            },
        ),
        (
            "warning",
            "model list not fetched",
            {
                "provider": "acme",
                "source": "cache",
                "count": 2,
                "seconds": 0.0,
                "hit_rate": 0.5,
                "problems": "down",
            },
        ),
    ]


def test_a_fetch_that_leaves_nothing_is_logged_as_such(stage: Stage) -> None:
    stage.answers = [DOWN]

    asyncio.run(stage.synced().sync())

    ((_, _, fields),) = stage.logged
    assert (fields["source"], fields["count"]) == ("fallback", 0)


def test_the_bounds_fit_together() -> None:
    assert lookup.HOLD_SECONDS == 2.0
    assert lookup.HOLD_EMPTY_SECONDS == 10.0
    # Who fetches is done, or dead, before the others lose patience with it.
    assert discovery.FETCH_SECONDS <= lookup.HOLD_EMPTY_SECONDS < LOCK_SECONDS
