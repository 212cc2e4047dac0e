"""Bounded prompts: limits, a fallback model, and answers that cost nothing the second time.

With a Chutes key (CHUTES_API_TOKEN, or `chutes-opencode config init`) Chutes answers, else the
embedded simulator, whose first model is cold at first, so that the fallback is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chutes_opencode import (
    ChutesOpenCodeLLM,
    LimitExceededError,
    Limits,
    OpenCodeError,
    Params,
    QueryResult,
    Settings,
    Simulator,
    load_settings,
)

MODEL = "Qwen/Qwen3-32B-TEE"
FALLBACKS = ("deepseek-ai/DeepSeek-V4-Flash-0731-TEE", "zai-org/GLM-5.2-TEE")
QUESTION = "What is 17 + 25?"
SCENARIO = {"rules": [{"model": MODEL, "fault": "503-cold", "times": 1}]}

LIMITS = Limits(
    max_requests=20,  # model requests of a prompt, retries and sub-agents included
    max_tokens=200_000,  # input and output of all of them
    max_cost_usd=0.10,  # of a prompt
    max_total_cost_usd=1.00,  # of all prompts of the instance
)


def main() -> None:
    """Ask three times; then once more, with less money than one request may cost."""
    with where_to_ask() as settings:
        llm = ChutesOpenCodeLLM(
            MODEL,
            limits=LIMITS,
            params=Params(max_tokens=2_000),  # the less a request may cost, the more of them fit
            fallback_models=FALLBACKS,
            cache=Path(".cache", "bounded"),
            retries=3,  # attempts in all for one model request
            timeout_seconds=120,  # for one attempt of the whole prompt
            deadline_seconds=300,  # for everything, waits included
            settings=settings,
        )
        for _ in range(3):
            show(llm.prompt(QUESTION))
        poor = ChutesOpenCodeLLM(MODEL, limits=Limits(max_cost_usd=1e-6), settings=settings)
        try:
            poor.prompt(QUESTION)
        except LimitExceededError as error:
            print(f"Not sent, because of {error.limit}: {error.raw_message}")


@contextmanager
def where_to_ask() -> Iterator[Settings]:
    """Yield the settings: Chutes' where there is a key, else a simulator's."""
    settings = load_settings()
    if settings.api_token is not None:
        yield settings
        return
    with Simulator(SCENARIO) as simulator:
        yield load_settings(base_url=simulator.base_url, api_token=simulator.api_token)


def show(result: QueryResult) -> None:
    """Print the answer, who gave it, and what it cost."""
    cost = "unknown cost" if result.cost_usd is None else f"{result.cost_usd:.6f} USD"
    asked = [exchange.requested_model for exchange in result.exchanges]
    how = "replayed" if result.replayed else f"model requests: {len(asked)}"
    print(f"{result.result.strip()}   ({how}, {asked[-1]}, {cost})")


if __name__ == "__main__":
    try:
        main()
    except OpenCodeError as error:
        sys.exit(f"{type(error).__name__}: {error.raw_message}\n{error.hint}")
