"""First prompts through the real opencode, then a small batch: copy it and make it yours.

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
    BatchSummary,
    Catalog,
    ChutesOpenCodeLLM,
    ConfigurationError,
    OpenCodeError,
    QueryResult,
    RunFolder,
    Settings,
    Simulator,
    Usage,
    load_settings,
    run_batch,
    write_report,
)

PROMPTS = ("What is 17 + 25?", "What is (3 + 4) * 6?", "Say hello in one short sentence.")
ITEMS = Path(__file__).with_name("batch.jsonl")
SIMULATED_MODEL = "Qwen/Qwen3-32B-TEE"
WIDTH = 100  # of a line of the table


def main() -> int:
    """Ask; return 0 when every prompt was answered."""
    began = time.monotonic()
    with (
        where_to_ask() as (settings, model),
        ChutesOpenCodeLLM(model, settings=settings, builtin_tools=False) as llm,
    ):
        results = []
        for result in llm.map(PROMPTS):
            show(PROMPTS[result.index or 0], result)
            results.append(result)
        show_total(results, time.monotonic() - began)
        print(f"\nNow a batch, {ITEMS.name}: durable, and the same call goes on where it ended.\n")
        folder = Path("runs", time.strftime("%Y-%m-%d-%H%M%S"))
        batch = run_batch(ITEMS, llm, folder)
        show_batch(batch)
        print(f"\nResults: {folder / 'results.jsonl'}\nReport:  {write_report(folder)}")
        show_next_steps(settings, model, folder)
    return 0 if all(result.success for result in results) and not batch.failed else 1


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


def show_batch(batch: BatchSummary) -> None:
    """Print a table of the batch's items, and what they came to."""
    print(f"  {'item':14}{'seconds':>8}{'tokens':>8}  answer")
    for record in RunFolder(batch.out_dir).records():
        said = (
            record.result
            if record.error is None
            else f"{record.error.type}: {record.error.message}"
        )
        text = " ".join(said.split())
        line = f"  {record.id:14}{record.duration_s:8.2f}{record.usage.total:8}  {text}"
        print(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")
    cost = "unknown cost" if batch.cost_usd is None else f"{batch.cost_usd:.6f} USD"
    print(
        f"\n{batch.done} of {batch.total} items done in {batch.duration_s:.1f} s, "
        f"{batch.failed} failed: {batch.usage.total} tokens, {cost}."
    )


def show_next_steps(settings: Settings, model: str, run: Path) -> None:
    """Print what to try next."""
    folder = Path(sys.prefix, "bin")
    here = Path.cwd()
    command = (folder.relative_to(here) if folder.is_relative_to(here) else folder).as_posix()
    flag = " --simulate" if settings.is_loopback else ""
    asked = flag if flag or settings.default_model else f" --model {model}"
    print("\nNext:")
    if settings.sources["home"].startswith("environment"):
        print(f"  export CHUTES_OPENCODE_HOME={settings.home}     (opencode is there)")
    print(f"  {command}/chutes-opencode prompt{asked} 'What is 6 * 7?'")
    print(f"  {command}/chutes-opencode batch report {run} --open")
    print(f"  {command}/chutes-opencode batch run{asked} configs/batch.jsonl -o runs/mine")
    print(f"  {command}/chutes-opencode doctor{flag}")
    if settings.is_loopback:
        print(
            f"  {command}/chutes-opencode config init     (stores your Chutes key; then once more)"
        )
    print("  README.md, configs/hello.py (what ran here), configs/config.toml, scripts/test")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OpenCodeError as error:
        sys.exit(f"{type(error).__name__}: {error.raw_message}\n{error.hint}")
