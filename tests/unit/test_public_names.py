"""What can be imported from `chutes_opencode`, and how little that costs."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import chutes_opencode
from tests.patience import PROCESS_SECONDS

HEAVY = ("ray", "starlette", "uvicorn", "mcp", "inspect_ai", "typer", "structlog", "pydantic")


def names_for_type_checkers() -> dict[str, set[str]]:
    """The imports under `if TYPE_CHECKING`, by the module that they come from."""
    tree = ast.parse(Path(chutes_opencode.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names: dict[str, set[str]] = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            home = str(node.module).removeprefix("chutes_opencode.")
            names.setdefault(home, set()).update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("name", chutes_opencode.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    assert getattr(chutes_opencode, name) is not None


def test_people_and_type_checkers_are_told_the_same() -> None:
    homes = {home: set(names) for home, names in chutes_opencode._HOMES.items()}

    extras = {home: set(names) for home, names in chutes_opencode._OF_EXTRAS.items()}
    assert names_for_type_checkers() == homes | extras
    assert {"__version__", *set().union(*homes.values())} == set(chutes_opencode.__all__)
    assert dir(chutes_opencode) == sorted(chutes_opencode.__all__)


@pytest.mark.parametrize("name", chutes_opencode._OF_EXTRAS["distributed"])
def test_each_name_of_an_extra_can_be_imported_but_is_in_no_star_import(name: str) -> None:
    assert getattr(chutes_opencode, name) is getattr(chutes_opencode.distributed, name)
    assert name not in chutes_opencode.__all__


@pytest.mark.parametrize("home", chutes_opencode._HOMES)
def test_a_name_stands_where_its_home_says(home: str) -> None:
    module = importlib.import_module(f"chutes_opencode.{home}")

    assert {name for name in chutes_opencode._HOMES[home] if not hasattr(module, name)} == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = chutes_opencode.nothing


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=PROCESS_SECONDS,
    )
    return {name.partition(".")[0] for name in json.loads(shown.stdout)}


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import chutes_opencode", HEAVY),
        (
            "from chutes_opencode import ChutesOpenCodeLLM",
            ("ray", "starlette", "uvicorn", "mcp", "inspect_ai", "typer"),
        ),
    ],
)
def test_an_import_loads_nothing_heavy(statement: str, forbidden: tuple[str, ...]) -> None:
    assert loaded_by(statement).isdisjoint(forbidden)
