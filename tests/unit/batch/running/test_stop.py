"""The switch only rises, tells its listeners, and signals press it."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from chutes_opencode.batch.running.stop import (
    FINISH,
    GO,
    NOW,
    StopSwitch,
    pressed_by_signals,
    unless_stopped,
)
from tests import patience


@pytest.mark.parametrize(
    ("used", "level"),
    [
        ([], GO),
        (["finish"], FINISH),
        (["now"], NOW),
        (["now", "finish"], NOW),
        (["press"], FINISH),
        (["press", "press"], NOW),
        (["press", "press", "press"], NOW),
        (["finish", "press"], NOW),
    ],
)
def test_the_level_only_rises(used: list[str], level: int) -> None:
    switch = StopSwitch()
    for name in used:
        getattr(switch, name)()
    assert switch.level == level


def test_listeners_are_told_until_they_are_removed() -> None:
    switch, heard = StopSwitch(), list[str]()
    remove = switch.add_listener(lambda: heard.append("first"))
    switch.add_listener(lambda: heard.append("second"))

    switch.finish()
    remove()
    switch.now()

    assert heard == ["first", "second", "second"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_press_it_within_the_block_only(number: signal.Signals) -> None:
    switch, before = StopSwitch(), signal.getsignal(number)

    with pressed_by_signals(switch):
        signal.raise_signal(number)
        assert switch.level == FINISH
        signal.raise_signal(number)
        assert switch.level == NOW

    assert signal.getsignal(number) is before


def test_outside_the_main_thread_the_signals_stay_as_they_are() -> None:
    found: list[object] = []

    def look() -> None:
        with pressed_by_signals(StopSwitch()):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    patience.join(thread)
    assert found == [signal.getsignal(signal.SIGINT)]


def test_what_takes_long_is_ended_by_the_switch() -> None:
    switch, heard = StopSwitch(), list[str]()

    async def long() -> None:
        try:
            switch.finish()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("ended")
            raise

    asyncio.run(asyncio.wait_for(unless_stopped(long(), switch), patience.WAIT_SECONDS))
    assert heard == ["ended"]

    asyncio.run(unless_stopped(long(), switch))
    assert heard == ["ended"], "a used switch lets nothing begin"


def test_what_nobody_stops_is_waited_for() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    asyncio.run(unless_stopped(asyncio.sleep(0), StopSwitch()))
    with pytest.raises(ValueError, match="its own"):
        asyncio.run(unless_stopped(fail(), StopSwitch()))
