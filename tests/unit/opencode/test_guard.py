"""What the guard is told: which requests are the model's, and what may be in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.opencode.config import KEY_VARIABLE, Target
from chutes_opencode.opencode.guard import NATIVE_FINISH, NATIVE_OPTIONS, guard_spec
from chutes_opencode.request import McpServer, Params, PromptRequest

URL = "http://127.0.0.1:8000/v1"
CLAUDE = Target(find_provider("anthropic"), URL)


def spec(request: PromptRequest, target: Target | None = None) -> dict[str, Any]:
    return guard_spec(request, target or Target(find_provider("chutes"), URL), Path("/files"))


def test_limits_tool_servers_and_system_are_told() -> None:
    request = PromptRequest(
        "",
        "m",
        system_message="Be brief.",
        context=False,
        tools=(McpServer("a.b", url="http://h"),),
        max_requests=7,
        max_failures=3,
    )

    for told in (spec(request), spec(request, CLAUDE)):
        assert {name: told[name] for name in ("keyVariable", "maxRequests", "maxFailures")} == {
            "keyVariable": KEY_VARIABLE,
            "maxRequests": 7,
            "maxFailures": 3,
        }
        assert (told["toolPrefixes"], told["attachments"]) == (["a_b_"], "/files")
        assert (told["system"], told["context"]) == ("Be brief.", False)


OWN = ["max_tokens", "messages", "model", "stream", "stream_options", "tool_choice", "tools"]


def test_of_the_openai_wire_only_keys_that_somebody_asked_for_may_be_sent() -> None:
    params = Params(seed=1, reasoning_effort="low", extra_body={"n_probs": 2})

    assert spec(PromptRequest("", "m"))["bodyKeys"] == OWN
    assert spec(PromptRequest("", "m", params=params))["bodyKeys"] == sorted(
        [*OWN, "seed", "reasoning_effort", "n_probs"]
    )
    assert spec(PromptRequest("", "m"))["completionsUrl"] == f"{URL}/chat/completions"
    assert "nativeRoot" not in spec(PromptRequest("", "m"))


def test_a_variant_brings_keys_that_only_opencode_knows() -> None:
    request = PromptRequest("", "m", extra_cli_args=("--variant", "high"))

    assert spec(request)["bodyKeys"] is None
    assert (spec(request, CLAUDE)["dropped"], spec(request, CLAUDE)["bodyKeys"]) == ([], None)


def test_a_native_wire_is_watched_below_its_root_and_takes_the_callers_values() -> None:
    params = Params(temperature=0.5, max_tokens=9, extra_body={"top_k": 5})

    told = spec(PromptRequest("", "claude", params=params), CLAUDE)

    assert "completionsUrl" not in told
    assert told["nativeRoot"] == f"{URL}/"
    assert told["sampling"] == {"temperature": 0.5, "topP": None}
    assert told["extraBody"] == {"temperature": 0.5, "top_k": 5}
    assert {"messages", "temperature", "top_k"} <= set(told["bodyKeys"])
    assert "thinking" not in told["bodyKeys"]
    assert told["dropped"] == list(NATIVE_OPTIONS)
    assert told["finish"] == NATIVE_FINISH["@ai-sdk/anthropic"]


def test_of_another_package_neither_body_nor_end_is_known() -> None:
    provider = find_provider("anthropic").model_copy(update={"npm": "@ai-sdk/other"})
    params = Params(temperature=0.5, extra_body={"x": 1})

    told = spec(PromptRequest("", "m", params=params), Target(provider, URL))

    assert (told["finish"], told["bodyKeys"], told["extraBody"]) == (None, None, {"x": 1})


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (Params(stop="x"), "params.stop cannot be sent to Anthropic"),
        (Params(seed=0), "params.seed cannot"),
        (Params(reasoning_effort="low"), "params.reasoning_effort cannot"),
        (Params(extra_body={"system": "x"}), "extra_body may not hold system"),
        (Params(extra_body={"model": "x"}), "extra_body may not hold model"),
    ],
)
def test_what_a_native_wire_cannot_carry_is_refused(params: Params, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        spec(PromptRequest("", "m", params=params), CLAUDE)


def test_an_extra_body_that_is_no_json_is_refused_natively_too() -> None:
    with pytest.raises(InvalidRequestError, match="no JSON"):
        spec(PromptRequest("", "m", params=Params(extra_body={"x": object()})), CLAUDE)


@pytest.mark.parametrize(
    ("package", "line", "word"),
    [
        ("anthropic", '{"delta":{"stop_reason":"tool_use","stop_sequence":null}}', "tool_calls"),
        ("anthropic", '{"message":{"stop_reason": null}}', None),
        ("anthropic", '{"text":"\\"stop_reason\\": \\"end_turn\\""}', None),
        ("google", '{"candidates":[{"finishReason": "STOP"}]}', "stop"),
        ("google", '{"candidates":[{"finishReason": "SAFETY"}]}', "content_filter"),
        ("openai", '{"type":"response.completed","response":{}}', "stop"),
        ("openai", '{"type":"response.incomplete"}', "length"),
        ("openai", '{"type":"response.failed"}', None),
    ],
)
def test_the_end_of_a_native_stream_is_known_by_its_mark(
    package: str, line: str, word: str | None
) -> None:
    finish = NATIVE_FINISH[f"@ai-sdk/{package}"]

    found = re.search(finish["pattern"], line)

    assert (finish["words"][found[1]] if found else None) == word
