"""An attempt's events come in their order, each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from chutes_opencode.engines.telling import Row, Telling
from chutes_opencode.events import (
    Event,
    ReasoningDelta,
    RequestStarted,
    StepEnd,
    TextDelta,
    ToolCall,
    ToolResult,
)

FIRST, SECOND = RequestStarted(model="m", step=1), RequestStarted(model="m", step=2)


def row(*parts: Any, role: str = "assistant") -> Row:
    return {"info": {"role": role}, "parts": list(parts)}


def tool(number: int, status: str = "completed") -> dict[str, Any]:
    state = {"status": status, "input": {"n": number}, "output": "well"}
    return {"id": f"t{number}", "type": "tool", "tool": "bash", "callID": "c", "state": state}


def text(content: str, **time: float) -> dict[str, Any]:
    return {"id": f"x-{content}", "type": "text", "text": content} | (
        {"time": time} if time else {}
    )


def end(number: int) -> dict[str, Any]:
    return {"id": f"e{number}", "type": "step-finish", "reason": "stop", "tokens": {}}


class Session:
    """A session to look at; a look takes as long as the test wants."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.looks = 0
        self.open = asyncio.Event()
        self.open.set()

    async def read(self) -> Sequence[Row]:
        self.looks += 1
        await self.open.wait()
        return list(self.rows)


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_without_a_step_before_it_an_event_of_the_relays_is_told_at_once() -> None:
    async def main() -> tuple[list[Event], int]:
        seen: list[Event] = []
        session = Session()
        telling = Telling(seen.append, session.read, text=False)
        for event in (FIRST, TextDelta(text="a")):
            telling.hear(event)
        return seen, session.looks

    assert asyncio.run(main()) == ([FIRST, TextDelta(text="a")], 0)


def test_what_the_step_before_has_done_is_told_before_the_next_begins() -> None:
    async def main() -> list[Event]:
        seen: list[Event] = []
        session = Session()
        telling = Telling(seen.append, session.read, text=False)
        session.rows = [row(text("said by the relay"), tool(1), end(1))]
        session.open.clear()
        telling.hear(SECOND)
        telling.hear(TextDelta(text="b"))
        session.open.set()
        await telling.end(session.rows)
        return seen

    seen = asyncio.run(main())
    assert kinds(seen) == ["ToolCall", "ToolResult", "StepEnd", "RequestStarted", "TextDelta"]


def test_a_look_that_comes_late_tells_nothing_of_the_step_that_begins() -> None:
    async def main() -> list[Event]:
        seen: list[Event] = []
        session = Session()
        telling = Telling(seen.append, session.read, text=False)
        session.rows = [row(tool(1), end(1)), row(role="user"), row(tool(2), end(2))]
        telling.hear(SECOND)
        telling.hear(TextDelta(text="b"))
        await telling.end(session.rows)
        return seen

    assert kinds(asyncio.run(main())) == [
        *("ToolCall", "ToolResult", "StepEnd"),
        *("RequestStarted", "TextDelta"),
        *("ToolCall", "ToolResult", "StepEnd"),
    ]


def test_a_step_that_begins_during_a_look_is_looked_for_as_well() -> None:
    async def main() -> tuple[list[Event], int]:
        seen: list[Event] = []
        session = Session()
        telling = Telling(seen.append, session.read, text=False)
        session.rows = [row(tool(1))]
        telling.hear(SECOND)
        telling.hear(RequestStarted(model="m", step=3))
        await telling.end([row(tool(1), tool(2))])
        return seen, session.looks

    seen, looks = asyncio.run(main())
    assert looks == 2
    assert [event.input["n"] for event in seen if isinstance(event, ToolCall)] == [1, 2]


def test_after_a_look_events_are_told_at_once_again() -> None:
    async def main() -> list[Event]:
        seen: list[Event] = []
        session = Session()
        telling = Telling(seen.append, session.read, text=False)
        telling.hear(SECOND)
        await telling.end([])
        telling.hear(TextDelta(text="b"))
        return seen

    assert asyncio.run(main()) == [SECOND, TextDelta(text="b")]


