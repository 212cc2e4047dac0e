"""Measure what a batch on Ray costs: the driver, the limiter, three nodes against the ideal.

The driver: items that are answered at once, few and many, first by an executor in the driver's own
process (what `run_batch` costs), then by workers on Ray (what they cost on top). Each run has a
driver process of its own. The nodes: answers of three seconds, 16 at a time on each, with the real
opencode and with engine direct; they share this machine's processors, which a cluster's nodes do
not. The permits: a limiter's actor and clients in other processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chutes_opencode import Simulator, load_settings
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.settings import inherited_environment
from scripts import bench_batch
from scripts.distributed_bench.cluster import cluster, driven, heaviest_worker

FEW, MANY, MANY_ON_RAY = 10_000, 1_000_000, 100_000
NODES, SECONDS, WAVES = 3, 3.0, 20
MIB = 1 << 20
TARGETS: bench_batch.Targets = {
    "driver_bytes_per_item": (None, 64.0),
    "ray_driver_bytes_per_item": (None, 256.0),
    "permits_per_s": (100_000.0, None),
    "serve_share": (0.9, None),
    "direct_share": (0.9, None),
}
NAMES = {
    "driver_few_mib": "driver's peak MiB, few items",
    "driver_many_mib": "driver's peak MiB, many items",
    "driver_bytes_per_item": "bytes of it for an item more",
    "driver_per_s": "prompts a second, many items",
    "driver_cpu_us": "microseconds of a CPU for an item more",
    "ray_driver_few_mib": "on Ray: driver's peak MiB, few items",
    "ray_driver_many_mib": "on Ray: the same, many items",
    "ray_driver_bytes_per_item": "on Ray: bytes of it for an item more",
    "ray_driver_per_s": "on Ray: prompts a second, many items",
    "ray_driver_cpu_us": "on Ray: microseconds of its CPU for that",
    "permits_per_s": "permits a second of one limiter actor",
    "permit_calls_per_s": "calls of it for that, a second",
    "serve_per_s": "three nodes, opencode: prompts a second",
    "serve_share": "three nodes, opencode: share of ideal",
    "serve_least": "three nodes, opencode: least of a node",
    "worker_mib": "a worker's peak MiB, its opencode included",
    "direct_per_s": "three nodes, direct: prompts a second",
    "direct_share": "three nodes, direct: share of ideal",
    "direct_least": "three nodes, direct: least of a node",
}

Figures = dict[str, float]


def measure_driver(folder: Path, options: argparse.Namespace) -> Figures:
    """Measure batches whose executor is in the driver's process."""
    seen = {count: _sized(folder, count, _alone) for count in (options.few, options.many)}
    return _memory("driver", seen)


def _alone(folder: Path) -> Figures:
    return bench_batch.measured("work", folder)


def measure_ray_driver(folder: Path, options: argparse.Namespace) -> Figures:
    """Measure batches whose prompts run on workers that answer at once."""
    with Simulator() as simulator, cluster(1, _variables(simulator, folder)) as address:

        def on_ray(place: Path) -> Figures:
            return driven(address, "instant", place)

        counts = (options.few, options.many_on_ray)
        seen = {count: _sized(folder, count, on_ray) for count in counts}
    return _memory("ray_driver", seen)


def _sized(folder: Path, count: int, measure: Callable[[Path], Figures]) -> Figures:
    """Measure a batch of so many items; its folder, some kilobytes for each, is removed."""
    say(f"{count:,} items")
    place = folder / f"items-{count}"
    place.mkdir()
    bench_batch.write_items(place / "items.jsonl", count)
    try:
        return measure(place)
    finally:
        shutil.rmtree(place)


def _memory(name: str, seen: Mapping[int, Figures]) -> Figures:
    (few, small), (many, large) = seen.items()
    grown = (large["peak_mib"] - small["peak_mib"]) * MIB
    return {
        f"{name}_few_mib": small["peak_mib"],
        f"{name}_many_mib": large["peak_mib"],
        f"{name}_bytes_per_item": grown / (many - few),
        f"{name}_per_s": large["done"] / large["seconds"],
        f"{name}_cpu_us": (large["busy"] - small["busy"]) / (many - few) * 1e6,
    }


