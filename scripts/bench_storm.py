"""Measure a storm: many prompts at once against an account with narrow limits.

The simulator lets a few requests run at once and a number go in a minute; all prompts are sent
through one relay at the same moment. Reported are the requests that it took, the waits, and the
whole time against what the limits allow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from chutes_opencode import Simulator
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import Terms, Upstream

MODEL = "sim/echo"
MINUTE = 60.0
# Ratios: requests to prompts, longest to median wait, whole time to the time that is allowed.
TARGETS = {"requests": 1.3, "longest wait": 3.0, "whole time": 1.25}


async def storm(
    simulator: Simulator, relay: Relay, prompts: int
) -> tuple[list[float], list[httpx.Response]]:
    """Send all prompts at once; return how long each took, in seconds, and its answer."""
    upstream = Upstream("chutes", simulator.base_url, lambda: simulator.api_token)
    terms = Terms(upstream, {MODEL: None}, MODEL)
    limits = httpx.Limits(max_connections=None)
    with relay.lease() as lease:
        async with httpx.AsyncClient(trust_env=False, timeout=None, limits=limits) as client:
            asked = [_ask(client, relay, lease, terms, number) for number in range(prompts)]
            done = await asyncio.gather(*asked)
    return [seconds for seconds, _ in done], [answer for _, answer in done]


async def _ask(
    client: httpx.AsyncClient, relay: Relay, lease: Lease, terms: Terms, number: int
) -> tuple[float, httpx.Response]:
    session = f"ses_{number}"
    booking = lease.open(terms, session)
    headers = {"authorization": f"Bearer {lease.key}", "x-session-id": session}
    messages = [{"role": "user", "content": f"number {number}"}]
    body = {"model": MODEL, "stream": True, "messages": messages}
    began = time.monotonic()
    answer = await client.post(f"{relay.url}/chat/completions", headers=headers, json=body)
    seconds = time.monotonic() - began
    await booking.aclose()
    return seconds, answer


def measure(options: argparse.Namespace) -> Mapping[str, float]:
    """Run the storm and return its figures."""
    delay = {"model": MODEL, "first_byte_delay_s": options.service}
    scenario = {
        "max_concurrency": options.places,
        "requests_per_minute": options.per_minute,
        "rules": [delay],
    }
    began = time.monotonic()
    with Simulator(scenario) as simulator, Relay() as relay:
        waits, answers = asyncio.run(storm(simulator, relay, options.prompts))
        requests = len(simulator.requests)
    allowed = MINUTE * ((options.prompts - 1) // options.per_minute)
    allowed = max(allowed, options.prompts * options.service / options.places)
    return {
        "prompts": options.prompts,
        "succeeded": sum(answer.text.rstrip().endswith("[DONE]") for answer in answers),
        "requests": requests / options.prompts,
        "longest wait": max(waits) / statistics.median(waits),
        "whole time": (time.monotonic() - began) / allowed,
        "median_s": statistics.median(waits),
        "longest_s": max(waits),
        "allowed_s": allowed,
    }


def main() -> None:
    """Measure once, print the figures, and write JSON if asked; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="prompts at once (100)")
    parser.add_argument("--places", type=int, default=4, help="requests that may run at once (4)")
    parser.add_argument("--per-minute", type=int, default=60, help="requests in a minute (60)")
    parser.add_argument("--service", type=float, default=0.3, help="seconds of an answer (0.3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = measure(options)
    print(f"{figures['succeeded']:.0f} of {figures['prompts']:.0f} prompts succeeded")
    print(f"waits: median {figures['median_s']:.1f} s, longest {figures['longest_s']:.1f} s")
    print(f"{'ratio':16}{'seen':>8}{'target':>8}")
    for name, target in TARGETS.items():
        missed = "  MISSED" if figures[name] > target else ""
        print(f"{name:16}{figures[name]:8.2f}{target:8.2f}{missed}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    kept = all(figures[name] <= target for name, target in TARGETS.items())
    sys.exit(0 if kept and figures["succeeded"] == figures["prompts"] else 1)


if __name__ == "__main__":
    main()
