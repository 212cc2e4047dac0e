"""Many prompts at once: bounded, in any order, and stopped where going on is useless."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pytest

from chutes_opencode.batching import Item, check_batch, completed
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    OpenCodeError,
    ServerError,
)
from chutes_opencode.results import QueryResult, Usage
from tests.patience import WAIT_SECONDS

T = TypeVar("T")


def result(text: str, **fields: Any) -> QueryResult:
    return QueryResult(result=text, returncode=0, stderr="", stream_result="", **fields)


class Asker:
    """Answers each prompt when it is let; counts how many run."""

    def __init__(self, errors: Mapping[str, OpenCodeError] | None = None) -> None:
        self.errors = errors or {}
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: list[Mapping[str, Any]] = []
        self.running = self.most = 0
        self.cancelled: list[str] = []

    async def __call__(self, arguments: Mapping[str, Any]) -> QueryResult:
        prompt = arguments["prompt"]
        self.asked.append(arguments)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gates.setdefault(prompt, asyncio.Event()).wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled.append(prompt)
            raise
        finally:
            self.running -= 1
        if prompt in self.errors:
            raise self.errors[prompt]
        return result(f"re: {prompt}", success=True)

    def let(self, *prompts: str) -> None:
        for prompt in prompts:
            self.gates.setdefault(prompt, asyncio.Event()).set()


async def in_time(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, WAIT_SECONDS)


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await in_time(poll())


async def collect(results: AsyncGenerator[QueryResult, None]) -> list[QueryResult]:
    return [one async for one in results]


def all_of(
    items: Iterable[Item], asker: Asker, concurrency: int = 2, let: str = "abcdefgh"
) -> list[QueryResult]:
    async def main() -> list[QueryResult]:
        asker.let(*let)
        return await in_time(collect(completed(items, asker, concurrency)))

    return sorted(asyncio.run(main()), key=lambda one: one.index or 0)


# --- results ----------------------------------------


def test_every_item_has_a_result_with_its_position() -> None:
    results = all_of("abc", Asker())

    assert [(one.index, one.result) for one in results] == [
        (0, "re: a"),
        (1, "re: b"),
        (2, "re: c"),
    ]


def test_no_items_have_no_results() -> None:
    assert all_of([], Asker()) == []


def test_an_item_is_a_prompt_or_its_arguments() -> None:
    asker = Asker()

    all_of(["a", {"prompt": "b", "work_dir": "/w"}], asker)

    assert asker.asked == [{"prompt": "a"}, {"prompt": "b", "work_dir": "/w"}]


def test_results_come_as_they_complete() -> None:
    async def main() -> list[int | None]:
        asker = Asker()
        results = completed("abc", asker, 3)
        order = []
        for prompt in "cab":
            asker.let(prompt)
            order.append((await in_time(anext(results))).index)
        await results.aclose()
        return order

    assert asyncio.run(main()) == [2, 0, 1]


def test_an_items_failure_is_its_error_and_costs_no_other() -> None:
    partial = result("half", usage=Usage(input=7))
    failure = ServerError(raw_message="down")
    failure.result = partial
    bare = ServerError("node", 3, "bare")

    results = all_of("abc", Asker({"a": failure, "b": bare}))

    assert results[0] == result("half", usage=Usage(input=7), index=0)
    assert (results[1].error, results[1].returncode, results[1].index) == (bare, 3, 1)
    assert results[2].success


# --- bounds ----------------------------------------


def test_no_more_run_at_once_than_allowed() -> None:
    async def main() -> Asker:
        asker = Asker()
        running = asyncio.create_task(collect(completed("abcdefgh", asker, 3)))
        await until(lambda: asker.running == 3)
        asker.let(*"abcdefgh")
        assert len(await in_time(running)) == 8
        return asker

    assert asyncio.run(main()).most == 3


def test_items_are_read_only_as_places_become_free() -> None:
    read: list[str] = []

    def items() -> Iterator[str]:
        for prompt in "abcdefgh":
            read.append(prompt)
            yield prompt

    async def main() -> None:
        asker = Asker()
        results = completed(items(), asker, 2)
        asker.let("a")
        await in_time(anext(results))
        assert len(read) <= 1 + 2
        asker.let("b")
        await in_time(anext(results))
        assert len(read) <= 2 + 2
        await results.aclose()

    asyncio.run(main())


def test_items_may_block_without_blocking_the_loop() -> None:
    loop_went_on = threading.Event()

    def items() -> Iterator[str]:
        assert loop_went_on.wait(WAIT_SECONDS)
        yield "a"

    async def main() -> list[QueryResult]:
        asker = Asker()
        asker.let("a")
        running = asyncio.create_task(collect(completed(items(), asker, 1)))
        await asyncio.sleep(0)
        loop_went_on.set()
        return await in_time(running)

    assert len(asyncio.run(main())) == 1


def test_a_result_does_not_wait_for_the_next_item() -> None:
    """The next item may even depend on it: a dialogue, a queue."""
    answered = threading.Event()

    def items() -> Iterator[str]:
        yield "a"
        assert answered.wait(WAIT_SECONDS), "the first result was held back"
        yield "b"

    async def main() -> list[str]:
        asker = Asker()
        asker.let("a", "b")
        seen = []
        async for one in completed(items(), asker, 2):
            seen.append(one.result)
            answered.set()
        return seen

    assert asyncio.run(main()) == ["re: a", "re: b"]


@pytest.mark.parametrize("concurrency", [0, -1, "2", None, 1.5])
def test_a_concurrency_that_runs_nothing_is_refused(concurrency: Any) -> None:
    with pytest.raises(ConfigurationError, match="concurrency must be at least 1"):
        check_batch(["a"], concurrency)


# --- the end ----------------------------------------


@pytest.mark.parametrize("cls", [AuthenticationError, BillingError])
def test_after_an_account_error_the_rest_is_not_sent(
    cls: type[AuthenticationError] | type[BillingError],
) -> None:
    refusal = cls("node", -1, "no balance", hint="Pay.", status=401)
    refusal.result = result("", error=refusal)
    asker = Asker({"b": refusal})

    results = all_of("abcd", asker, concurrency=1)

    assert [arguments["prompt"] for arguments in asker.asked] == ["a", "b"]
    assert [one.index for one in results] == [0, 1, 2, 3]
    assert results[0].success
    for unsent in results[2:]:
        assert type(unsent.error) is cls
        assert unsent.error.raw_message == "not sent: no balance"
        assert (unsent.error.hint, unsent.error.status) == ("Pay.", 401)
        assert unsent.error.__cause__ is refusal


def test_what_runs_already_is_finished_after_an_account_error() -> None:
    refusal = BillingError(raw_message="no balance")
    refusal.result = result("", error=refusal)

    async def main() -> list[QueryResult]:
        asker = Asker({"a": refusal})
        batch = asyncio.create_task(collect(completed("abc", asker, 2)))
        await until(lambda: asker.running == 2)
        asker.let("a")
        await until(lambda: asker.running == 1)
        asker.let("b")
        return await in_time(batch)

    results = asyncio.run(main())

    assert {one.index: one.success for one in results} == {0: False, 1: True, 2: False}


def test_closing_ends_what_still_runs() -> None:
    async def main() -> Asker:
        asker = Asker()
        results = completed("abc", asker, 2)
        first = asyncio.create_task(anext(results))
        await until(lambda: asker.running == 2)
        asker.let("a")
        await in_time(first)
        await results.aclose()
        return asker

    asker = asyncio.run(main())

    assert asker.running == 0
    assert asker.cancelled == ["b"]


def test_a_cancelled_wait_ends_what_runs() -> None:
    async def main() -> Asker:
        asker = Asker()
        waiting = asyncio.create_task(collect(completed("ab", asker, 2)))
        await until(lambda: asker.running == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return asker

    assert sorted(asyncio.run(main()).cancelled) == ["a", "b"]


def test_an_iterable_that_breaks_off_ends_what_runs_and_is_raised() -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise ValueError("of the caller")

    async def main() -> Asker:
        asker = Asker()
        with pytest.raises(ValueError, match="of the caller"):
            await in_time(collect(completed(items(), asker, 2)))
        return asker

    assert asyncio.run(main()).running == 0


def test_an_error_of_ours_is_raised_and_ends_the_others() -> None:
    async def ask(arguments: Mapping[str, Any]) -> QueryResult:
        if arguments["prompt"] == "a":
            raise TypeError("ours")
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        await in_time(collect(completed("ab", ask, 2)))

    with pytest.raises(TypeError, match="ours"):
        asyncio.run(main())


def test_a_misspelt_argument_fails_its_item_only() -> None:
    asker = Asker()
    asker.let("fine")

    async def main() -> list[QueryResult]:
        items: list[Item] = [{"prompt": "odd", "file": ["x"]}, "fine"]
        return [done async for done in completed(items, asker, 1)]

    odd, fine = asyncio.run(main())

    assert isinstance(odd.error, ConfigurationError)
    assert "'file'" in odd.error.raw_message
    assert "'files'" in odd.error.hint
    assert fine.success


@pytest.mark.parametrize("items", ["a prompt", {"prompt": "a"}, 5, None])
def test_one_prompt_is_no_list_of_prompts(items: Any) -> None:
    with pytest.raises(ConfigurationError, match="items must be a list of prompts"):
        check_batch(items, 1)


@pytest.mark.parametrize("item", [5, None, b"x", {"nosuch": 1}, {5: 1}])
def test_a_malformed_item_fails_alone(item: Any) -> None:
    asker = Asker()
    asker.let("a")

    async def main() -> list[QueryResult]:
        return [result async for result in completed([item, "a"], asker, 1)]

    bad, good = asyncio.run(main())
    assert isinstance(bad.error, ConfigurationError)
    assert good.result == "re: a"
