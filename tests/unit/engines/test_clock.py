"""The attempt's clock begins with the first permit."""

from __future__ import annotations

import asyncio

import pytest

from chutes_opencode.engines.clock import AttemptClock
from tests.unit.relay import virtual_time


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        pytest.param([0.0, 0.0], [10, 10], id="no wait"),
        pytest.param([None, 3.0, 3.0], [10, 13, 13], id="a wait that has ended"),
        pytest.param([None, None], [10, 10], id="a wait that goes on"),
    ],
)
def test_the_end_moves_by_the_wait(told: list[float | None], ends: list[float]) -> None:
    async def main() -> list[float | None]:
        async with asyncio.timeout(10) as timeout:
            clock = AttemptClock(timeout, 10)
            seen = []
            for queued_s in told:
                clock.wait_with(queued_s)
                seen.append(timeout.when())
        return seen

    assert virtual_time.run(main()) == ends


def test_a_wait_keeps_the_end_away_for_as_long_as_it_lasts() -> None:
    async def main() -> float | None:
        async with asyncio.timeout(10) as timeout:
            clock = AttemptClock(timeout, 10)
            for _ in range(30):
                clock.wait_with(None)
                await asyncio.sleep(1)
            return timeout.when()

    assert virtual_time.run(main()) == 39


def test_an_end_that_has_come_stays() -> None:
    async def main() -> None:
        async with asyncio.timeout(10) as timeout:
            clock = AttemptClock(timeout, 10)
            try:
                await asyncio.sleep(60)
            finally:
                clock.wait_with(None)

    with pytest.raises(TimeoutError):
        virtual_time.run(main())
