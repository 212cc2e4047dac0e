"""How long tests wait for what should come: so long that only a hang is ever cut.

Machines are slow and busy; opencode alone may take half a minute to start. So no test may pass or
fail by one of these numbers, and none may hold a duration to be short that could be long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

WAIT_SECONDS = 120.0
"""For a condition, an answer or a thread."""
PROCESS_SECONDS = 300.0
"""For a process of its own to end."""


def wait_until(
    condition: Callable[[], object], seconds: float = WAIT_SECONDS, *, pause: float = 0.01
) -> None:
    """Return once the condition holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not come within {seconds:g} s"
        time.sleep(pause)


def join(*threads: threading.Thread) -> None:
    """Wait for threads to end; fail if one does not."""
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), f"{thread.name} did not end within {WAIT_SECONDS:g} s"


def longer_and_longer(first: float, *, tries: int = 4) -> Iterator[float]:
    """Yield seconds to try, each more than its predecessor, for what must last long enough.

    For a bound that work has to meet in its middle: take the first at which it had begun.
    """
    yield from (first * 4**number for number in range(tries))