def _variables(simulator: Simulator, folder: Path) -> dict[str, str]:
    """Return the environment of nodes and drivers."""
    settings = load_settings()
    path = inherited_environment()["PATH"]
    binary = find_binary(settings.opencode_bin, path, settings.home / "opencode")
    return {
        "CHUTES_BASE_URL": simulator.base_url,
        "CHUTES_API_TOKEN": simulator.api_token,
        "CHUTES_OPENCODE_HOME": str(folder / "home"),
        "OPENCODE_BIN": str(binary.path),
    }


def measure_nodes(folder: Path, options: argparse.Namespace) -> Figures:
    """Measure how much of the ideal rate three nodes reach."""
    scenario = {"rules": [{"model": "sim/echo", "first_byte_delay_s": SECONDS}]}
    figures: Figures = {}
    with (
        Simulator(scenario) as simulator,
        cluster(NODES, _variables(simulator, folder)) as address,
    ):
        for engine in ("serve", "direct"):
            say(f"three nodes, engine {engine}")
            place = folder / engine
            place.mkdir()
            seen = driven(address, "waves", place, NODES, options.waves, engine)
            rate = seen["done"] / seen["seconds"]
            figures |= {
                f"{engine}_per_s": rate,
                f"{engine}_share": rate * SECONDS / seen["places"],
                f"{engine}_least": seen["least"],
            }
        say("what a worker takes")
        place = folder / "memory"
        place.mkdir()
        # Not beside the rate: to look at all processes takes a fifth of a core.
        with heaviest_worker() as peaks:
            driven(address, "waves", place, NODES, 1, "serve")
        figures["worker_mib"] = peaks[0]
    return figures


def measure_permits(_folder: Path, options: argparse.Namespace) -> Figures:
    """Measure how many permits a limiter's actor gives to clients in other processes."""
    say(f"permits, {options.clients} clients")
    with cluster(1, {}) as address:
        return driven(address, "permits", options.clients, options.permit_seconds)


def _permits(clients: int, seconds: float) -> Figures:
    import ray

    from scripts.distributed_bench.limiter import measure_limiter

    ray.init(log_to_driver=False)
    seen = measure_limiter(clients=clients, seconds=seconds)
    return {
        "permits_per_s": seen.permits_per_second,
        "permit_calls_per_s": seen.calls / seen.seconds,
    }


def _job(name: str, *arguments: str) -> Figures:
    """Do what a driver of `driven` is asked for."""
    from scripts.distributed_bench import driver

    if name == "instant":
        return driver.run_instant(Path(*arguments))
    if name == "permits":
        clients, seconds = arguments
        return _permits(int(clients), float(seconds))
    folder, workers, waves, engine = arguments
    return driver.run_waves(Path(folder), int(workers), int(waves), engine)


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print, and write JSON if asked; exit 1 when a target is missed."""
    options = _options()
    if options.job:
        print(json.dumps(_job(*options.job)))
        return
    parts = {
        "driver": measure_driver,
        "ray": measure_ray_driver,
        "permits": measure_permits,
        "nodes": measure_nodes,
    }
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-distributed-") as folder:
        for name, measure in parts.items():
            if options.only in ("", name):
                place = Path(folder) / name
                place.mkdir()
                figures |= measure(place, options)
    bench_batch.show(figures, NAMES, TARGETS)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(bench_batch.kept(*each, TARGETS) for each in figures.items()) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench distributed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and waves: a minute")
    parser.add_argument("--few", type=int, default=FEW, help=f"items of short runs ({FEW})")
    parser.add_argument("--many", type=int, default=MANY, help=f"items of the long run ({MANY})")
    parser.add_argument(
        "--many-on-ray", type=int, default=MANY_ON_RAY, help=f"the same on Ray ({MANY_ON_RAY})"
    )
    parser.add_argument("--waves", type=int, default=WAVES, help=f"answers of each place ({WAVES})")
    parser.add_argument("--only", default="", help="one part: driver, ray, permits or nodes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.clients, options.permit_seconds = 4, 1.0 if options.quick else 5.0
    if options.quick:
        options.few, options.many, options.many_on_ray = FEW // 5, FEW * 2, FEW
        options.waves = 3
    return options


if __name__ == "__main__":
    main()