def test_a_failed_look_is_raised_at_the_end_and_stops_nothing_later() -> None:
    async def main() -> list[Event]:
        seen: list[Event] = []

        async def read() -> Sequence[Row]:
            raise RuntimeError("no look")

        telling = Telling(seen.append, read, text=False)
        telling.hear(SECOND)
        with pytest.raises(RuntimeError, match="no look"):
            await telling.end([])
        telling.hear(FIRST)
        return seen

    assert asyncio.run(main()) == [FIRST]


@pytest.mark.parametrize(
    ("whole_text", "told"),
    [
        (False, ["StepEnd"]),
        (True, ["TextDelta", "ReasoningDelta", "StepEnd"]),
    ],
)
def test_text_is_told_from_the_messages_where_no_relay_tells_it(
    *, whole_text: bool, told: list[str]
) -> None:
    seen: list[Event] = []
    telling = Telling(seen.append, Session().read, text=whole_text)
    thought = {"id": "r", "type": "reasoning", "text": "hm", "time": {"start": 1, "end": 2}}

    telling.tell_rows([row(text("well", start=1, end=2), thought, end(1))])

    assert kinds(seen) == told


@pytest.mark.parametrize(
    "unfinished",
    [
        tool(1, "running"),
        tool(1, "pending"),
        {**tool(1), "state": None},
        text("half", start=1),
    ],
)
def test_what_may_still_change_is_told_when_it_cannot(unfinished: dict[str, Any]) -> None:
    seen: list[Event] = []
    telling = Telling(seen.append, Session().read, text=True)

    telling.tell_rows([row(unfinished)])
    assert seen == []
    whole = text("half of it", start=1, end=2) if unfinished["type"] == "text" else tool(1)
    telling.tell_rows([row({**whole, "id": unfinished["id"]})])
    telling.tell_rows([row({**whole, "id": unfinished["id"]})])

    assert kinds(seen) in (["TextDelta"], ["ToolCall", "ToolResult"])


def test_tools_of_one_step_are_told_in_the_order_of_their_ends() -> None:
    seen: list[Event] = []

    def ended(number: int, **time: Any) -> dict[str, Any]:
        return {**tool(number), "state": {**tool(number)["state"], "time": time}}

    parts = [ended(1, end=30), ended(2, end=10), ended(3), ended(4, end=20), end(1)]
    Telling(seen.append, Session().read, text=False).tell_rows([row(*parts)])

    called = [event.input["n"] for event in seen if isinstance(event, ToolCall)]
    assert called == [2, 4, 1, 3]
    assert type(seen[-1]) is StepEnd


@pytest.mark.parametrize("status", ["completed", "error"])
def test_a_tool_that_has_ended_is_told_of(status: str) -> None:
    seen: list[Event] = []

    Telling(seen.append, Session().read, text=False).tell_rows([row(tool(1, status))])

    assert [type(event) for event in seen] == [ToolCall, ToolResult]


@pytest.mark.parametrize(
    "odd",
    [
        row(text("mine"), role="user"),
        {"info": None, "parts": [text("whose")]},
        {"info": {"role": "assistant"}, "parts": None},
        row("no part", None),
        row({"id": "s", "type": "snapshot"}),
    ],
)
def test_what_is_no_event_is_passed_over(odd: Row) -> None:
    seen: list[Event] = []

    Telling(seen.append, Session().read, text=True).tell_rows([odd, row(end(1))])

    assert [type(event) for event in seen] == [StepEnd]


def test_reasoning_of_a_relayed_prompt_is_not_told_twice() -> None:
    seen: list[Event] = []
    thought = {"id": "r", "type": "reasoning", "text": "hm"}

    Telling(seen.append, Session().read, text=False).tell_rows([row(thought)])

    assert not [event for event in seen if isinstance(event, ReasoningDelta | ToolResult)]
