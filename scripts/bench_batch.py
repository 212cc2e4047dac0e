"""Measure the batch: durable results in a second, memory, a resume, and what it costs the engine.

The first three with an executor that answers at once, each run in a process of its own. The last
with the real opencode (engine serve) and the simulator: the same prompts through `run_batch` and
through `llm.amap`, at the same concurrency, in turns; what counts is the median of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.running.executor import Finished
from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.results import Exchange, Message, QueryResult, TextPart, Transcript, Usage
from chutes_opencode.settings import inherited_environment

FEW, MANY = 10_000, 100_000
CONCURRENCY = 16
PROMPT = "Name a word that rhymes with house, and say in one sentence what it means. "
ANSWER = "A word that rhymes with house is mouse: a small animal that likes cheese. " * 4
Targets = Mapping[str, tuple[float | None, float | None]]  # at least, at most
TARGETS: Targets = {
    "items_per_s": (2000.0, None),
    "memory_ratio": (None, 1.2),
    "open_s": (None, 2.0),
    "throughput_ratio": (0.9, None),
}
NAMES = {
    "items_per_s": "durable results a second",
    "peak_few_mib": f"peak MiB, {FEW:,} items",
    "peak_many_mib": f"peak MiB, {MANY:,} items",
    "memory_ratio": "ratio of the peaks",
    "open_s": "seconds to open the run again",
    "open_cpu_s": "seconds of that in which a CPU works",
    "cpu_us_per_item": "microseconds of a CPU for an item",
    "resume_s": "seconds to resume it, items checked",
    "throughput_ratio": "run_batch / amap, median",
    "batch_per_s": "prompts a second, run_batch",
    "bare_per_s": "prompts a second, amap",
}


def answer(prompt: str) -> QueryResult:
    """Return what a short prompt comes to."""
    usage = Usage(input=30, output=70, num_turns=1, num_requests=1)
    said = Message("user", (TextPart(prompt),))
    answered = Message("assistant", (TextPart(ANSWER),), usage, 0.0001, "stop", "sim/echo")
    return QueryResult(
        result=ANSWER,
        returncode=0,
        stderr="",
        stream_result=ANSWER,
        success=True,
        usage=usage,
        cost_usd=0.0001,
        model="sim/echo",
        finish_reason="stop",
        transcript=Transcript("ses", (said, answered)),
        exchanges=(Exchange(status=200, usage=usage, finish_reason="stop"),),
    )


class Instant:
    """An executor that answers at once."""

    async def run(self, task: Task) -> Finished:
        """Answer."""
        return Finished(answer(task.item.prompt))

    def places(self) -> int:
        """Tell that as many run at once as in the other measurements."""
        return CONCURRENCY

    def waiting(self) -> str:
        """Tell that nothing is waited for."""
        return ""

    async def close(self) -> None:
        """Nothing is kept."""


def write_items(path: Path, count: int) -> None:
    """Write a file of items."""
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"item-{number}", "prompt": f"{PROMPT}{number}"}) + "\n")


def work(folder: Path) -> dict[str, float]:
    """Run the folder's items at once, and tell what it took; in a process of its own."""
    began, busy = time.perf_counter(), time.process_time()
    summary = run_batch(folder / "items.jsonl", None, folder / "run", executor=Instant())
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    assert summary.done + summary.skipped == summary.total
    return {"seconds": seconds, "busy": busy, "done": summary.done, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Return the most memory that this process has ever had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)


def reopen(folder: Path) -> dict[str, float]:
    """Open the folder's run once more; in a process of its own."""
    began, busy = time.perf_counter(), time.process_time()
    with RunStore.open(folder / "run") as store:
        assert store.manifest is not None
        store.begin(store.manifest)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        assert store.totals().results
    return {"seconds": seconds, "busy": busy}


def measured(job: str, folder: Path) -> dict[str, float]:
    """Run `work` or `reopen` in a process of its own."""
    command = [sys.executable, "-m", "scripts.bench_batch", "--job", job, "--folder", str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, float] = json.loads(told)
    return figures


