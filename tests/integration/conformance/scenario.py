"""What a scenario is, and how to write one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.integration.conformance.differences import DIRECT, RUN, SERVE, STRAIGHT, Difference

# Stand for what is known only when a scenario is played; they may be part of any text.
WORK, OUTSIDE, CACHE = "<work>", "<outside>", "<cache>"
REMOTE, SESSION = "<remote>", "<session>"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked of every engine.

    Attributes:
        name: What it is about.
        calls: Arguments of `stream`, call after call.
        options: Of the instance.
        engines: Who plays it.
        reference: With whom the others are compared.
        ends: The class of the last call's error; empty: it is a success.
        says: The last call's text; None: not compared with anything but the other engines'.
        files: What lies in the caller's folder at the beginning.
        begins: The option with the seconds that must be enough for a first request; on a machine
            that is too slow for them the scenario is played again with more.
        differs: What may differ.
        estimated: Why bill and usage are not the same; empty: they are.
    """

    name: str
    calls: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    engines: tuple[str, ...] = (RUN, SERVE)
    reference: str = RUN
    ends: str = ""
    says: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    begins: str = ""
    differs: tuple[Difference, ...] = ()
    estimated: str = ""


def chat(
    name: str,
    *calls: Mapping[str, Any],
    model: str = "sim/echo",
    straight: bool = False,
    direct: bool = True,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Scenario:
    """Return a scenario without tools."""
    engines = (RUN, SERVE, *((DIRECT,) if direct else ()), *(STRAIGHT if straight else ()))
    given = {"model": model, "builtin_tools": False, "retries": 1} | dict(options or {})
    return Scenario(name, calls, given, engines, **fields)


def agent(
    name: str,
    *steps: Mapping[str, Any],
    straight: bool = False,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Scenario:
    """Return a scenario of an agent that does the steps, and then says "end"."""
    given = {"model": "sim/script", "retries": 1, "work_dir": WORK} | dict(options or {})
    engines = (RUN, SERVE, *(STRAIGHT if straight else ()))
    calls = ({"prompt": script(*steps, {"text": "end"})},)
    return Scenario(name, calls, given, engines, **{"says": "end"} | fields)


def script(*steps: Mapping[str, Any]) -> str:
    return json.dumps({"steps": steps})


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": name, "arguments": arguments}


def bash(command: str) -> dict[str, Any]:
    return tool("bash", command=command, description="d")


def failing(fault: str, ends: str, **fields: Any) -> Scenario:
    """Return a scenario of a model that fails for good."""
    return chat(fault, {"prompt": "hello"}, model=f"sim/fault/{fault}", ends=ends, **fields)
