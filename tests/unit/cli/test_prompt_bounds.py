"""The command `prompt` and the relay: bounds, fallbacks, the cache, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.errors import LimitExceededError
from chutes_opencode.request import Limits, Params
from chutes_opencode.results import Exchange, QueryResult, Usage
from tests.unit.cli.fake_llm import ANSWER, FakeLLM

Run = Callable[..., Any]


def test_bounds_fallbacks_and_cache_reach_the_instance_and_the_call(run: Run, llm: FakeLLM) -> None:
    bounds = ["--max-requests", "7", "--max-tokens-total", "9000", "--max-cost", "0.25"]
    others = ["--fallback", "acme/b", "--fallback", "acme/c", "--max-tokens", "50"]

    run("prompt", "x", *bounds, *others, "--cache", "answers", "--sample-index", "3")

    assert llm.made["limits"] == Limits(max_requests=7, max_tokens=9000, max_cost_usd=0.25)
    assert llm.made["params"] == Params(max_tokens=50)
    assert llm.made["fallback_models"] == ["acme/b", "acme/c"]
    assert (llm.made["cache"], llm.asked["sample_index"]) == (Path("answers"), 3)
    assert llm.made["relay"]


def test_the_relay_may_be_left_out(run: Run, llm: FakeLLM) -> None:
    run("prompt", "x", "--no-relay")

    assert not llm.made["relay"]


@pytest.mark.parametrize(("options", "engine"), [((), "auto"), (("--engine", "direct"), "direct")])
def test_the_engine_may_be_named(
    run: Run, llm: FakeLLM, options: tuple[str, ...], engine: str
) -> None:
    run("prompt", "x", *options)

    assert llm.made["engine"] == engine


def test_samples_are_told_apart_in_a_cache_only(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "x", "--sample-index", "1")

    assert result.exit_code == 2
    assert "--sample-index tells samples apart in a --cache" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason", "fix"),
    [
        (["--provider", "anthropic"], "a wire of its own", "(--no-relay)"),
        (["--max-cost", "1", "--no-relay"], "limits.max_cost_usd needs the relay", "(--no-relay)"),
        (["--fallback", "b", "--no-relay"], "fallback_models= needs the relay", "(--no-relay)"),
        (["--max-tokens-total", "0"], "limits.max_tokens must be at least 1", ""),
        (["--max-cost", "-1"], "limits.max_cost_usd must be a number of US dollars", ""),
    ],
)
def test_what_cannot_be_bounded_is_refused_and_says_how(
    run: Run, arguments: list[str], reason: str, fix: str
) -> None:
    result = run("prompt", "x", "--model", "acme/model", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr
    assert fix in result.stderr


def test_json_tells_of_each_model_request(run_json: Run, llm: FakeLLM) -> None:
    full = Exchange(status=429, requested_model="acme/model", cost_usd=0.0, first_byte_s=0.01239)
    served = Exchange(
        status=200,
        attempt=2,
        requested_model="acme/b",
        served_model="acme/b-TEE",
        finish_reason="stop",
        usage=Usage(input=20, output=5),
        cost_usd=0.000123,
    )
    llm.answer = replace(ANSWER, exchanges=(full, served))

    _, shown = run_json("prompt", "x")

    first, second = shown["exchanges"]
    assert (first["status"], first["attempt"], first["requested_model"]) == (429, 1, "acme/model")
    assert (first["first_byte_s"], first["cost_usd"], first["usage"]) == (0.012, 0.0, None)
    assert (second["status"], second["attempt"], second["served_model"]) == (200, 2, "acme/b-TEE")
    assert (second["usage"]["output"], second["cost_usd"]) == (5, 0.000123)
    assert (second["replayed"], second["refused"], second["error"]) == (False, None, None)


def test_a_replayed_run_says_so_on_stderr(run: Run, run_json: Run, llm: FakeLLM) -> None:
    llm.answer = replace(ANSWER, exchanges=(Exchange(status=200, replayed=True),))

    result = run("prompt", "x", "--cache", "answers")
    _, shown = run_json("prompt", "x", "--cache", "answers")

    assert result.stdout == "It is 42.\n"
    assert result.stderr.startswith("replayed: every model answer comes from --cache")
    assert shown["replayed"]


@pytest.fixture
def limit_reached(llm: FakeLLM) -> LimitExceededError:
    """The next prompt ends at a limit of its tokens, in the middle of its answer."""
    error = LimitExceededError(raw_message="no more tokens", limit="max_tokens")
    error.result = QueryResult("It is", 1, "", "", cost_usd=0.5, error=error)
    llm.failure = error
    return error


def test_a_limit_is_named_and_the_text_until_then_kept(
    run: Run, limit_reached: LimitExceededError
) -> None:
    result = run("prompt", "x")

    assert (result.exit_code, result.stdout) == (8, "")
    assert "the text until then:\nIt is\n" in result.stderr
    assert "error: max_tokens: no more tokens" in result.stderr


def test_json_names_the_limit_and_keeps_the_text(
    run_json: Run, limit_reached: LimitExceededError
) -> None:
    code, shown = run_json("prompt", "x")

    assert (code, shown["ok"], shown["result"], shown["cost_usd"]) == (8, False, "It is", 0.5)
    assert (shown["error"]["type"], shown["error"]["limit"]) == ("LimitExceededError", "max_tokens")
