"""Calls share the places of a process: who waits, for how long, and that places come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from chutes_opencode.call import Call, CallRunner
from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.errors import PromptTimeoutError, ServerError
from chutes_opencode.events import Event, Retrying, Waiting
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Message, QueryResult, TextPart, Transcript
from chutes_opencode.retry import RetryPolicy
from tests.patience import WAIT_SECONDS

ANSWER = Evidence(Transcript("s", (Message("assistant", (TextPart("42"),), finish_reason="stop"),)))


class GatedEngine:
    """An engine that answers when its gate is open."""

    name = "fake"

    def __init__(self, *failures: Exception) -> None:
        self.gate = asyncio.Event()
        self.failures = list(failures)
        self.running = 0

    async def run(
        self,
        _request: PromptRequest,
        _observe: Observe,
        _accept: Callable[[Evidence], bool],
        _terms: Terms | None = None,
    ) -> Evidence:
        self.running += 1
        if self.failures:
            raise self.failures.pop()
        await self.gate.wait()
        return ANSWER

    async def forget(self, session_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


class Stage:
    def __init__(self, engine: GatedEngine, places: int) -> None:
        self.engine = engine
        self.slots = asyncio.Semaphore(places)
        self.events: list[Event] = []

    async def ask(self, deadline_seconds: float | None = None) -> QueryResult:
        call = Call(
            PromptRequest("Say 42.", "m"),
            policy=RetryPolicy(base_wait_s=0),
            deadline_seconds=deadline_seconds,
        )
        return await CallRunner(call, self.engine, self.slots, self.events.append).run()

    def begin(self) -> asyncio.Task[QueryResult]:
        return asyncio.create_task(self.ask())


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), WAIT_SECONDS)


def test_no_more_calls_run_than_there_are_places() -> None:
    async def main() -> None:
        stage = Stage(GatedEngine(), places=2)
        calls = [stage.begin() for _ in range(3)]
        await until(lambda: stage.events)
        assert stage.engine.running == 2

        stage.engine.gate.set()
        results = await asyncio.gather(*calls)

        assert [result.queued_s > 0.0 for result in results][2]
        assert stage.events[0] == Waiting(reason="all places of this process are taken")

    asyncio.run(main())


def test_a_call_that_gets_no_place_in_time_is_a_timeout() -> None:
    async def main() -> None:
        stage = Stage(GatedEngine(), places=0)

        result = await stage.ask(deadline_seconds=0.01)

        assert type(result.error) is PromptTimeoutError
        assert "no place became free within deadline_seconds=0.01" in result.error.raw_message
        assert stage.engine.running == 0

    asyncio.run(main())


def test_a_place_is_given_back_whatever_happens() -> None:
    async def main() -> None:
        stage = Stage(GatedEngine(ValueError("ours")), places=1)

        with pytest.raises(ValueError, match="ours"):
            await stage.ask()

        assert not stage.slots.locked()

    asyncio.run(main())


@pytest.mark.parametrize("places", [0, 1], ids=["while it waits", "while it runs"])
def test_a_cancelled_call_takes_no_place_with_it(places: int) -> None:
    async def main() -> None:
        stage = Stage(GatedEngine(), places=places)
        call = stage.begin()
        await until(lambda: stage.engine.running or stage.events)

        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert stage.slots.locked() is (places == 0)

    asyncio.run(main())


def test_a_wait_between_attempts_holds_no_place() -> None:
    async def main() -> None:
        engine = GatedEngine(ServerError())
        slots = asyncio.Semaphore(1)
        held: list[bool] = []

        def observe(event: Event) -> None:
            if isinstance(event, Retrying):
                held.append(slots.locked())
                engine.gate.set()

        call = Call(PromptRequest("Say 42.", "m"), policy=RetryPolicy(base_wait_s=0))
        await CallRunner(call, engine, slots, observe).run()

        assert held == [False]

    asyncio.run(main())
