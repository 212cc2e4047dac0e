"""The clients that send the benchmark's prompts."""

from __future__ import annotations

import asyncio

from scripts.engine_bench.figures import Round
from scripts.engine_bench.loop import Task, carry_out
from scripts.engine_bench.stage import Cell, joined
from scripts.engine_bench.upstream import SLOW, GrowingTable
from scripts.engine_bench.ways import Question


async def no_refresh() -> None:
    raise AssertionError("nobody asked for the list")


async def right(question: Question) -> str:
    await asyncio.sleep(0)
    return question.answer


def test_as_many_prompts_are_under_way_as_there_are_clients() -> None:
    under_way, most = 0, 0

    async def ask(question: Question) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return question.answer

    seen = asyncio.run(carry_out(ask, Task(prompts=20, concurrency=4), no_refresh))

    assert most == 4
    assert (seen.concurrency, len(seen.latencies), seen.errors) == (4, 20, ())


def test_a_failed_and_a_wrong_answer_are_told_by_number() -> None:
    async def ask(question: Question) -> str:
        if question.number == 11:
            raise OSError("gone")
        return "nonsense" if question.number == 12 else question.answer

    seen = asyncio.run(carry_out(ask, Task(prompts=3, first=10), no_refresh))

    assert seen.errors == ("11: OSError: gone", "12: wrong answer 'nonsense'")
    assert len(seen.latencies) == 3


def test_the_list_is_fetched_anew_while_prompts_are_under_way() -> None:
    asked: list[int] = []
    fetched_after: list[int] = []

    async def ask(question: Question) -> str:
        asked.append(question.number)
        return question.answer

    async def refresh() -> None:
        fetched_after.append(len(asked))

    asyncio.run(carry_out(ask, Task(prompts=12, refreshes=3), refresh))

    assert fetched_after == [3, 6, 9]


def test_every_answer_can_be_told_from_the_others() -> None:
    fast = [Question(number) for number in range(100)]
    slow = [Question(number, SLOW) for number in range(100)]

    assert len({question.answer for question in [*fast, *slow]}) == 200
    assert (fast[17].text, fast[17].answer) == ("What is 17 + 25?", "42")


def test_a_list_of_models_grows_each_time_it_is_asked_for() -> None:
    table = GrowingTable()

    first, second = (len(table.listing()["data"]) for _ in range(2))

    assert second == first + 1


def test_a_cells_place_in_the_report_names_the_tools_where_that_tells_it_apart() -> None:
    cells = [Cell("seed", 1, 1, tools=True), Cell("serve", 16, 96), Cell("serve", 16, 64, True)]

    assert [cell.key for cell in cells] == [("seed", 1), ("serve", 16), ("serve tools", 16)]


def test_rounds_that_followed_each_other_are_one() -> None:
    rounds = [Round(1, 1.0, (1.0,)), Round(1, 2.0, (2.0,), errors=("lost",))]

    assert joined(rounds) == Round(1, 3.0, (1.0, 2.0), errors=("lost",))