def measure_store(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure with the executor that answers at once."""
    few, many = folder / "few", folder / "many"
    sizes = {few: options.many // 10, many: options.many}
    for place, count in sizes.items():
        place.mkdir()
        write_items(place / "items.jsonl", count)
    small, large = measured("work", few), measured("work", many)
    opened = [measured("reopen", many) for _ in range(options.runs)]
    resumed = measured("work", many)
    return {
        "items_per_s": large["done"] / large["seconds"],
        "peak_few_mib": small["peak_mib"],
        "peak_many_mib": large["peak_mib"],
        "memory_ratio": large["peak_mib"] / small["peak_mib"],
        "cpu_us_per_item": large["busy"] / large["done"] * 1e6,
        "open_s": statistics.median(each["seconds"] for each in opened),
        "open_cpu_s": statistics.median(each["busy"] for each in opened),
        "resume_s": resumed["seconds"],
    }


def measure_engine(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure run_batch against amap, with the real opencode, in turns."""
    prompts = [f"{PROMPT}{number}" for number in range(options.prompts)]
    settings = load_settings()
    path = inherited_environment()["PATH"]
    binary = find_binary(settings.opencode_bin, path, settings.home / "opencode")
    taken: dict[str, list[float]] = {"batch": [], "bare": []}
    # Answers take a while, as a model's do: the engine is what is compared, not the simulator.
    scenario = {"rules": [{"model": "sim/echo", "first_byte_delay_s": options.service}]}
    with (
        Simulator(scenario) as simulator,
        tempfile.TemporaryDirectory(prefix="bench-home-") as home,
    ):
        os.environ.update(
            CHUTES_BASE_URL=simulator.base_url,
            CHUTES_API_TOKEN=simulator.api_token,
            CHUTES_OPENCODE_HOME=home,
            OPENCODE_BIN=str(binary.path),
        )
        with ChutesOpenCodeLLM("sim/echo", engine="serve", builtin_tools=False) as llm:

            def batch(number: int) -> None:
                out = folder / f"round-{number}"
                summary = run_batch(prompts, llm, out, concurrency=CONCURRENCY)
                assert summary.ok, summary

            def bare(_number: int) -> None:
                asyncio.run(_amap(llm, prompts))

            bare(-1)  # warms the server, and the limiter
            ways: Mapping[str, Callable[[int], None]] = {"batch": batch, "bare": bare}
            for number in range(options.rounds):
                for name in sorted(ways, reverse=bool(number % 2)):
                    began = time.perf_counter()
                    ways[name](number)
                    taken[name].append(time.perf_counter() - began)
                print(f"round {number + 1}: {_rates(taken, len(prompts))}", file=sys.stderr)
    ratios = [bare / batch for bare, batch in zip(taken["bare"], taken["batch"], strict=True)]
    return {
        "throughput_ratio": statistics.median(ratios),
        "batch_per_s": len(prompts) / statistics.median(taken["batch"]),
        "bare_per_s": len(prompts) / statistics.median(taken["bare"]),
    }


async def _amap(llm: ChutesOpenCodeLLM, prompts: list[str]) -> None:
    async for result in llm.amap(prompts, CONCURRENCY):
        assert result.success, result.error


def _rates(taken: Mapping[str, list[float]], count: int) -> str:
    return ", ".join(f"{name} {count / seconds[-1]:.1f}/s" for name, seconds in taken.items())


def kept(name: str, value: float, targets: Targets) -> bool:
    """Tell whether a figure is what was aimed at."""
    least, most = targets.get(name, (None, None))
    return (least is None or value >= least) and (most is None or value <= most)


def show(figures: Mapping[str, float], names: Mapping[str, str], targets: Targets) -> None:
    """Print the figures, and what was aimed at."""
    for name, value in figures.items():
        least, most = targets.get(name, (None, None))
        target = f"  (≥ {least:g})" if least is not None else f"  (≤ {most:g})" if most else ""
        missed = "" if kept(name, value, targets) else "  MISSED"
        print(f"{names[name]:40}{value:12,.2f}{target}{missed}")


def main() -> None:
    """Measure, print, and write JSON if asked; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items, prompts and rounds")
    parser.add_argument("--many", type=int, default=MANY, help=f"items of the long run ({MANY})")
    parser.add_argument("--runs", type=int, default=3, help="times that a run is opened (3)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds with the engine (7)")
    parser.add_argument("--prompts", type=int, default=160, help="prompts of a round (160)")
    parser.add_argument("--service", type=float, default=0.3, help="seconds of an answer (0.3)")
    parser.add_argument("--no-engine", action="store_true", help="without the real opencode")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--job", choices=("work", "reopen"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        jobs: dict[str, Callable[[Path], Any]] = {"work": work, "reopen": reopen}
        print(json.dumps(jobs[options.job](options.folder)))
        return
    if options.quick:
        options.many, options.rounds, options.prompts = MANY // 5, 3, 64
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as folder:
        figures = measure_store(Path(folder), options)
        if not options.no_engine:
            figures |= measure_engine(Path(folder), options)
    show(figures, NAMES, TARGETS)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(kept(*figure, TARGETS) for figure in figures.items()) else 1)


if __name__ == "__main__":
    main()
