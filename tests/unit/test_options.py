"""What an instance may be set up with, and what is refused in one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.options import Options, check_params
from chutes_opencode.request import Limits, Params

NAN, INF = float("nan"), float("inf")


def options(**fields: Any) -> Options:
    return Options(None, "", find_provider("chutes"), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"engine": "run"},
        {"isolation": "prompt"},
        {"agent_name": "my agent-1.0_x"},
        {"env": {"A": "", "B_2": "x=y"}},
        {"extra_cli_args": ("--variant", "high", "--auto")},
        {"limits": Limits(max_requests=1)},
        {"limits": Limits(max_tokens=1, max_cost_usd=0, max_total_cost_usd=0.5)},
        {"relay": False, "limits": Limits(max_requests=1)},
        {"fallback_models": ("a", "b"), "cache": Path("cache")},
    ],
)
def test_usual_values_are_taken(fields: dict[str, Any]) -> None:
    made = options(**fields)

    assert all(getattr(made, name) == value for name, value in fields.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"engine": "fast"},
            "engine='fast' is not offered; this version has: auto, run, serve, direct",
        ),
        ({"isolation": "none"}, "isolation='none' is not offered"),
        ({"agent_name": ""}, "agent_name ''"),
        ({"agent_name": "-x"}, "agent_name '-x'"),
        ({"agent_name": "a" * 65}, "agent_name"),
        ({"agent_name": "a\n"}, "agent_name"),
        ({"agent_name": "a/b"}, "agent_name"),
        ({"agent_name": "constructor"}, "agent_name 'constructor'"),
        ({"env": {"": "x"}}, "env: '' cannot be an environment variable"),
        ({"env": {"A=B": "x"}}, "env: 'A=B' cannot"),
        ({"env": {"A": "x\0"}}, "env: 'A' cannot"),
        ({"env": {"A\0": "x"}}, "cannot be an environment variable"),
        ({"env": {"A": 5}}, "env: 'A' cannot"),
        ({"env": {"A": None}}, "env: 'A' cannot"),
        ({"env": {"A": "\ud800"}}, "env: 'A' cannot"),
        ({"env": {5: "x"}}, "env: 5 cannot"),
        ({"extra_cli_args": ("--pure",)}, "extra_cli_args may not hold --pure"),
        ({"extra_cli_args": ("--model=x/y",)}, "extra_cli_args may not hold --model"),
        ({"extra_cli_args": ("--variant", "high", "-s")}, "extra_cli_args may not hold -s"),
        ({"extra_cli_args": ("-mx",)}, "extra_cli_args may not hold -m"),
        ({"extra_cli_args": ("--agent=plan",)}, "extra_cli_args may not hold --agent"),
        ({"extra_cli_args": ("--command", "init")}, "extra_cli_args may not hold --command"),
        ({"extra_cli_args": ("hello",)}, "'hello': it is no flag"),
        ({"extra_cli_args": ("--variant=x", "hello")}, "'hello': it is no flag"),
        ({"extra_cli_args": (5,)}, "strings only, not 5"),
        ({"limits": Limits(max_requests=cast("int", "9"))}, "max_requests must be at least 1"),
        ({"limits": Limits(max_requests=cast("int", None))}, "max_requests must be at least 1"),
        ({"limits": Limits(max_requests=0)}, "max_requests must be at least 1, not 0"),
        ({"limits": Limits(max_requests=-1)}, "max_requests must be at least 1"),
        ({"limits": Limits(max_tokens=0)}, "limits.max_tokens must be at least 1, not 0"),
        ({"limits": Limits(max_tokens=cast("int", True))}, "max_tokens must be at least 1"),
        ({"limits": Limits(max_tokens=cast("int", 1.5))}, "max_tokens must be at least 1"),
        ({"limits": Limits(max_cost_usd=-0.1)}, "limits.max_cost_usd must be a number of US doll"),
        ({"limits": Limits(max_cost_usd=NAN)}, "limits.max_cost_usd must be a number"),
        ({"limits": Limits(max_cost_usd=cast("float", "1"))}, "max_cost_usd must be a number"),
        ({"limits": Limits(max_total_cost_usd=INF)}, "limits.max_total_cost_usd must be a number"),
        ({"fallback_models": ("a", " ")}, "fallback_models must be a list of model ids"),
        ({"fallback_models": (5,)}, "fallback_models must be a list of model ids"),
    ],
)
def test_a_value_that_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**fields)

    assert message in caught.value.raw_message


@pytest.mark.parametrize(
    "params",
    [
        Params(),
        Params(temperature=0, top_p=1.0, max_tokens=1, seed=-1),
        Params(stop=("a",) * 64),
        Params(temperature=1.5, stop="x", reasoning_effort="low", extra_body={"min_p": 0.1}),
    ],
)
def test_usual_parameters_are_taken(params: Params) -> None:
    check_params(params)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, NAN, INF, "1", True]),
        ("top_p", [-1, 1.01, NAN, "0.5", False]),
        ("max_tokens", [0, -5, 1.5, "10", True, NAN]),
        ("seed", [1.5, "1", True, 2**70, -(2**70)]),
        ("stop", [5, "", ("a", ""), [1]]),
        ("reasoning_effort", [5, ""]),
        ("extra_body", [[1], {1: 2}, "x"]),
    ],
)
def test_a_parameter_that_no_provider_takes_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=rf"params\.{name} must be a"):
            check_params(Params(**{name: value}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cache": Path("cache")}, "cache="),
        ({"fallback_models": ("a",)}, "fallback_models="),
        ({"limits": Limits(max_tokens=5)}, "limits.max_tokens"),
        ({"limits": Limits(max_cost_usd=0.0)}, "limits.max_cost_usd"),
        ({"limits": Limits(max_total_cost_usd=0.0)}, "limits.max_total_cost_usd"),
    ],
)
def test_what_needs_the_relay_is_refused_without_it_rather_than_ignored(
    fields: dict[str, Any], named: str
) -> None:
    assert options(**fields).relay

    with pytest.raises(ConfigurationError, match=f"{named} needs the relay"):
        options(relay=False, **fields)


def test_a_wire_that_the_relay_does_not_read_goes_without_it() -> None:
    native = find_provider("chutes").model_copy(update={"wire": "native"})

    assert not Options(None, "", native, relay=False).relay
    with pytest.raises(ConfigurationError, match="a wire of its own") as caught:
        Options(None, "", native)
    assert "relay=False" in caught.value.hint
