"""Without the extra: one line that names what to install; and no ray where none is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")

sys.meta_path.insert(0, NoRay())
from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError
try:
    {statement}
except ConfigurationError as error:
    print(error)
    print(error.hint)
"""
INSTALL = "pip install 'chutes-opencode[ray]'"
LLM = "ChutesOpenCodeLLM('m', engine='direct', builtin_tools=False)"


@pytest.mark.parametrize(
    "statement",
    [
        f"{LLM}.remote('hi')",
        "from chutes_opencode import prompt_task",
        "from chutes_opencode import PromptPool",
        "import chutes_opencode; chutes_opencode.ray_batch",
        "from chutes_opencode.distributed.connect import connect",
    ],
)
def test_without_ray_one_line_names_what_to_install(statement: str) -> None:
    code = BLOCKED.format(statement=statement)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    error, hint = done.stdout.splitlines()
    assert INSTALL in error
    assert INSTALL in hint


def test_a_ray_that_breaks_in_its_own_way_is_one_line_too() -> None:
    code = BLOCKED.replace("ModuleNotFoundError(", "AttributeError(").format(
        statement="from chutes_opencode import PromptPool"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    error, hint = done.stdout.splitlines()
    assert "Ray cannot be imported (No module named 'ray')" in error
    assert INSTALL in hint


def test_a_star_import_does_without_ray() -> None:
    code = BLOCKED.format(statement="exec('from chutes_opencode import *; print(run_batch)')")

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("<function run_batch")


def test_the_package_itself_imports_no_ray() -> None:
    code = "import sys, chutes_opencode.llm; print('ray' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
