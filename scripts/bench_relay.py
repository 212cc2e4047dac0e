"""Measure the relay against the direct way: first byte, throughput, memory of a long stream.

Three processes, as in real life: the simulator, the relay (in a caller's process), the client (in
opencode's place). Both ways are taken in turns (direct, relay, direct …), so that what else the
machine does hits both alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

TARGET_FIRST_BYTE_MS = 3.0
TARGET_THROUGHPUT_LOSS = 0.05
TARGET_MEMORY_MIB = 16.0
STREAM_MIB = 64
CONCURRENCY = 16

FAST = "sim/echo"
REALISTIC = "sim/arithmetic"  # 0.3 s to the first byte, then about 20 chunks in 0.6 s
LONG = "sim/size/48000000"  # with the envelope of each chunk a little over 64 MiB
SESSION = "ses_bench"
SCENARIO = {
    "rules": [
        {"model": REALISTIC, "reply": "echo", "first_byte_delay_s": 0.3, "token_delay_s": 0.03},
        {"model": LONG, "chunk_size": 512},
    ]
}
MIB = 1024 * 1024
_WORDS = "The quick brown fox jumps over the lazy dog. "


@dataclass(frozen=True)
class Way:
    """Where to send requests, and with which key."""

    url: str
    key: str


class Connection:
    """A connection that is kept; answers are read as they come."""

    def __init__(self, way: Way) -> None:
        """Connect with the first request."""
        address = urlsplit(way.url)
        assert address.hostname is not None
        self._path = f"{address.path}/chat/completions"
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
        self._headers = {
            "authorization": f"Bearer {way.key}",
            "content-type": "application/json",
            "x-session-id": SESSION,
        }

    def ask(self, model: str, prompt: str) -> tuple[float, int]:
        """Ask once; return the seconds to the first byte of the body, and the body's bytes."""
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps({"model": model, "messages": messages, "stream": True})
        began = time.perf_counter()
        self._connection.request("POST", self._path, body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read1(MIB)
        first, size, tail = time.perf_counter() - began, len(data), data[-64:]
        while data := answer.read1(MIB):
            size += len(data)
            tail = (tail + data)[-64:]
        if answer.status != 200 or b"[DONE]" not in tail:
            sys.exit(f"no whole answer: {answer.status} {tail!r}")
        return first, size

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def first_bytes(ways: dict[str, Way], runs: int) -> dict[str, float]:
    """Return the median milliseconds to the first byte, one request at a time."""
    connections = {name: Connection(way) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs + 10):
        for name, connection in connections.items():
            seconds, _ = connection.ask(FAST, _WORDS * 200)  # 9 KB, as opencode's with tools
            if number >= 10:  # the first ones warm up
                taken[name].append(seconds * 1000)
    for connection in connections.values():
        connection.close()
    return {name: statistics.median(each) for name, each in taken.items()}


def throughputs(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Return the median requests a second at concurrency 16, of a model that takes its time."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            rate = _throughput(way, requests=3)
            if number:
                rates[name].append(rate)
    return {name: statistics.median(each) for name, each in rates.items()}


def _throughput(way: Way, requests: int) -> float:
    """Sixteen clients, each with a connection of its own, ask one request after the other."""

    def client(_number: int) -> None:
        connection = Connection(way)
        for _ in range(requests):
            connection.ask(REALISTIC, _WORDS * 10)
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(client, range(CONCURRENCY)))
    return CONCURRENCY * requests / (time.perf_counter() - began)


def long_stream(way: Way, relay: psutil.Process) -> dict[str, float]:
    """Return MiB streamed, MiB a second, and MiB by which the relay's memory grew meanwhile."""
    connection = Connection(way)
    connection.ask(FAST, "warm up")
    with _peak_memory(relay) as peak:
        before, began = relay.memory_info().rss, time.perf_counter()
        _, size = connection.ask(LONG, "go on")
        seconds = time.perf_counter() - began
    connection.close()
    mib = size / MIB
    if mib < STREAM_MIB:
        sys.exit(f"the long stream had only {mib:.1f} MiB")
    return {"mib": mib, "mib_per_s": mib / seconds, "grown_mib": (peak() - before) / MIB}


@contextmanager
def _peak_memory(process: psutil.Process) -> Iterator[Callable[[], int]]:
    """Watch a process's memory; the function that is yielded tells the most that was seen."""
    stop, seen = threading.Event(), [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(0.05):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen)
    finally:
        stop.set()
        watcher.join()


@contextmanager
def started(*arguments: str, stdin: str = "") -> Iterator[tuple[dict[str, Any], psutil.Process]]:
    """Run Python in a process of its own; yield the JSON line that it prints when it is ready."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(stdin + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{arguments} did not start")
        yield json.loads(line), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def run_relay() -> None:
    """Be the relay: read the upstream's URL and key, tell our own, serve until the input ends."""
    from chutes_opencode.catalog.models import Price
    from chutes_opencode.relay.server import Relay
    from chutes_opencode.relay.terms import Terms, Upstream

    upstream = json.loads(sys.stdin.readline())
    terms = Terms(
        upstream=Upstream("simulator", upstream["base_url"], lambda: str(upstream["api_token"])),
        prices=dict.fromkeys((FAST, REALISTIC, LONG), Price(1.0, 1.0)),
        model=FAST,
        max_requests=1_000_000,
    )
    with Relay() as relay, relay.lease() as lease:
        lease.open(terms, session_id=SESSION)
        print(json.dumps({"url": relay.url, "key": lease.key}), flush=True)
        sys.stdin.read()


def report(first: dict[str, float], rate: dict[str, float], stream: dict[str, float]) -> bool:
    """Print the figures and what they mean; tell whether all targets are met."""
    added_ms = first["relay"] - first["direct"]
    loss = 1 - rate["relay"] / rate["direct"]
    rows = (
        ("first byte, ms (median)", first, f"{added_ms:+.2f}", f"{TARGET_FIRST_BYTE_MS:+.2f}"),
        (f"requests/s at {CONCURRENCY}", rate, f"{-loss:+.1%}", f"{-TARGET_THROUGHPUT_LOSS:+.1%}"),
    )
    met = (added_ms <= TARGET_FIRST_BYTE_MS, loss <= TARGET_THROUGHPUT_LOSS)
    print(f"{'':26}{'direct':>10}{'relay':>10}{'change':>10}{'target':>10}")
    for (name, row, change, target), good in zip(rows, met, strict=True):
        verdict = "" if good else "  MISSED"
        direct, relay = row["direct"], row["relay"]
        print(f"{name:26}{direct:10.2f}{relay:10.2f}{change:>10}{target:>10}{verdict}")
    constant = stream["grown_mib"] <= TARGET_MEMORY_MIB
    print(
        f"{stream['mib']:.0f} MiB streamed at {stream['mib_per_s']:.1f} MiB/s; the relay's memory "
        f"grew by {stream['grown_mib']:.1f} MiB (target {TARGET_MEMORY_MIB:.0f})"
        f"{'' if constant else '  MISSED'}"
    )
    return all(met) and constant


def main() -> None:
    """Measure, print, and write JSON if asked; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="first bytes of each way (200)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 48 requests each way (5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--relay", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        run_relay()
        return
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scenario.json"
        scenario.write_text(json.dumps(SCENARIO))
        command = ("-m", "chutes_opencode", "simulator", "--json", "--scenario", str(scenario))
        with (
            started(*command) as (simulator, _),
            started(__file__, "--relay", stdin=json.dumps(simulator)) as (relay, process),
        ):
            direct = Way(simulator["base_url"], simulator["api_token"])
            ways = {"direct": direct, "relay": Way(relay["url"], relay["key"])}
            first = first_bytes(ways, options.runs)
            rate = throughputs(ways, options.rounds)
            stream = long_stream(ways["relay"], process)
    met = report(first, rate, stream)
    if options.json is not None:
        figures = {"first_byte_ms": first, "requests_per_s": rate, "stream": stream, "met": met}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
