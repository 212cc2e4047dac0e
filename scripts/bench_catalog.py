"""Measure the catalogue: a look-up, warm and from disk; a first fetch; 5,000 models into a config.

The server is the embedded simulator. A look-up from disk is the first one of a new instance, a
first fetch that of an empty home; both are compared with what the issue allows.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from chutes_opencode import Simulator, background
from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import parse_models
from chutes_opencode.catalog.providers import Provider, find_provider
from chutes_opencode.opencode.config import Target, build_config, key_placeholder, render_config
from chutes_opencode.request import PromptRequest

ROWS = 5000
# Milliseconds.
TARGETS = {
    "look-up, warm": 1.0,
    "look-up, from disk": 10.0,
    "first fetch, above the server's time": 50.0,
    "5,000 models into a config": 200.0,
}


class Bench:
    """What is measured; each method does it once and returns milliseconds."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        """Fill one cache for the look-ups, and make rows for the config."""
        self._provider: Provider = find_provider("chutes")
        self._url, self._key = simulator.base_url, simulator.api_token
        self._folder = folder
        self._homes = 0
        self._client = httpx.Client(trust_env=False)
        self._kept = self._lookup(folder / "kept")
        _listed(self._kept)
        rows: list[dict[str, Any]] = self._client.get(f"{self._url}/models").json()["data"]
        many = [{**rows[n % len(rows)], "id": f"maker/model-{n}"} for n in range(ROWS)]
        self._body = json.dumps({"data": many}).encode()

    def warm(self) -> float:
        """Look up in a process that has looked up before."""
        return _milliseconds(lambda: _listed(self._kept))

    def from_disk(self) -> float:
        """Look up for the first time, with a list on disk."""
        lookup = self._lookup(self._folder / "kept")
        return _milliseconds(lambda: _listed(lookup))

    def first_fetch(self) -> float:
        """Look up where there is no list, less what a plain request of the list takes."""
        self._homes += 1
        lookup = self._lookup(self._folder / f"home-{self._homes}")
        plain = _milliseconds(lambda: self._client.get(f"{self._url}/models"))
        return _milliseconds(lambda: _listed(lookup)) - plain

    def into_config(self) -> float:
        """Read the body of a long list and write opencode's config with it."""
        return _milliseconds(self._write_config)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _write_config(self) -> None:
        models = parse_models(json.loads(self._body), quirks=self._provider.quirks).models
        assert len(models) == ROWS
        key = key_placeholder()
        target = Target(self._provider, self._url, models)
        request = PromptRequest("hello", models[0].id)
        config = build_config(request, target, plugin=self._folder / "guard.js", key=key)
        (self._folder / "opencode.json").write_text(render_config(config, key=key))

    def _lookup(self, home: Path) -> ModelLookup:
        cache = Cache(home, self._provider.id, self._url)
        return ModelLookup(self._provider, self._url, cache=cache, key=lambda: self._key)


def _listed(lookup: ModelLookup) -> None:
    """Look up as a caller without an event loop does."""
    listing = background.Job(lookup.listing()).result()
    if not listing or listing.problems:
        sys.exit(f"no list: {listing.problems}")


def _milliseconds(work: Callable[[], object]) -> float:
    gc.collect()  # what earlier runs have left is not this one's
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


@contextmanager
def _bench() -> Iterator[Bench]:
    with Simulator() as simulator, tempfile.TemporaryDirectory() as folder:
        bench = Bench(simulator, Path(folder))
        try:
            yield bench
        finally:
            bench.close()


def main() -> None:
    """Measure in turns, print medians, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="runs of each (9)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    runs: dict[str, list[float]] = {name: [] for name in TARGETS}
    with _bench() as bench:
        ways = (bench.warm, bench.from_disk, bench.first_fetch, bench.into_config)
        for number in range(options.runs + 1):
            for name, way in zip(TARGETS, ways, strict=True):
                taken = way()
                if number:  # the first one warms up
                    runs[name].append(taken)
    report(runs)
    if options.json is not None:
        options.json.write_text(json.dumps({"unit": "ms", "runs": runs}, indent=1) + "\n")


def report(runs: dict[str, list[float]]) -> None:
    """Print the medians, the slowest runs, and whether they are within what is allowed."""
    print(f"milliseconds, {len(next(iter(runs.values())))} runs of each, in turns")
    print(f"{'':38}{'median':>9}{'slowest':>9}{'target':>9}")
    for name, target in TARGETS.items():
        median, slowest = statistics.median(runs[name]), max(runs[name])
        verdict = "" if median <= target else "  MISSED"
        print(f"{name:38}{median:9.2f}{slowest:9.2f}{target:9.0f}{verdict}")


if __name__ == "__main__":
    main()
