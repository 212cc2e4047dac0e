"""A first batch of prompts through the real opencode: copy it and make it yours.

With a Chutes key (CHUTES_API_TOKEN, or `chutes-opencode config init`) a Chutes model answers, else
the embedded simulator does, which is free and always says the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chutes_opencode import (
    Catalog,
    ChutesOpenCodeLLM,
    ConfigurationError,
    OpenCodeError,
    QueryResult,
    Settings,
    Simulator,
    Usage,
    load_settings,
)

PROMPTS = ("What is 17 + 25?", "What is (3 + 4) * 6?", "Say hello in one short sentence.")
SIMULATED_MODEL = "Qwen/Qwen3-32B-TEE"


def main() -> int:
    """Run the batch; return 0 when every prompt was answered."""
    began = time.monotonic()
    with where_to_ask() as (settings, model):
        llm = ChutesOpenCodeLLM(model, settings=settings, builtin_tools=False)
        results = []
        for result in llm.map(PROMPTS):
            show(PROMPTS[result.index or 0], result)
            results.append(result)
        show_total(results, time.monotonic() - began)
        show_next_steps(settings)
    return 0 if all(result.success for result in results) else 1


@contextmanager
def where_to_ask() -> Iterator[tuple[Settings, str]]:
    """Yield settings and a model: Chutes where there is a key, else a simulator."""
    settings = load_settings()
    if settings.api_token is not None:
        model = settings.default_model or cheapest_model(settings)
        print(f"A key is set: {model} at {settings.base_url} answers. That costs a little.\n")
        yield settings, model
        return
    with Simulator() as simulator:
        print("No Chutes key is set: the embedded simulator answers, free of charge.\n")
        address, key = simulator.base_url, simulator.api_token
        yield load_settings(base_url=address, api_token=key), SIMULATED_MODEL


def cheapest_model(settings: Settings) -> str:
    """Return the model that asks least for a token in and a token out."""
    models = Catalog(settings=settings).models()
    priced = [
        (model.price.input + model.price.output, model.id)
        for model in models
        if model.price is not None and "text" in model.input_modalities
    ]
    if not priced:
        reason = "; ".join(models.problems) or f"{settings.base_url} lists no model with a price"
        raise ConfigurationError(raw_message=reason, hint="Set CHUTES_OPENCODE_DEFAULT_MODEL.")
    return min(priced)[1]


def show(prompt: str, result: QueryResult) -> None:
    """Print one answer, or what kept it from coming."""
    text = result.result.strip() if result.error is None else f"{result.error} {result.error.hint}"
    took = f"{result.duration_s:.1f} s, {result.usage.total} tokens"
    print(f"  {prompt}\n    → {text}   ({took})", flush=True)


def show_total(results: list[QueryResult], seconds: float) -> None:
    """Print what it came to."""
    usage = sum((result.usage for result in results), Usage())
    costs = [result.cost_usd for result in results if result.cost_usd is not None]
    cost = f"{sum(costs):.6f} USD" if len(costs) == len(results) else "unknown cost"
    done = sum(result.success for result in results)
    print(
        f"\n{done} of {len(results)} prompts answered by opencode in {seconds:.1f} s: "
        f"{usage.num_requests} model requests, {usage.total} tokens, {cost}."
    )


def show_next_steps(settings: Settings) -> None:
    """Print what to try next."""
    folder = Path(sys.prefix, "bin")
    here = Path.cwd()
    command = (folder.relative_to(here) if folder.is_relative_to(here) else folder).as_posix()
    flag = " --simulate" if settings.is_loopback else ""
    print("\nNext:")
    if settings.sources["home"].startswith("environment"):
        print(f"  export CHUTES_OPENCODE_HOME={settings.home}     (opencode is there)")
    print(f"  {command}/chutes-opencode prompt{flag} 'What is 6 * 7?'")
    print(f"  {command}/chutes-opencode doctor{flag}")
    if settings.is_loopback:
        print(
            f"  {command}/chutes-opencode config init     (stores your Chutes key; then once more)"
        )
    print("  README.md, configs/hello.py (this batch), configs/config.toml, scripts/test")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OpenCodeError as error:
        sys.exit(f"{type(error).__name__}: {error.raw_message}\n{error.hint}")
