"""The README's first example is a whole program that works as it stands."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from chutes_opencode import Simulator
from tests.patience import PROCESS_SECONDS

README = Path(__file__).parents[2] / "README.md"
MAX_LINES = 15


def python_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_hello_world_answers(
    simulator: Simulator, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    hello = python_examples()[0]

    said, complaints = run_python(hello).communicate(timeout=PROCESS_SECONDS)

    assert len(hello.splitlines()) <= MAX_LINES
    assert complaints == ""
    answer, bill = said.splitlines()
    assert answer == "42"
    assert re.fullmatch(r"\d+ tokens, [\d.e-]+ USD", bill)
    assert simulator.bill.total.requests == 1


def test_every_example_is_python() -> None:
    for example in python_examples():
        compile(example, str(README), "exec")
