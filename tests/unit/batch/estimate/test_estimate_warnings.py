"""What an estimate says to look at before a batch is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, Params, Simulator
from chutes_opencode.batch.estimate.estimate import estimate_batch
from chutes_opencode.batch.item import Task
from tests.unit.batch.estimating import MODEL, SYSTEM_TOKENS, estimate, item


def test_models_that_are_missing_renamed_or_without_tools(
    make_llm: Callable[..., ChutesOpenCodeLLM],
) -> None:
    def tasks() -> Iterator[Task]:
        for model in ("Qwen/Qwen3-23B-TEE", "Qwen/Qwen3-32B", "sim/no-tools", MODEL):
            yield Task(item(), model)

    found = estimate_batch(tasks, make_llm(builtin_tools=True), measure=False)

    missing, old, toolless, fine = (part.asked for part in found.models)
    assert (missing.model, missing.suggestions[0]) == (None, MODEL)
    assert old.renamed_to == MODEL
    assert toolless.lacks_tools
    assert (fine.missing, fine.renamed_to, fine.lacks_tools) == ("", "", False)
    assert found.cost_usd is not None
    text = "\n".join(found.warnings)
    assert "1 task would fail: unknown model 'Qwen/Qwen3-23B-TEE'" in text
    assert f"Qwen/Qwen3-32B is now {MODEL}" in text
    assert "sim/no-tools takes no tools" in text
    assert len(found.warnings) == 3


def test_what_does_not_fit_the_context_is_named(
    make_llm: Callable[..., ChutesOpenCodeLLM],
) -> None:
    items = [item("x" * 4 * 50_000, number=number) for number in range(7)]
    close = [item("x" * 4 * 40_000, number=7), item("x" * 4 * 40_000, params={"max_tokens": 5000})]

    found = estimate(make_llm(), [*items, *close, item()])

    [part] = found.models
    assert part.too_long_count == 8
    assert part.too_long == ("item-0", "item-1", "item-2", "item-3", "item-4")
    assert any("8 tasks do not fit the 40,960 tokens" in line for line in found.warnings)


def test_what_cannot_be_sent_is_named_and_not_counted(
    make_llm: Callable[..., ChutesOpenCodeLLM], tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")

    found = estimate(make_llm(), [item(files=(str(image),)), item(" "), item(number=2)])

    [part] = found.models
    assert part.refused_count == 2
    assert "takes no image" in part.refused[0]
    assert "the prompt is empty" in part.refused[1]
    assert found.input_tokens.expected == SYSTEM_TOKENS + 10


@pytest.mark.parametrize(
    ("most", "words"),
    [(1e-6, "not enough: it costs"), (2e-3, "probably not"), (0.01, "may not be"), (1.0, "")],
)
def test_the_budget_is_compared(
    make_llm: Callable[..., ChutesOpenCodeLLM], most: float, words: str
) -> None:
    llm = make_llm(params=Params(max_tokens=1000))

    found = estimate(llm, [item()] * 30, max_cost_usd=most)

    assert [words in line for line in found.warnings] == ([True] if words else [])


def test_the_accounts_means_are_told_and_compared(
    make_llm: Callable[..., ChutesOpenCodeLLM],
) -> None:
    found = estimate(make_llm(), [item()] * 6000)

    assert found.account is not None
    assert found.account.balance_usd == 100.0
    assert len(found.warnings) == 1
    assert "5,000 requests left today, the batch sends 6,000" in found.warnings[0]
    assert estimate(make_llm(), [item()], ask_account=False).account is None


def test_without_a_network_it_says_what_is_unknown(
    make_llm: Callable[..., ChutesOpenCodeLLM], simulator: Simulator
) -> None:
    llm = make_llm()
    simulator.stop()

    found = estimate(llm, [item()])

    text = "\n".join(found.warnings)
    assert "Balance and quota are unknown" in text
    assert f"The price of {MODEL} is unknown" in text
    assert found.account is None
    assert found.input_tokens.expected == SYSTEM_TOKENS + 10


def test_no_model_is_an_error_that_names_some(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    with pytest.raises(ConfigurationError, match="no model is named; there are for example"):
        estimate(make_llm(None), [item()])


def test_the_item_may_name_the_model(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    found = estimate(make_llm(None), [item(model="sim/echo")], model="sim/echo")

    assert [part.asked.name for part in found.models] == ["sim/echo"]


def test_an_estimate_is_json(make_llm: Callable[..., ChutesOpenCodeLLM]) -> None:
    told = json.loads(json.dumps(estimate(make_llm(), [item()]).to_json()))

    assert told["models"][0]["id"] == MODEL
    assert told["models"][0]["input_tokens"]["expected"] == SYSTEM_TOKENS + 10
    assert told["account"]["balance_usd"] == 100.0
    assert told["account"]["caps"][0]["reset_at"]
