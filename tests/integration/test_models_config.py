"""Models in opencode's config, as the real opencode sees them and asks for them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Params, Simulator, background, load_settings
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.opencode.config import (
    Target,
    build_config,
    key_placeholder,
    output_ceiling,
    render_config,
)
from chutes_opencode.opencode.export import export_block, render_block
from chutes_opencode.opencode.workspace import Workspace, build_environment, temporary_workspace
from chutes_opencode.request import PromptRequest
from chutes_opencode.runtime import Runtime
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS

Start = Callable[..., Simulator]


def row(identifier: str, **fields: Any) -> dict[str, Any]:
    """Return a row of a model list; the simulator answers with the prompt's own text."""
    lengths = {"context_length": 40_000, "max_output_length": 20_000}
    return {"id": identifier, "object": "model", **lengths, **fields}


def scenario(*rows: dict[str, Any]) -> dict[str, Any]:
    rules = [{"model": each["id"], "reply": "text", "text": "Hello."} for each in rows]
    return {"models": list(rows), "rules": rules}


def last_body(simulator: Simulator) -> dict[str, Any]:
    """Return the body of the only model request."""
    (request,) = [request for request in simulator.requests if request.body]
    body: dict[str, Any] = json.loads(request.body)
    return body


# --- which models there are ----------------------------------------------------------------------


@pytest.fixture
def workspace(temp_folder: Path) -> Iterator[Workspace]:
    """Yield the private home that a run would have."""
    with temporary_workspace(temp_folder) as place:
        yield place


def listed(opencode: Path, place: Workspace, *arguments: str, **variables: str) -> list[str]:
    """Return the lines of `opencode models` in a workspace."""
    environment = build_environment(place, {"PATH": "/usr/bin:/bin"}, {}, key="", output_ceiling=1)
    shown = subprocess.run(
        [str(opencode), "models", *arguments],
        env=environment | variables,
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=True,
    )
    return shown.stdout.splitlines()


def synced_target() -> Target:
    """Return where a run sends its requests, with the models that it would be told."""
    runtime = Runtime.make(load_settings(), find_provider("chutes"))
    background.Job(runtime.resolve("a/b/c/d")).result()
    engine = background.Job(runtime.engines.get("run")).result()
    assert isinstance(engine, RunEngine)
    return engine.target()


def write_config(place: Workspace, target: Target, model: str) -> None:
    placeholder = key_placeholder()
    request = PromptRequest("", model)
    config = build_config(request, target, plugin=None, key=placeholder)
    place.config.write_text(render_config(config, key=placeholder))
    assert output_ceiling(request, target) > 0


def test_opencode_lists_exactly_the_filtered_synced_models(
    start_simulator: Start, opencode: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        "a/b/c/d",
        "acme/odd:latency",
        "acme/x,acme/y",
        "chutes/own",
        "plain",
        "moonshotai/Kimi-K2.6-TEE",  # opencode's built-in list of the same provider id has it too
    ]
    simulator = start_simulator({"models": [row(each) for each in (*wanted, "acme/hidden")]})
    filters = ["a/b/*", "acme/*", "chutes/own", "plain", "moonshotai/*", "!acme/hidden"]
    monkeypatch.setenv("CHUTES_OPENCODE_MODEL_FILTER", ",".join(filters))
    theirs = {row["id"] for row in _get(f"{simulator.base_url}/models")["data"]}
    wanted += [name for name in theirs if name.startswith("moonshotai/") and name not in wanted]

    write_config(workspace, synced_target(), "a/b/c/d")

    assert sorted(listed(opencode, workspace)) == sorted(f"chutes/{name}" for name in wanted)


def _get(url: str) -> Any:
    import httpx

    return httpx.get(url, trust_env=False, timeout=WAIT_SECONDS).json()


def test_a_string_that_is_no_id_of_the_list_is_a_model_of_its_own(
    opencode: Path, workspace: Workspace
) -> None:
    models = (Model("org/a", 9000, 4000), Model("org/b", 8000, 5000, features=("reasoning",)))
    target = Target(find_provider("chutes"), "http://127.0.0.1:9/v1", models)

    write_config(workspace, target, "org/a,org/b:latency")

    lines = listed(opencode, workspace, "--verbose")
    start = lines.index("chutes/org/a,org/b:latency") + 1
    entry = json.loads("\n".join(lines[start : lines.index("}", start) + 1]))
    assert entry["limit"] == {"context": 8000, "output": 4000}
    assert entry["capabilities"]["temperature"] is True
    assert [line for line in lines if line.startswith("chutes/")] == [
        "chutes/org/a",
        "chutes/org/a,org/b:latency",
        "chutes/org/b",
    ]


