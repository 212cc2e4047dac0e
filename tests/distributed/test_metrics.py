"""What prompts came to, as a node's metrics endpoint tells it to Prometheus."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import httpx
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chutes_opencode.distributed.metrics import PromptMetrics
from chutes_opencode.errors import RateLimitError
from chutes_opencode.results import Attempt, QueryResult, Usage
from tests.distributed.nodes import Nodes
from tests.patience import WAIT_SECONDS, wait_until

# Names of their own: prompts of other tests are counted on the same nodes.
MODEL = "sim/counted-when-good"
OTHER = "sim/counted-when-bad"
GOOD = QueryResult(
    result="Paris",
    returncode=0,
    stderr="",
    stream_result="",
    success=True,
    usage=Usage(input=100, output=40, reasoning=5, cache_read=23),
    cost_usd=0.25,
    model=MODEL,
    attempts=(Attempt(1, "serve", waited_s=1.5),),
    duration_s=4.0,
    queued_s=0.5,
)
BAD = QueryResult(
    result="",
    returncode=1,
    stderr="",
    stream_result="",
    error=RateLimitError(reset_time=datetime.now(UTC), raw_message="slow down"),
    model=OTHER,
    duration_s=70.0,
)
EXPECTED = {
    ("prompts_total", MODEL, "ok"): 2,
    ("prompts_total", OTHER, "failed", "RateLimitError"): 1,
    ("tokens_total", MODEL, "input"): 200,
    ("tokens_total", MODEL, "output"): 80,
    ("tokens_total", MODEL, "reasoning"): 10,
    ("tokens_total", MODEL, "cache_read"): 46,
    ("cost_usd_total", MODEL): 0.5,
    # Not the sums: Ray takes each value of a histogram for the middle of its bucket.
    ("wait_seconds_bucket", MODEL, "1.0"): 0,
    ("wait_seconds_bucket", MODEL, "3.0"): 2,
    ("duration_seconds_bucket", MODEL, "3.0"): 0,
    ("duration_seconds_bucket", MODEL, "10.0"): 2,
    ("duration_seconds_bucket", OTHER, "60.0"): 0,
    ("duration_seconds_count", OTHER): 1,
}


@ray.remote(num_cpus=0.1)
class Observer:
    def __init__(self) -> None:
        self._metrics = PromptMetrics()

    def observe(self, *results: Any) -> None:
        for result in results:
            self._metrics.observe(result)


def values(text: str) -> dict[tuple[str, ...], float]:
    """Return our metrics by their name and our own tags' values."""
    found = {}
    for name, tags, value in re.findall(r"^ray_chutes_opencode_(\w+){(.*)} (\S+)$", text, re.M):
        own = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        known = (own.get(key) for key in ("model", "status", "error_class", "kind", "le"))
        found[(name, *(tag for tag in known if tag))] = float(value)
    return found


def test_a_nodes_endpoint_tells_what_its_prompts_came_to(nodes: Nodes) -> None:
    untyped: Any = ray
    [node] = [each for each in untyped.nodes() if each["NodeID"] == nodes.ids[1]]
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    actor: Any = Observer
    observer = actor.options(scheduling_strategy=place).remote()

    ray.get(observer.observe.remote(GOOD, GOOD, BAD), timeout=WAIT_SECONDS)

    def told() -> dict[tuple[str, ...], float]:
        return values(httpx.get(url, trust_env=False).text)

    def expected() -> dict[tuple[str, ...], float | None]:
        seen = told()
        return {name: seen.get(name) for name in EXPECTED}

    # Ray tells every so often what it has, and maybe in the midst of these three.
    wait_until(lambda: expected() == EXPECTED, pause=0.5)
    assert ("tokens_total", MODEL, "cache_write") not in told()
    ray.kill(observer)
