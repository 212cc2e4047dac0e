from __future__ import annotations

import asyncio
import math

import pytest

from chutes_opencode.relay.flow import Outcome
from chutes_opencode.relay.waiters import Waiters
from tests.unit.relay.test_limiter import in_virtual_time
from tests.unit.relay.virtual_time import clock, settle


class Ticket:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def release(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


async def stand(made: Waiters[Ticket], *, priority: bool = False) -> asyncio.Task[Ticket]:
    work = made.wait(
        lambda: None, priority=priority, deadline=None, patience=math.inf, paused_until=None
    )
    task = asyncio.create_task(work)
    await settle()
    return task


@in_virtual_time
async def test_what_is_given_where_nobody_waits_is_not_even_made() -> None:
    made: Waiters[Ticket] = Waiters(clock)
    gone = await stand(made)
    gone.cancel()

    assert not made.give(lambda: pytest.fail("nobody waits"))
    await settle()
    assert gone.cancelled()


@in_virtual_time
async def test_all_waits_can_end_with_an_error() -> None:
    made: Waiters[Ticket] = Waiters(clock)
    tasks = [await stand(made), await stand(made, priority=True), await stand(made)]
    tasks[2].cancel()

    made.fail(ValueError("no more"))
    await settle()

    assert len(made) == 0
    assert [type(task.exception()) for task in tasks[:2]] == [ValueError, ValueError]
    assert tasks[2].cancelled()


@in_virtual_time
async def test_a_permit_given_in_the_moment_of_a_cancellation_is_released() -> None:
    made: Waiters[Ticket] = Waiters(clock)
    task, ticket = await stand(made), Ticket()

    assert made.give(lambda: ticket)
    task.cancel()
    await settle()

    assert ticket.outcomes == [Outcome.CANCELLED]
