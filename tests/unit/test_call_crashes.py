"""A call whose server dies: begun anew, billed whole, and alone in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.call import Call, CallRunner
from chutes_opencode.crashes import ALONE_AFTER, ALONE_AFTER_TOOLS
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.events import Event, Retrying
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import McpServer, PromptRequest
from chutes_opencode.results import Exchange, Message, QueryResult, TextPart, Transcript, Usage
from chutes_opencode.retry import RetryPolicy

AT_ONCE = RetryPolicy(base_wait_s=0)
TOKENS = Usage(input=10, output=5, num_requests=1)
PAID = Exchange(200, finish_reason="stop", usage=TOKENS)
CALLED = Exchange(200, finish_reason="tool_calls", usage=TOKENS)
GOOD = Evidence(
    Transcript("ses_1", (Message("assistant", (TextPart("42"),), finish_reason="stop"),)),
    (PAID,),
    returncode=0,
)
CRASH = Evidence(exchanges=(PAID,), stopped="crash")
AT_WORK = Evidence(exchanges=(CALLED,), stopped="crash")


class Engine:
    """Sees what it is told to see, in order."""

    name = "serve"

    def __init__(self, *script: Evidence) -> None:
        self.script = list(script)
        self.alone: list[bool] = []

    async def run(
        self,
        request: PromptRequest,
        _observe: Observe,
        _accept: Callable[[Evidence], bool],
        _terms: Terms | None = None,
    ) -> Evidence:
        self.alone.append(request.alone)
        return self.script.pop(0)

    async def forget(self, session_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


def run(
    engine: Engine, events: list[Event] | None = None, retries: int = 3, **fields: Any
) -> QueryResult:
    policy = RetryPolicy(retries=retries, base_wait_s=0)
    call = Call(PromptRequest("Say 42.", "m", **fields), policy=policy)
    told = [] if events is None else events
    return asyncio.run(CallRunner(call, engine, asyncio.Semaphore(1), told.append).run())


def test_crashes_of_a_shared_server_use_up_no_retries() -> None:
    engine, events = Engine(*[CRASH] * 5, GOOD), list[Event]()

    result = run(engine, events, retries=2)

    assert result.success
    assert [attempt.number for attempt in result.attempts] == [1, 2, 3, 4, 5, 6]
    assert result.usage.num_requests == 6, "what was paid twice is counted twice"
    assert result.failed_usage.num_requests == 5
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("crash", "shared"), [(CRASH, ALONE_AFTER), (AT_WORK, ALONE_AFTER_TOOLS)])
def test_in_the_end_it_runs_alone_and_its_retries_count(crash: Evidence, shared: int) -> None:
    engine = Engine(*[crash] * 50)

    result = run(engine, retries=3)

    assert not result.success
    assert engine.alone == [False] * shared + [True] * 3


def test_a_prompt_that_is_to_be_tried_once_is_tried_once() -> None:
    engine = Engine(CRASH, GOOD)

    assert not run(engine, retries=1).success
    assert len(engine.alone) == 1


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"work_dir": Path("/theirs")}, id="a folder of the caller's"),
        pytest.param({"tools": (McpServer("bank", url="http://127.0.0.1:1"),)}, id="tool servers"),
    ],
)
def test_what_its_tools_may_have_done_is_not_done_again(fields: dict[str, Any]) -> None:
    engine = Engine(AT_WORK, GOOD)

    result = run(engine, **fields)

    assert not result.success
    assert len(engine.alone) == 1


def test_a_limit_bounds_what_crashes_cost() -> None:
    engine = Engine(*[CRASH] * 50)

    with pytest.raises(Exception, match="all 2 model requests are used"):
        run(engine, max_requests=2)
