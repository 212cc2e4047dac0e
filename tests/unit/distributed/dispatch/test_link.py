"""A driver's side of one worker: no order is lost with a call's answer, no wait is for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest

from chutes_opencode.distributed.dispatch import link as link_module
from chutes_opencode.distributed.dispatch.link import Link, LostError
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.work.orders import Load, Order, Report
from chutes_opencode.errors import AuthenticationError

UNREACHABLE = ray.exceptions.ActorUnavailableError("cannot be reached", None)
DEAD = ray.exceptions.RayActorError(error_msg="it was killed")


class Ref:
    """What a call of an actor returns at once."""

    def __init__(self, outcome: Any) -> None:
        self._future: Future[Any] = Future()
        if isinstance(outcome, BaseException):
            self._future.set_exception(outcome)
        elif outcome is not ...:
            self._future.set_result(outcome)

    def future(self) -> Future[Any]:
        return self._future


class Method:
    """A method of an actor: each call comes to the next of its outcomes, `...` to none."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *arguments: Any) -> Ref:
        self.calls.append(arguments)
        return Ref(self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0])


class Actor:
    def __init__(self, **methods: Method) -> None:
        self.submit = Method(None)
        self.cancel = Method(None)
        self.receipts = Method(...)
        self.__dict__.update(methods)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_AGAIN_SECONDS", 0.0)


def report(last: int) -> Report:
    return Report((), last, Load())


def order(number: int) -> Order:
    return Order(number, b"")


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def lost(link: Link, reports: list[Report] | None = None) -> str:
    with pytest.raises(LostError) as caught:
        await link.run((reports if reports is not None else []).append)
    return str(caught.value)


def test_orders_that_come_together_go_together() -> None:
    async def work() -> None:
        actor = Actor()
        link = Link("w", "n", actor)
        for number in range(3):
            link.send(order(number))
        assert not link.was_sent(0)
        running = asyncio.ensure_future(lost(link))
        await until(lambda: actor.submit.calls)

        ((block,),) = actor.submit.calls
        assert [each.number for each in block] == [0, 1, 2]
        assert link.was_sent(0)
        running.cancel()

    run(work)


def test_an_order_that_is_cancelled_before_it_left_is_never_sent() -> None:
    async def work() -> None:
        actor = Actor()
        link = Link("w", "n", actor)
        link.send(order(1))
        link.send(order(2))
        assert link.cancel(1)
        running = asyncio.ensure_future(lost(link))
        await until(lambda: actor.submit.calls)
        assert not link.cancel(2)
        await until(lambda: actor.cancel.calls)

        ((block,),) = actor.submit.calls
        assert [each.number for each in block] == [2]
        assert actor.cancel.calls == [([2],)]
        running.cancel()

    run(work)


def test_what_has_arrived_is_acknowledged_with_the_next_question() -> None:
    async def work() -> None:
        actor = Actor(receipts=Method(report(3), report(5), DEAD))
        heard: list[Report] = []

        await lost(Link("w", "n", actor), heard)

        assert [each.last for each in heard] == [3, 5]
        assert [call[0] for call in actor.receipts.calls] == [0, 3, 5]

    run(work)


def test_a_call_that_could_not_reach_the_worker_is_made_again() -> None:
    async def work() -> None:
        actor = Actor(
            receipts=Method(UNREACHABLE, report(1), ...),
            submit=Method(UNREACHABLE, UNREACHABLE, None),
        )
        link = Link("w", "n", actor)
        link.send(order(1))
        heard: list[Report] = []
        running = asyncio.ensure_future(lost(link, heard))
        await until(lambda: heard and len(actor.submit.calls) == 3)

        assert [call[0] for call in actor.receipts.calls][:2] == [0, 0]
        running.cancel()

    run(work)


def test_a_dead_worker_is_lost_at_once_whichever_call_learns_of_it() -> None:
    async def work() -> None:
        assert "it was killed" in await lost(Link("w", "n", Actor(receipts=Method(DEAD))))
        link = Link("w", "n", Actor(submit=Method(DEAD)))
        link.send(order(1))
        assert "it was killed" in await lost(link)

    run(work)


@pytest.mark.parametrize("outcome", [..., UNREACHABLE], ids=["silent", "out-of-reach"])
def test_a_worker_that_answers_nothing_any_more_is_lost(
    outcome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(link_module, "SILENT_SECONDS", 0.01)

    async def work() -> None:
        reason = await lost(Link("w", "n", Actor(receipts=Method(outcome))))
        assert "it gives no answer" in reason or "is unavailable" in reason

    run(work)


def test_a_typed_error_of_its_beginning_is_raised_as_it_was() -> None:
    async def work() -> None:
        error = AuthenticationError("node-1", raw_message="no key")
        raised: Any = ray.exceptions.RayTaskError
        link = Link("w", "n", Actor(begin=Method(raised("f", "", error))))

        with pytest.raises(AuthenticationError) as caught:
            await link.begin(None, None, "w")

        assert caught.value is error

    run(work)


def test_of_a_traceback_that_ray_tells_the_errors_line_is_the_reason() -> None:
    async def work() -> None:
        text = "The actor died\n  File x, line 3\nTypeError: no such thing\nAn unexpected error."
        actor = Actor(receipts=Method(ray.exceptions.RayActorError(error_msg=text)))

        assert await lost(Link("w", "n", actor)) == "TypeError: no such thing"

    run(work)
