"""Measure a prompt: the seed's way (`opencode run`, then `opencode export`) against ours.

Both ask the same simulator for the same answer with the same opencode, in turns (A B A B …) so that
what else the machine does hits both alike. The seed's way gets a home of its own that is warm, and
opencode's default settings; its config has the seed's agent and the provider.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings, parse_session_id
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.settings import inherited_environment

MODEL = "Qwen/Qwen3-32B-TEE"
PROMPT = "What is 17 + 25?"
ANSWER = "42"
TARGET_SECONDS = 0.85
TARGET_REQUESTS = 0.5


class Upstream(Protocol):
    """Where the provider's API is, and the key that it takes."""

    @property
    def base_url(self) -> str:
        """Its root, with `/v1`."""
        ...

    @property
    def api_token(self) -> str:
        """The key."""
        ...


class SeedsWay:
    """One `opencode run` and one `opencode export` for each prompt, as the seed's backend does."""

    def __init__(self, binary: Path, upstream: Upstream, folder: Path) -> None:
        """Write the config; the folder becomes home and working folder."""
        self._binary = binary
        self._folder = folder
        config = folder / "opencode_cfg.json"
        config.write_text(json.dumps(_seed_config(upstream)))
        inherited = inherited_environment()
        self._env = inherited | {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "OPENCODE_CONFIG": str(config),
            "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
            "CHUTES_API_KEY": upstream.api_token,
        }
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir()

    def prompt(self, text: str = PROMPT) -> str:
        """Ask once; return the answer."""
        arguments = ["run", "--format", "json", "--agent", "chia", "--dangerously-skip-permissions"]
        shown = self._capture(*arguments, "--model", f"chutes/{MODEL}", text)
        session_id = parse_session_id(shown)
        if session_id is None:
            sys.exit(f"the seed's way got no session: {shown[:500]}")
        export = json.loads(self._capture("export", session_id))
        parts = [part for message in export["messages"] for part in message["parts"]]
        return str([part["text"] for part in parts if part["type"] == "text"][-1])

    def _capture(self, *arguments: str) -> str:
        """Run opencode with its output in a file: a pipe would cut it."""
        with tempfile.TemporaryFile("w+", dir=self._folder) as out:
            subprocess.run(
                [str(self._binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd=self._folder / "work",
                timeout=120,
                check=True,
            )
            out.seek(0)
            return out.read()


def _seed_config(upstream: Upstream) -> dict[str, Any]:
    return {
        "$schema": "https://opencode.ai/config.json",
        "agent": {"chia": {"mode": "primary", "prompt": "You are a helpful assistant."}},
        "provider": {
            "chutes": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Chutes",
                "options": {"baseURL": upstream.base_url, "apiKey": "{env:CHUTES_API_KEY}"},
                "models": {MODEL: {"name": MODEL}},
            }
        },
    }


def measure(simulator: Simulator, ask: Callable[[], str]) -> tuple[float, int]:
    """Return the seconds and the model requests of one prompt."""
    requests, began = simulator.bill.total.requests, time.perf_counter()
    answer = ask()
    seconds = time.perf_counter() - began
    if answer.strip() != ANSWER:
        sys.exit(f"wrong answer: {answer!r}")
    return seconds, simulator.bill.total.requests - requests


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each way (5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    settings = load_settings()
    binary = find_binary(
        settings.opencode_bin, inherited_environment()["PATH"], settings.home / "opencode"
    )
    with Simulator() as simulator, tempfile.TemporaryDirectory() as folder:
        own = load_settings(
            base_url=simulator.base_url,
            api_token=simulator.api_token,
            opencode_bin=str(binary.path),
        )
        llm = ChutesOpenCodeLLM(MODEL, settings=own)
        seed = SeedsWay(binary.path, simulator, Path(folder))
        ways = {"seed": seed.prompt, "ours": lambda: llm.prompt(PROMPT).result}
        runs: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
        for number in range(options.runs + 1):
            for name, ask in ways.items():
                taken = measure(simulator, ask)
                if number:  # the first one warms up
                    runs[name].append(taken)
                print(f"  {name}: {taken[0]:.2f} s, {taken[1]} requests", file=sys.stderr)
    report(runs, binary.version, options.json)


def report(runs: dict[str, list[tuple[float, int]]], version: str, path: Path | None) -> None:
    """Print the medians and what they mean."""
    seconds = {name: statistics.median(s for s, _ in taken) for name, taken in runs.items()}
    requests = {name: statistics.median(r for _, r in taken) for name, taken in runs.items()}
    ratios = (seconds["ours"] / seconds["seed"], requests["ours"] / requests["seed"])
    print(f"opencode {version}, medians of {len(runs['ours'])} runs, in turns")
    print(f"{'':22}{'seed':>10}{'ours':>10}{'ratio':>8}{'target':>8}")
    rows = (("seconds a prompt", seconds), ("model requests", requests))
    for (name, row), ratio, target in zip(
        rows, ratios, (TARGET_SECONDS, TARGET_REQUESTS), strict=True
    ):
        verdict = "" if ratio <= target else "  MISSED"
        print(f"{name:22}{row['seed']:10.2f}{row['ours']:10.2f}{ratio:8.2f}{target:8.2f}{verdict}")
    if path is not None:
        figures = {"opencode": version, "runs": runs, "seconds": seconds, "requests": requests}
        path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
