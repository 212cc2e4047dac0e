"""Measure the engines: the seed's way, run, serve, direct, and the limits of what they stand on.

Each way answers the same prompts from the same simulator with the same opencode; each lives in a
process of its own, and so does the simulator. Rounds go through all ways in turns, forth and back,
so that what else the machine does hits all alike. The limits are `raw` (POST a session, POST its
message, DELETE it, at a plain `opencode serve` that talks to the simulator itself) and `bare` (the
model request alone, by one httpx client; `lean`: by a client for each prompt at once).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from chutes_opencode import load_settings
from chutes_opencode.opencode.binary import Binary, find_binary
from chutes_opencode.settings import inherited_environment
from scripts.engine_bench.figures import (
    Floor,
    Key,
    Round,
    long_answers_floor,
    percentile,
    rate_floors,
    single_floor,
)
from scripts.engine_bench.report import Results, as_json, as_text
from scripts.engine_bench.soak import run_soak, soak_text
from scripts.engine_bench.stage import Cell, Stage
from scripts.engine_bench.upstream import SLOW

CELLS = (
    Cell("seed", 1, 1, tools=True),
    Cell("run", 1, 1, tools=True),
    Cell("raw", 1, 16),
    Cell("serve", 1, 16),
    Cell("raw", 4, 48),
    Cell("serve", 4, 48),
    Cell("raw", 16, 96),
    Cell("serve", 16, 96),
    Cell("raw", 16, 64, tools=True),
    Cell("serve", 16, 64, tools=True),
    Cell("raw", 64, 192),
    Cell("serve", 64, 192),
    *(Cell(way, at, 64 + 6 * at) for at in (1, 4, 16, 64) for way in ("bare", "direct", "lean")),
)
LONG = Cell("serve", 64, 192)
SINGLES = 10
QUICK_ROUNDS = 2
QUICK_CONCURRENCIES = (1, 16)


def main() -> None:
    """Measure, print, write what is asked for; exit 1 on a missed floor or a failed prompt."""
    options = _options()
    settings = load_settings()
    installed = settings.home / "opencode"
    binary = find_binary(settings.opencode_bin, inherited_environment()["PATH"], installed)
    with tempfile.TemporaryDirectory() as folder, Stage(binary.path, Path(folder)) as stage:
        if options.soak:
            sys.exit(_soak(stage, options))
        results = _measure(stage, binary, options)
    print(as_text(results))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(results), indent=1) + "\n")
    if options.plot is not None:
        from scripts.engine_bench.plot import draw

        draw(results.figures, options.plot)
    sys.exit(
        1
        if results.errors or results.missing or not all(floor.met for floor in results.floors)
        else 0
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench engines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds through all ways (5)")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no round after these (5)")
    parser.add_argument("--quick", action="store_true", help="two short rounds, about a minute")
    parser.add_argument("--ways", default="", help="only these, such as raw,serve (all)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture, .svg or .png")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="N prompts through serve")
    parser.add_argument(
        "--catalogue-refreshes", type=int, default=0, metavar="N", help="changed lists in a soak"
    )
    return parser.parse_args()


def _cells(options: argparse.Namespace) -> list[Cell]:
    """Return what is measured in a round."""
    ways = [name for name in options.ways.split(",") if name]
    cells = [cell for cell in CELLS if not ways or cell.way in ways]
    if not options.quick:
        return cells
    some = (cell for cell in cells if cell.concurrency in QUICK_CONCURRENCIES)
    return [replace(cell, prompts=max(cell.prompts // 2, cell.concurrency)) for cell in some]


def _measure(stage: Stage, binary: Binary, options: argparse.Namespace) -> Results:
    """Go through all ways in turns, then have answers that take their time."""
    cells = _cells(options)
    missing = _warm_up(stage, cells)
    cells = [cell for cell in cells if cell.way not in missing]
    ways = {cell.way for cell in cells}
    pair = [way for way in ("raw", "serve") if {"raw", "serve"} <= ways]
    rounds: dict[Key, list[Round]] = {cell.key: [] for cell in cells}
    singles: dict[str, list[Round]] = {way: [] for way in pair}
    for number in _turns(options):
        for cell in cells if number % 2 else reversed(cells):
            rounds[cell.key].append(_told(cell, stage.measure(cell)))
        for way, taken in stage.in_turns(pair, SINGLES).items():
            singles[way].append(taken)
    floors = rate_floors(rounds)
    if pair:
        floors.append(single_floor(singles["serve"], singles["raw"]))
    if {"lean", "serve"} <= ways:
        floors.append(_long_answers(stage, options))
    return Results(_machine(binary), rounds, floors, missing)


def _warm_up(stage: Stage, cells: Sequence[Cell]) -> dict[str, str]:
    """Have each cell answer a wave of prompts; return the ways that cannot, with the reason."""
    missing: dict[str, str] = {}
    for cell in cells:
        if cell.way in missing:
            continue
        seen = stage.send(replace(cell, prompts=cell.concurrency))
        if len(seen.errors) == cell.concurrency:
            missing[cell.way] = seen.errors[0]
        say(f"warm-up: {cell.way}, {cell.concurrency} at once, {seen.seconds:.1f} s")
    return missing


def _turns(options: argparse.Namespace) -> Iterator[int]:
    """Count the rounds, as long as there is time for another."""
    began = time.monotonic()
    for number in range(1, 1 + (QUICK_ROUNDS if options.quick else options.rounds)):
        if number == 1 or time.monotonic() - began < options.minutes * 60 * (number - 1) / number:
            say(f"round {number}, {time.monotonic() - began:.0f} s")
            yield number


def _told(cell: Cell, seen: Round) -> Round:
    name, concurrency = cell.key
    say(f"  {name}, {concurrency} at once: {seen.rate:.1f} prompts/s, {len(seen.errors)} failed")
    return seen


def _long_answers(stage: Stage, options: argparse.Namespace) -> Floor:
    """Compare serve at answers of 6 s with what one such answer takes alone."""
    alone = stage.send(Cell("lean", 4, 4), SLOW)
    waves = 2 if options.quick else 3
    seen = stage.send(replace(LONG, prompts=waves * LONG.concurrency), SLOW)
    if alone.errors or seen.errors:
        sys.exit(f"long answers: {[*alone.errors, *seen.errors][0]}")
    return long_answers_floor([seen], percentile(alone.latencies, 50))


def _machine(binary: Binary) -> dict[str, object]:
    return {
        "opencode": binary.version,
        "Python": platform.python_version(),
        "CPUs": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _soak(stage: Stage, options: argparse.Namespace) -> int:
    """Send many prompts through one engine; return the exit code."""
    soak = run_soak(stage, options.soak, options.catalogue_refreshes)
    print(soak_text(soak))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(soak), indent=1) + "\n")
    return 1 if soak.errors or soak.sessions_left else 0


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