def test_the_exported_block_is_loaded_beside_opencodes_own_list(
    opencode: Path, workspace: Workspace
) -> None:
    models = [Model("a/b/c/d", 9000, 4000), Model("moonshotai/Kimi-K2.6-TEE"), Model("{env:HOME}")]
    chutes = export_block(find_provider("chutes"), models, "http://127.0.0.1:9/v1", "SOME_KEY")
    local = export_block(
        find_provider("ollama"), [Model("m-128k")], "http://localhost:11434/v1", None
    )
    chutes["provider"] |= local["provider"]
    workspace.config.write_text(render_block(chutes))

    lines = listed(opencode, workspace, "--verbose", OPENCODE_MODELS_PATH="", SOME_KEY="k")

    names = [line for line in lines if line.startswith(("chutes/", "ollama/"))]
    assert sorted(names) == sorted([*(f"chutes/{model.id}" for model in models), "ollama/m-128k"])
    start = lines.index("ollama/m-128k") + 1
    entry = json.loads("\n".join(lines[start : lines.index("}", start) + 1]))
    assert entry["limit"] == {"context": 131_072, "output": 4096}


# --- what is asked of the provider ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("a/b/c/d", "a/b/c/d"),
        ("chutes/a/b/c/d:latency", "a/b/c/d:latency"),
        ("a/b/c/d, chutes/acme/x", "a/b/c/d,acme/x"),
    ],
)
def test_a_prompt_goes_out_under_the_callers_spelling(
    start_simulator: Start, asked: str, sent: str
) -> None:
    simulator = start_simulator(scenario(row("a/b/c/d"), row("acme/x", max_output_length=9000)))

    result = ChutesOpenCodeLLM(asked, builtin_tools=False, retries=1, relay=False).prompt("hi")

    assert (result.result, last_body(simulator)["model"]) == ("Hello.", sent)
    assert last_body(simulator)["max_tokens"] == (9000 if "," in sent else 20_000)


FAMILIES = [
    "Qwen/Qwen3-32B",
    "moonshotai/Kimi-K2.5",
    "moonshotai/kimi-k2-instruct",
    "zai-org/GLM-4.6",
    "google/gemini-2.5-pro",
    "MiniMaxAI/MiniMax-M2",
    "anthropic/claude-opus-4.7",
    "openai/gpt-5",
]


@pytest.mark.parametrize("model", FAMILIES)
def test_opencodes_own_sampling_values_are_not_sent(start_simulator: Start, model: str) -> None:
    simulator = start_simulator(scenario(row(model, supported_features=["reasoning", "tools"])))

    ChutesOpenCodeLLM(model, builtin_tools=False, retries=1, relay=False).prompt("hi")

    body = last_body(simulator)
    assert set(body) == {"model", "messages", "stream", "stream_options", "max_tokens"}
    assert body["max_tokens"] == 20_000


def test_the_callers_sampling_values_are(start_simulator: Start) -> None:
    model = "moonshotai/Kimi-K2.5"
    simulator = start_simulator(scenario(row(model, supported_features=["reasoning"])))
    params = Params(temperature=0.25, reasoning_effort="low", extra_body={"top_k": 7})

    llm = ChutesOpenCodeLLM(model, params=params, builtin_tools=False, retries=1, relay=False)
    llm.prompt("hi")

    body = last_body(simulator)
    assert (body["temperature"], body["reasoning_effort"], body["top_k"]) == (0.25, "low", 7)
    assert "top_p" not in body


def test_a_variant_may_set_what_it_is_for(start_simulator: Start) -> None:
    model = "acme/mind"
    simulator = start_simulator(scenario(row(model, supported_features=["reasoning"])))

    ChutesOpenCodeLLM(
        model, builtin_tools=False, retries=1, relay=False, extra_cli_args=("--variant", "high")
    ).prompt("hi")

    assert last_body(simulator)["reasoning_effort"] == "high"
