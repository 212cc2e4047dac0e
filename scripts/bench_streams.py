"""Measure whether prompts keep the pace of their providers' streams.

So many prompts at once are answered, each with one token after the other, as models write them.
Reported are how much longer than its stream an answer takes, and what a hundred tokens cost on the
processor: opencode's part, and ours with the relay's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.settings import inherited_environment
from scripts.engine_bench.trees import measured
from scripts.engine_bench.worker import Worker, receive

MODEL = "sim/echo"
WORD = "word "  # one chunk, and by its length about one token


def run_simulator(connection: Connection, pause_s: float) -> None:
    """Be the provider: tell the address and the key, go on until the pipe ends."""
    rule = {"model": MODEL, "token_delay_s": pause_s, "chunk_size": len(WORD)}
    with Simulator({"rules": [rule]}) as simulator:
        connection.send((simulator.base_url, simulator.api_token))
        receive(connection)


def run_prompts(connection: Connection, url: str, key: str, binary: str, home: str) -> None:
    """Be who asks: so many prompts at once of so many tokens; tell how long each took."""
    settings = load_settings(base_url=url, api_token=key, opencode_bin=binary, home=home)
    with ChutesOpenCodeLLM(MODEL, settings=settings, engine="serve", builtin_tools=False) as llm:
        asyncio.run(_ask(llm, 1, 1))  # the engine has started now
        connection.send(None)
        while (asked := receive(connection)) is not None:
            connection.send(asyncio.run(_ask(llm, *asked)))


async def _ask(llm: ChutesOpenCodeLLM, count: int, tokens: int) -> list[float]:
    async def one(number: int) -> float:
        prompt = f"{number:04} " + WORD * tokens
        began = time.monotonic()
        result = await llm.aprompt(prompt)
        seconds = time.monotonic() - began
        assert result.result.strip() == prompt.strip()
        return seconds

    return await asyncio.gather(*map(one, range(count)))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Ask all prompts once, after a few short ones that warm up; return the figures."""
    settings = load_settings()
    path = inherited_environment()["PATH"]
    binary = find_binary(settings.opencode_bin, path, settings.home / "opencode").path
    pause_s = 1 / options.pace
    patience = options.tokens * pause_s * 20 + 60
    with (
        tempfile.TemporaryDirectory(prefix="bench-streams-") as home,
        Worker(run_simulator, pause_s) as provider,
        Worker(run_prompts, *provider.greeting, str(binary), home) as asker,
    ):
        asker.ask((options.prompts, 10), patience)
        with measured(asker.pid) as use:
            seconds = asker.ask((options.prompts, options.tokens), patience)
    hundreds = options.prompts * options.tokens / 100
    return {
        "prompts": options.prompts,
        "tokens_per_s": options.pace,
        "stream_s": options.tokens * pause_s,
        "median_s": statistics.median(seconds),
        "pace": statistics.median(seconds) / (options.tokens * pause_s),
        "opencode_cpu_ms": (use.cpu_seconds - use.root_cpu_seconds) / hundreds * 1000,
        "own_cpu_ms": use.root_cpu_seconds / hundreds * 1000,
    }


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="scripts/bench streams", description=__doc__)
    parser.add_argument("--prompts", type=int, default=16, help="prompts at once (16)")
    parser.add_argument("--tokens", type=int, default=500, help="tokens of an answer (500)")
    parser.add_argument("--pace", type=float, default=50.0, help="tokens a second of a stream (50)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = measure(options)
    print(
        f"{options.prompts} streams of {options.tokens} tokens, {options.pace:g} a second each: "
        f"{figures['stream_s']:.1f} s; an answer took {figures['median_s']:.1f} s (median), "
        f"{figures['pace']:.2f} times as long"
    )
    print(
        f"CPU for a hundred tokens: opencode {figures['opencode_cpu_ms']:.0f} ms, "
        f"this package {figures['own_cpu_ms']:.0f} ms"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
