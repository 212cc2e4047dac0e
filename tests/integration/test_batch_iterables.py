"""An iterable that blocks for ever does not keep the interpreter from its end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from chutes_opencode import Simulator
from tests.patience import PROCESS_SECONDS

CALLER = """
import queue
from chutes_opencode import ChutesOpenCodeLLM

def items():
    yield "one"
    yield queue.Queue().get()

results = ChutesOpenCodeLLM("sim/echo", engine="direct").map(items())
print(next(results).success)
"""


def test_a_process_ends_whose_iterable_blocks(
    simulator: Simulator, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    caller = run_python(CALLER)

    assert caller.communicate(timeout=PROCESS_SECONDS) == ("True\n", "")
    assert caller.returncode == 0
