"""Measure what starting costs: `import chutes_opencode`, and `chutes-opencode --version`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BASE = "import pydantic, httpx"
# The second is what a script pays before its first prompt; the budget is for the first.
COMMANDS = {
    "pydantic, httpx": [sys.executable, "-c", BASE],
    "+ chutes_opencode": [sys.executable, "-c", f"{BASE}; import chutes_opencode"],
    "+ ChutesOpenCodeLLM": [
        sys.executable,
        "-c",
        f"{BASE}; from chutes_opencode import ChutesOpenCodeLLM",
    ],
    "--version": [str(Path(sys.executable).with_name("chutes-opencode")), "--version"],
}
TARGET_IMPORT_SECONDS = 0.150
TARGET_VERSION_SECONDS = 0.4


def main() -> None:
    """Measure in turns, print medians, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="runs of each command (9)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.runs + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:  # the first one warms the caches
                runs[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(taken) for name, taken in runs.items()}
    base = medians["pydantic, httpx"]
    print(f"medians of {options.runs} fresh processes, in turns")
    for name, seconds in medians.items():
        above = f"  ({(seconds - base) * 1000:+.0f} ms)" if name.startswith("+") else ""
        print(f"{name:22}{seconds * 1000:8.0f} ms{above}")
    above_base = medians["+ chutes_opencode"] - base
    print(_held("import", above_base, TARGET_IMPORT_SECONDS))
    print(_held("--version", medians["--version"], TARGET_VERSION_SECONDS))
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


def _held(name: str, seconds: float, target: float) -> str:
    verdict = "within" if seconds <= target else "MISSED:"
    return f"{name}: {seconds * 1000:.0f} ms, {verdict} {target * 1000:.0f} ms"


if __name__ == "__main__":
    main()
